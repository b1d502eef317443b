"""A work directory is of one run: a new run in the folder of an old one is refused, or the old one is removed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mixedae.engine.resume import last_named

CHECKPOINT = r'(iter|epoch)_\d+'


def checkpoints_of_run(cfg: Config) -> list[Path]:
    """Checkpoints that a run with this config writes, or has written, into its work directory; the newest file last.

    Those at intervals (also under the ``filename_tmpl`` of the config), the best, what is published of them, and the
    one that ``last_checkpoint`` names. Other files, such as weights that someone put there, are none of them.
    """
    folder = Path(cfg.work_dir)
    template = ((cfg.get('default_hooks') or {}).get('checkpoint') or {}).get('filename_tmpl')
    names = [rf'(best_.+_)?{CHECKPOINT}(-[0-9a-f]{{8}})?\.pth']
    if template:
        names.append(re.escape(template).replace(r'\{\}', r'\d+'))
    found = [path for path in folder.glob('*') if any(re.fullmatch(name, path.name) for name in names)]
    last = last_named(folder)
    if last is not None and last.parent.resolve() == folder.resolve() and last.name not in {p.name for p in found}:
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
