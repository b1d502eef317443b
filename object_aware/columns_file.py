"""Many columns in one file that is mapped into memory, in the safetensors layout.

Eight bytes with the header's length, a JSON header, then the columns one after the other. Any reader of safetensors
opens such a file. Columns stand in the order of their item sizes, largest first, so each is aligned. The header's
``__metadata__`` holds the caller's strings and a checksum (CRC-32) of every column.

A file is written under another name and renamed, so a file that is there is whole.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

_CODES = {
    'BOOL': '?', 'U8': 'u1', 'I8': 'i1', 'U16': '<u2', 'I16': '<i2', 'U32': '<u4', 'I32': '<i4', 'U64': '<u8',
    'I64': '<i8', 'F16': '<f2', 'F32': '<f4', 'F64': '<f8',
}  # fmt: skip
_NAMES = {np.dtype(code): name for name, code in _CODES.items()}
_CHECKSUMS = 'crc32'
_MAX_HEADER = 100_000_000  # as in safetensors
_PIECE = 1 << 24  # bytes that are written or summed at once


class Pieces(NamedTuple):
    """A column that is written piece by piece, so that it never stands in memory as a whole.

    Attributes:
        dtype: of its items.
        shape: of the whole column.
        arrays: arrays that make up the column when joined along the first axis.
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    arrays: Iterable[np.ndarray]


@dataclass(frozen=True)
class ColumnsFile:
    """What :func:`read_columns` gives.

    Attributes:
        columns: read-only arrays that are mapped from the file: pages are read when they are touched, and processes
            share them.
        metadata: the caller's strings.
        checksums: CRC-32 of each column.
    """

    columns: dict[str, np.ndarray]
    metadata: dict[str, str]
    checksums: dict[str, int]

    def damaged(self) -> list[str]:
        """Names of the columns that do not have their checksum. Reads the whole file."""
        return [name for name, column in self.columns.items() if _checksum(column) != self.checksums.get(name)]


def write_columns(
    path: str | os.PathLike[str],
    columns: Mapping[str, np.ndarray | Pieces],
    metadata: Mapping[str, str],
    *,
    sync: bool = True,
) -> None:
    """Write columns as one file, whole or not at all. The same columns and metadata give the same bytes.

    Args:
        path: file to write; its folder is made if it is not there.
        columns: arrays, or pieces of arrays.
        metadata: strings for the header; the key 'crc32' is taken.
        sync: wait until the file is on the disk; without, a machine that stops may leave a damaged file.

    Raises:
        ValueError: an item type that the layout does not know, or pieces that do not make up their column.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    pieces = {name: c if isinstance(c, Pieces) else Pieces(c.dtype, c.shape, (c,)) for name, c in columns.items()}
    for name, column in pieces.items():
        if np.dtype(column.dtype) not in _NAMES:
            raise ValueError(f'column {name} has items of type {column.dtype}, which a columns file cannot hold.')
    order = sorted(pieces, key=lambda name: (-np.dtype(pieces[name].dtype).itemsize, name))
    sums = dict.fromkeys(order, 0)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.part')
    try:
        with open(temporary, 'wb') as file:
            header = _header(pieces, order, metadata, sums)
            file.write(header)
            for name in order:
                sums[name] = _write(file, name, pieces[name])
            file.seek(0)
            file.write(_header(pieces, order, metadata, sums))  # of the same length, now with the checksums
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_columns(path: str | os.PathLike[str]) -> ColumnsFile:
    """Map the columns of a file. Reads the header only, and checks that the file is as long as that says.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is cut short, damaged, or no columns file. The text says which, without the file's name.
    """
    with open(path, 'rb') as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), 'little')
        if size < 8 or length > _MAX_HEADER:
            raise ValueError('it has no header')
        if size < 8 + length:
            raise ValueError('it ends inside its header')
        text = file.read(length)
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        header = json.loads(text)
        metadata = dict(header.pop('__metadata__', {}))
        checksums = {name: int(value, 16) for name, value in json.loads(metadata.pop(_CHECKSUMS, '{}')).items()}
        columns = {}
        end = 0
        for name, entry in header.items():
            dtype, shape = np.dtype(_CODES[entry['dtype']]), tuple(int(side) for side in entry['shape'])
            start, stop = entry['data_offsets']
            if stop - start != math.prod(shape) * dtype.itemsize or start < 0 or min(shape, default=1) < 0:
                raise ValueError(f'column {name} has a wrong length')
            end = max(end, stop)
            if 8 + length + stop <= size:
                flat = np.frombuffer(mapped, dtype, math.prod(shape), 8 + length + start) if stop > start else None
                columns[name] = np.empty(shape, dtype) if flat is None else flat.reshape(shape)
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f'its header cannot be read: {type(error).__name__}') from None
    if size != 8 + length + end:
        raise ValueError(f'it has {size:,} bytes where its header promises {8 + length + end:,}')
    return ColumnsFile(columns, metadata, checksums)


def _header(pieces: dict[str, Pieces], order: list[str], metadata: Mapping[str, str], sums: dict[str, int]) -> bytes:
    checksums = json.dumps({name: f'{value:08x}' for name, value in sums.items()})
    header: dict[str, dict] = {'__metadata__': {**metadata, _CHECKSUMS: checksums}}
    offset = 0
    for name in order:
        dtype = np.dtype(pieces[name].dtype)
        stop = offset + math.prod(pieces[name].shape) * dtype.itemsize
        header[name] = dict(dtype=_NAMES[dtype], shape=list(pieces[name].shape), data_offsets=[offset, stop])
        offset = stop
    text = json.dumps(header, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)
    return len(text).to_bytes(8, 'little') + text


def _write(file, name: str, column: Pieces) -> int:
    rows, checksum = 0, 0
    dtype = np.dtype(column.dtype)
    for array in column.arrays:
        if array.shape[1:] != tuple(column.shape[1:]) or array.dtype != dtype:
            raise ValueError(f'column {name}: a piece of {array.dtype} {array.shape} in a column of {column.shape}.')
        rows += len(array)
        step = max(1, _PIECE // max(1, dtype.itemsize * math.prod(array.shape[1:])))
        for start in range(0, len(array), step):
            part = np.ascontiguousarray(array[start : start + step]).reshape(-1).view(np.uint8)
            checksum = zlib.crc32(part, checksum)
            file.write(part)
    if rows != column.shape[0]:
        raise ValueError(f'column {name}: pieces of {rows} rows in all in a column of {column.shape[0]}.')
    return checksum


def _checksum(column: np.ndarray) -> int:
    checksum = 0
    flat = column.reshape(-1).view(np.uint8)
    for start in range(0, len(flat), _PIECE):
        checksum = zlib.crc32(flat[start : start + _PIECE], checksum)
    return checksum
