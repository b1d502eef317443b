"""A work directory is of one run: a new run in the folder of an old one is refused, or the old one is removed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from string import Formatter
from typing import Any

from mmengine.config import Config

from mixedae.engine.resume import last_named

CHECKPOINT = r'(iter|epoch)_\d+'


def checkpoints_of_run(cfg: Config) -> list[Path]:
    """Checkpoints that a run with this config writes, or has written, into its folders; the newest file last.

    Those at intervals (also under the ``filename_tmpl`` of the config), the best, what is published of them, and the
    one that ``last_checkpoint`` names. Other files, such as weights that someone put there, are none of them. The
    folders are the work directory and, with ``out_dir`` of the checkpoint hook, the one of the same name in there.
    """
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    folders = [Path(cfg.work_dir)]
    if hook.get('out_dir') and '://' not in str(hook['out_dir']):
        folders.append(Path(hook['out_dir']) / Path(cfg.work_dir).name)
    names = [rf'(best_.+_)?{CHECKPOINT}(-[0-9a-f]{{8}})?\.pth']
    if hook.get('filename_tmpl'):
        parts = Formatter().parse(hook['filename_tmpl'])
        names.append(''.join(re.escape(text) + (r'\d+' if field is not None else '') for text, field, _, _ in parts))
    entries = [path for folder in folders for path in folder.glob('*')]
    found = [path for path in entries if any(re.fullmatch(name, path.name) for name in names)]
    last = last_named(folders[0])
    inside = last is not None and last.parent.resolve() in {folder.resolve() for folder in folders}
    if inside and last.resolve() not in {path.resolve() for path in found}:
        found.append(last)
    return sorted((path for path in found if path.is_file()), key=lambda path: (path.stat().st_mtime_ns, path.name))


def check_new_run(cfg: Config, overwrite: bool = False) -> None:
    """Nothing stands in the way of a run that starts at the beginning; one that resumes is not looked at.

    Args:
        cfg: the config as it will be run.
        overwrite: the old run's checkpoints are to be removed (:func:`remove_run`).

    Raises:
        FileExistsError: the work directory holds a run.
        ValueError: the config starts from a checkpoint that would be removed.
    """
    found = [] if cfg.get('resume') else checkpoints_of_run(cfg)
    if not found:
        return
    if not overwrite:
        last = last_named(cfg.work_dir)
        newest = last if last in found else found[-1]
        raise FileExistsError(
            f'{cfg.work_dir} holds a run already ({newest.name}): give another --work-dir, go on with it by --resume, '
            'or start anew with --overwrite, which removes its checkpoints.'
        )
    names, files = {path.name for path in found}, {path.resolve() for path in found}
    for text in _texts(cfg.to_dict()):
        if os.path.basename(text) in names and Path(text).expanduser().resolve() in files:
            raise ValueError(f'--overwrite would remove {text}, which this run starts from: give another --work-dir.')


def remove_run(cfg: Config) -> list[str]:
    """Removes the checkpoints of the run that was in the work directory, and ``last_checkpoint``; logs stay.

    Returns:
        Names of the checkpoints.
    """
    found = checkpoints_of_run(cfg)
    for path in found:
        path.unlink()
    (Path(cfg.work_dir) / 'last_checkpoint').unlink(missing_ok=True)
    return [path.name for path in found]


def _texts(node: Any) -> Iterator[str]:
    """All texts in a config."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for value in node.values():
            yield from _texts(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _texts(value)
