"""The lists of a JSON file as byte ranges of whole elements, so that a file of any size is decoded piece by piece.

One pass over the bytes that follows strings and brackets only. It does not depend on the order of the keys, on spaces
or on what the elements hold. The same pass takes the checksum of the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .digests import BLOCK, BlockDigest

_MAX_KEYS = 10_000


@dataclass(frozen=True)
class JsonFile:
    """The outline of a JSON file whose outermost value is an object.

    Attributes:
        path: the file.
        values: for each key of the object the byte range (start, stop) of its value.
        pieces: for each key whose value is a list the byte ranges of its elements, some elements each, without the
            brackets and without the commas between the ranges.
        digest: of the file's bytes, in hex (see :func:`object_aware.digests.digest_of`).
    """

    path: str
    values: dict[str, tuple[int, int]]
    pieces: dict[str, list[tuple[int, int]]]
    digest: str


def outline(
    path: str | os.PathLike[str], piece_bytes: int = 1 << 24, progress: Callable[[int, int], None] | None = None
) -> JsonFile | None:
    """Find the values of a JSON file's outermost object, and cut its lists into pieces.

    Args:
        path: the file.
        piece_bytes: a piece is cut after the first element that makes it at least so long.
        progress: called with (bytes done, bytes in all).

    Returns:
        The outline, or None for a file that must be decoded as a whole: not in UTF-8, or no object outermost.

    Raises:
        ValueError: the brackets or strings do not end, or something stands after the end. The text says which, without
            the file's name.
    """
    from .byte_kernels import AFTER_THE_END, CLOSED, CUTS, KEYS, NOT_AN_OBJECT, WRONG, scan

    state = np.zeros(9, dtype=np.int64)
    spans = np.zeros((_MAX_KEYS, 2), dtype=np.int64)
    size = os.path.getsize(path)
    cuts = np.zeros((size // max(1, piece_bytes) + 2, 2), dtype=np.int64)
    done = 0
    with open(path, 'rb') as file, BlockDigest() as digest:
        encoding = json.detect_encoding(file.read(4))
        if encoding not in ('utf-8', 'utf-8-sig'):
            return None
        file.seek(0)
        skip = 3 if encoding == 'utf-8-sig' else 0
        while block := file.read(BLOCK):
            digest.update(block)
            scan(np.frombuffer(block, dtype=np.uint8)[skip:], done + skip, piece_bytes, state, spans, cuts)
            skip = 0
            done += len(block)
            if progress is not None:
                progress(done, size)
            if state[WRONG] or state[KEYS] >= _MAX_KEYS:  # there is no room for more values
                break
        if state[WRONG] == NOT_AN_OBJECT:
            return None
        if state[WRONG] == AFTER_THE_END:
            raise ValueError('something stands after its end')
        if state[KEYS] >= _MAX_KEYS:
            raise ValueError(f'its outermost object has more than {_MAX_KEYS:,} keys')
        if not state[CLOSED]:
            raise ValueError('it ends inside a value: it was cut short')
        return _outline(file, spans[: state[KEYS]], cuts[: state[CUTS]], digest.hexdigest())


def _outline(file, spans: np.ndarray, cuts: np.ndarray, digest: str) -> JsonFile:
    # The object with 0 in place of each value is small: decoded, it shows that the rest is sound, and gives the keys.
    skeleton, position = [], 0
    trimmed = []
    for start, stop in spans.tolist():
        file.seek(position)
        skeleton.append(file.read(start - position))
        trimmed.append(_trim(file, start, stop))
        position = stop
    file.seek(position)
    skeleton.append(file.read())
    try:
        pairs = json.loads(b'0'.join(skeleton), object_pairs_hook=list)
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from None
    values: dict[str, tuple[int, int]] = {}
    pieces: dict[str, list[tuple[int, int]]] = {}
    for number, ((key, _), (start, stop)) in enumerate(zip(pairs, trimmed)):  # a key given twice: the last one counts
        values[key] = (start, stop)
        file.seek(start)
        if file.read(1) == b'[':
            file.seek(stop - 1)
            if file.read(1) != b']':
                raise ValueError(f'the list {key!r} does not end with a bracket')
            at = cuts[cuts[:, 0] == number, 1].tolist()
            pieces[key] = list(zip([start + 1, *(cut + 1 for cut in at)], [*at, stop - 1]))
        else:
            pieces.pop(key, None)
    return JsonFile(file.name, values, pieces, digest)


def _trim(file, start: int, stop: int) -> tuple[int, int]:
    """A value's range without the white space around it."""
    file.seek(start)
    while start < stop and file.read(1) in (b' ', b'\t', b'\r', b'\n'):
        start += 1
    while stop > start:
        file.seek(stop - 1)
        if file.read(1) not in (b' ', b'\t', b'\r', b'\n'):
            break
        stop -= 1
    return start, stop
