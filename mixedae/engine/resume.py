"""Finding the newest valid checkpoint of a run, and saying which ones were passed over and why."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any, NamedTuple

from mixedae.checkpoints import CheckpointError, read_file


class Found(NamedTuple):
    """A checkpoint to go on from.

    Attributes:
        path: the file.
        checkpoint: its content.
        skipped: newer files that are no valid checkpoints: (path, reason).
    """

    path: Path
    checkpoint: dict[str, Any]
    skipped: list[tuple[Path, str]]


def last_named(work_dir: str | Path) -> Path | None:
    """The file that ``last_checkpoint`` names, in this folder if it is there (which may be a copy); None if none is."""
    named = Path(work_dir) / 'last_checkpoint'
    if not named.is_file():
        return None
    last = Path(named.read_text(errors='replace').strip())
    return next((path for path in (Path(work_dir) / last.name, last) if last.name and path.is_file()), None)


def candidates(work_dir: str | Path) -> list[Path]:
    """Checkpoints that a run has written at intervals, the newest file first.

    Best and published checkpoints have no optimiser and are left out.
    """
    work_dir = Path(work_dir)
    files = [path for path in work_dir.glob('*.pth') if path.is_file() and re.search(r'\d+\.pth$', path.name)]
    files = [path for path in files if not re.search(r'^best_|-[0-9a-f]{8}\.pth$', path.name)]
    last = last_named(work_dir)
    if last is not None and not any(path.samefile(last) for path in files):
        files.append(last)
    return sorted(files, key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)


def newest_valid(work_dir: str | Path) -> Found | None:
    """The newest checkpoint that is complete and undamaged; None where a run has left no checkpoint at all.

    The newest is the one that ``last_checkpoint`` names, or one of more iterations that was written since (the run was
    killed before it could name it). All others were written before: the later, the newer, whatever their iterations,
    for the folder may hold checkpoints of an earlier run. Without ``last_checkpoint`` the most iterations decide.

    Raises:
        CheckpointError: there are checkpoints, but none is valid; it names them all.
    """
    skipped: list[tuple[Path, str]] = []
    ages: list[tuple[tuple[int, int, int], Path]] = []
    last, named = last_named(work_dir), Path(work_dir) / 'last_checkpoint'
    since = named.stat().st_mtime_ns if named.is_file() else 0
    for path in candidates(work_dir):
        try:
            iteration = training_state(read_file(path, 'meta', verify=False), path)['iter']
        except (CheckpointError, OSError) as error:
            skipped.append((path, str(error)))
            continue
        written = path.stat().st_mtime_ns
        is_of_now = written >= since or (last is not None and path.samefile(last))
        ages.append(((1, iteration, written) if is_of_now else (0, written, iteration), path))
    for _, path in sorted(ages, key=lambda entry: entry[0], reverse=True):
        try:
            checkpoint = read_file(path)
            training_state(checkpoint, path)
            return Found(path, checkpoint, skipped)
        except (CheckpointError, OSError) as error:
            skipped.append((path, str(error)))
    if skipped:
        reasons = ' '.join(reason for _, reason in skipped)
        raise CheckpointError(
            f'{work_dir} has {len(skipped)} checkpoints, but none that a run can go on from: {reasons} '
            'Start without --resume, or bring back a copy.'
        )
    return None


def choose_checkpoint(work_dir: str, logger: logging.Logger) -> str | CheckpointError | None:
    """Path of the newest valid checkpoint; what is passed over goes to the log. An error is returned, not raised."""
    try:
        found = newest_valid(work_dir)
    except CheckpointError as error:
        return error
    if found is None:
        return None
    for path, reason in found.skipped:
        logger.warning(f'Passed over {path.name}: {reason}')
    logger.info(f'The run goes on from {found.path}.')
    return str(found.path)


def training_state(checkpoint: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """The ``meta`` entry of a training checkpoint.

    Raises:
        CheckpointError: it has none.
    """
    meta = checkpoint.get('meta')
    complete = isinstance(meta, dict) and all(isinstance(meta.get(key), int) for key in ('iter', 'epoch'))
    if not complete or 'optimizer' not in checkpoint:
        raise CheckpointError(
            f'{path} holds weights but no training state, so training cannot be resumed from it; '
            'use load_from or init_cfg to start from its weights.'
        )
    return meta
