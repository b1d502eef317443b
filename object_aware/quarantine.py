"""Image files that cannot be used: counted, listed, replaced, and the end of the run if there are too many.

The list is a text file with one JSON object per line, appended in one write each, so that loader workers and processes
of one machine (or of several with a common disk that appends whole lines) can share it:

    {"path": ..., "reason": ..., "epoch": ..., "index": ..., "instead": ..., "time": ...}

``index`` is the sample that was asked for, -1 for files found before training. ``instead`` is the one that was given
for the sample of this file; -1 if none was: found before training, a bad stand-in, or no good stand-in.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence

from mmengine.logging import print_log

from .pixels import ImageError


def default_limit(num_files: int) -> int:
    """Bad files that a run bears: one in a hundred, at most 100; none below 100 files."""
    return min(100, num_files // 100)


class TooManyBadFiles(RuntimeError):
    """More image files are bad than the run may bear; ends the run, is never replaced."""


class Quarantine:
    """Counts and lists bad image files.

    Args:
        file: the list; None keeps it in memory, then each worker process counts for itself.
        limit: different bad files that are borne.

    Attributes:
        file, limit: as given; set ``file`` before loader workers start.
    """

    def __init__(self, file: str | os.PathLike[str] | None, limit: int) -> None:
        self.file = None if file is None else os.fspath(file)
        self.limit = int(limit)
        self._reasons: dict[str, str] = {}
        self._replaced = 0
        self._offset = 0

    def add(self, error: ImageError, epoch: int = -1, index: int = -1, instead: int = -1) -> None:
        """List a bad file.

        Args:
            error: what is wrong with it.
            epoch, index: the sample that was asked for; -1 if none was.
            instead: the sample that is given in its place; -1 if none is, and for a stand-in that is bad, too.

        Raises:
            TooManyBadFiles: more different files than the limit.
            OSError: the list cannot be written.
        """
        entry = dict(
            path=error.path, reason=error.reason[:300], epoch=epoch, index=index, instead=instead,
            time=time.strftime('%Y-%m-%d %H:%M:%S'),
        )  # fmt: skip
        if error.path not in self._reasons:
            place = f' (sample {index} of epoch {epoch})' if epoch >= 0 else ''  # -1: found before training
            print_log(f'{error}{place}', logger='current', level=30)
        if self.file is None:
            self._note(entry)
        else:
            os.makedirs(os.path.dirname(os.path.abspath(self.file)), exist_ok=True)
            handle = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                os.write(handle, json.dumps(entry).encode() + b'\n')  # one write: lines of others do not mix with it
            finally:
                os.close(handle)
            self._read()
        if len(self._reasons) > self.limit:
            where = '' if self.file is None else f' They are listed in {self.file}.'
            raise TooManyBadFiles(
                f'{len(self._reasons)} image files cannot be used, more than the {self.limit} that max_bad_files '
                f'allows; the last: {error}{where}'
            )

    def reasons(self) -> dict[str, str]:
        """Bad files and what is wrong with each, of all workers that share the list."""
        self._read()
        return dict(self._reasons)

    def summary(self) -> str:
        """One line for the end of a log; '' if nothing was bad."""
        self._read()
        if not self._reasons:
            return ''
        where = '' if self.file is None else f' (listed in {self.file})'
        return f'Bad image files: {len(self._reasons)}{where}; samples replaced because of them: {self._replaced}.'

    def _note(self, entry: dict) -> None:
        self._reasons.setdefault(str(entry['path']), str(entry['reason']))
        self._replaced += entry['instead'] >= 0

    def _read(self) -> None:
        """What was appended since the last look."""
        if self.file is None or not os.path.isfile(self.file):
            return
        with open(self.file, 'rb') as file:
            file.seek(self._offset)
            content = file.read()
        end = content.rfind(b'\n') + 1
        self._offset += end
        for line in content[:end].splitlines():
            try:
                self._note(json.loads(line))
            except (ValueError, KeyError, TypeError):
                continue  # a line that a kill cut short

    def __getstate__(self) -> dict:
        return dict(vars(self), _reasons={}, _replaced=0, _offset=0)

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)


def judge(broken: Sequence[ImageError], count: int, quarantine: Quarantine) -> None:
    """What a check before training found: list it, and refuse to begin if it is too much.

    Raises:
        ValueError: more bad files than the limit: how many, the first of them and why.
    """
    if not broken:
        return
    limit, quarantine.limit = quarantine.limit, len(broken) + len(quarantine.reasons())
    for error in broken:
        quarantine.add(error)
    quarantine.limit = limit
    where = '' if quarantine.file is None else f' All are listed in {quarantine.file}.'
    said = f'{len(broken)} of {count} images cannot be used; the first: {broken[0]}'
    if len(broken) > limit:
        raise ValueError(f'{said}{where}')
    print_log(f'{said} Samples of them will be replaced.{where}', logger='current', level=30)
