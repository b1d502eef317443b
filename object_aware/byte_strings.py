"""A column of byte strings of different lengths (file names, masks) as two flat arrays.

A hundred times smaller than a list of ``bytes`` objects, shared by processes, and mapped straight from a file.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class ByteStrings:
    """R byte strings: string r is ``data[offsets[r]:offsets[r + 1]]``.

    Attributes:
        offsets: (R + 1,) int64, non-decreasing.
        data: (M,) uint8.
    """

    offsets: np.ndarray
    data: np.ndarray

    @classmethod
    def of(cls, strings: Iterable[bytes]) -> ByteStrings:
        """The strings of an iterable (a NumPy 'S' array, too)."""
        listed = strings if isinstance(strings, list) else [bytes(string) for string in strings]
        data = np.frombuffer(b''.join(listed), dtype=np.uint8)
        return cls(offsets_of(np.fromiter(map(len, listed), dtype=np.int64, count=len(listed))), data)

    @classmethod
    def empty(cls, rows: int) -> ByteStrings:
        """``rows`` empty strings; takes no memory."""
        return cls(np.broadcast_to(np.int64(0), (rows + 1,)), np.empty(0, dtype=np.uint8))

    @classmethod
    def concatenate(cls, parts: Iterable[ByteStrings]) -> ByteStrings:
        """All strings of several columns, one column after the other."""
        parts = list(parts)
        rows = sum(len(part) for part in parts)
        if not any(len(part.data) for part in parts):
            return cls.empty(rows)
        lengths = np.concatenate([part.lengths for part in parts])
        return cls(offsets_of(lengths), np.concatenate([part.data for part in parts]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int | slice | np.ndarray) -> bytes | ByteStrings:
        """One string, or for several rows a column of them."""
        if not isinstance(row, (int, np.integer)):
            return self.take(np.arange(len(self))[row])
        if not -len(self) <= row < len(self):
            raise IndexError(f'row {row} is outside 0..{len(self) - 1}')
        row = row % len(self)
        return self.data[self.offsets[row] : self.offsets[row + 1]].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        data, offsets = self.data.tobytes(), self.offsets.tolist()
        return (data[a:b] for a, b in itertools.pairwise(offsets))

    @property
    def lengths(self) -> np.ndarray:
        """(R,) int64 length of each string."""
        return np.diff(self.offsets)

    def take(self, rows: np.ndarray) -> ByteStrings:
        """The strings of some rows (indices or a bool mask), in that order."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
        if not len(self.data):
            return ByteStrings.empty(len(rows))
        offsets = offsets_of(self.lengths[rows])
        data = np.empty(offsets[-1], dtype=np.uint8)
        from .byte_kernels import gather

        gather(np.ascontiguousarray(self.offsets), np.ascontiguousarray(self.data), rows, offsets, data)
        return ByteStrings(offsets, data)

    def between(self, start: int, stop: int) -> ByteStrings:
        """The strings of the rows ``start:stop``; shares the data."""
        low, high = self.offsets[start], self.offsets[stop]
        return ByteStrings(self.offsets[start : stop + 1] - low, self.data[low:high])


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """(R,) lengths → (R + 1,) int64 offsets."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets
