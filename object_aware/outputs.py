"""Where a tool may write: never over what it reads, and over what is there only if a tool of the kind wrote it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

Recognise = Callable[[Path], bool]


def check_out(
    out: str | os.PathLike[str],
    inputs: Iterable[str | os.PathLike[str] | None] = (),
    kind: str = '',
    recognise: Recognise | None = None,
    option: str = '--out',
) -> None:
    """Refuses an output that would destroy something. To be called before the work, and before anything is written.

    Args:
        out: file to write.
        inputs: files and folders that are read; None is left out.
        kind: what the tool writes, for the sentence: 'a crop index'.
        recognise: says of a file whether it is of that kind; without, any file but an input may be replaced. An empty
            file may be in any case.
        option: how the user gives ``out``.

    Raises:
        OSError: with one sentence: ``out`` is an input, a folder, or a file of another kind.
    """
    out = Path(out)
    if not out.exists():
        return
    if any(path is not None and os.path.exists(path) and os.path.samefile(out, path) for path in inputs):
        raise FileExistsError(f'{out} is what this command reads: give another {option}.')
    if out.is_dir():
        raise IsADirectoryError(f'{out} is a folder: give {option} the name of a file.')
    if recognise is not None and out.stat().st_size and not recognise(out):
        raise FileExistsError(f'{out} exists and is not {kind}: give another {option}.')


def begins_with(mark: bytes, skip: int = 0) -> Recognise:
    """Recognises files by their first bytes, after ``skip`` others."""

    def recognise(path: Path) -> bool:
        with open(path, 'rb') as file:
            return file.read(skip + len(mark))[skip:] == mark

    return recognise


def json_with(*keys: str) -> Recognise:
    """Recognises JSON files by entries that they must have."""

    def recognise(path: Path) -> bool:
        try:
            content = json.loads(path.read_bytes())
        except ValueError:
            return False
        return isinstance(content, dict) and all(key in content for key in keys)

    return recognise
