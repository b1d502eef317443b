"""Writing files so that a kill, a full disk or a power cut leaves either the old file or the whole new one.

A file is written under a temporary name in its own folder, flushed to the disk (fsync) and then renamed, which a file
system does at once or not at all. Checkpoints carry a CRC-32 of every record inside (they are zip files);
:func:`mixedae.checkpoints.read_file` verifies them on every read.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

TEMPORARY = '.{}.writing'
"""Name of a file that is being written; what a killed run leaves under it is removed by the next run."""


class _Recorder:
    """A binary file for :func:`torch.save`, which turns an ``OSError`` of the disk into a text; it is kept here."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        self.file.flush()


def write_whole(path: str | os.PathLike[str], write: Callable[[IO[bytes]], Any]) -> None:
    """Replaces ``path`` by what ``write(file)`` writes, all or nothing.

    Raises:
        OSError: no space, no permission, ...; ``path`` is as it was, and the temporary file is gone.
    """
    path = Path(path)
    temporary = path.with_name(TEMPORARY.format(path.name))
    try:
        with open(temporary, 'wb') as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Flushes a folder's list of names, so that a rename outlives a power cut; silent where that is not possible."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Replaces a text file, all or nothing."""
    write_whole(path, lambda file: file.write(text.encode()))


def write_checkpoint(path: str | os.PathLike[str], checkpoint: dict) -> None:
    """Writes a checkpoint with :func:`torch.save`, all or nothing.

    Raises:
        OSError: as the disk said it (no space left, read-only, ...).
    """

    def write(file: IO[bytes]) -> None:
        recorder = _Recorder(file)
        try:
            torch.save(checkpoint, recorder)
        except Exception:
            if recorder.error is not None:
                raise recorder.error from None
            raise

    write_whole(path, write)


def remove_unfinished(folder: str | os.PathLike[str]) -> list[str]:
    """Removes what a killed run left half written in a folder; the names."""
    start, end = TEMPORARY.split('{}')
    found = [path for path in Path(folder).glob(f'{start}*{end}') if path.is_file()]
    for path in found:
        with contextlib.suppress(OSError):
            path.unlink()
    return [path.name for path in found]


def explain_write_error(error: OSError, path: str | os.PathLike[str]) -> str:
    """What to do about a failed write, in one sentence."""
    reasons = {
        errno.ENOSPC: 'the disk is full: free some space',
        errno.EDQUOT: 'the disk quota is used up: free some space',
        errno.EFBIG: 'the file is larger than this process may write (ulimit -f)',
        errno.EROFS: 'the disk is read-only now: mount it for writing again',
        errno.EACCES: 'the folder may not be written to: check its permissions',
        errno.EPERM: 'the folder may not be written to: check its permissions',
        errno.ENOENT: 'the folder is gone',
        errno.EIO: 'the disk reports an error: check it',
    }
    reason = reasons.get(error.errno or 0, str(error))
    return f'{path} could not be written: {reason}.'
