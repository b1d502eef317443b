"""Masks: which pixels of its scene an object covers.

A mask is kept as the ``counts`` of COCO's compressed run-length encoding (RLE), as bytes, at the scene's own size: the
lengths of runs of pixels that are alternately outside and inside, column by column. No bytes stand for "no mask"; then
an object is as large as its box. pycocotools rasterises; it trusts what it is given (it reads and writes out of bounds
otherwise), so everything is checked here first.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

_MOST_PIXELS = 2**31 - 1  # pycocotools counts in 32 bits
_FIRST = 48  # COCO's strings use the characters 48 ('0') to 111, six bits each
_MOST_CHARACTERS = 7  # of one run length: 5 bits each, and no run is longer than 2^31


def encode_segmentation(segmentation: Any, height: int, width: int) -> bytes:
    """COCO's ``segmentation`` of an object as compressed RLE.

    Args:
        segmentation: polygons (a list of lists x, y, x, y, ...: the object is their union), or an RLE
            ``dict(size=[height, width], counts=...)``, uncompressed (a list of numbers) or compressed (a string).
        height, width: size of the scene.

    Returns:
        The ``counts`` of the compressed RLE; ``b''`` (no mask) where nothing is painted.

    Raises:
        ValueError: the segmentation is malformed; one sentence that says how.
    """
    height, width = int(height), int(width)
    if height < 1 or width < 1 or height * width > _MOST_PIXELS:
        raise ValueError(f'A scene of {width}x{height} pixels cannot have masks.')
    if isinstance(segmentation, dict):
        return _encode_rle(segmentation, height, width)
    if isinstance(segmentation, (list, tuple)):
        return _encode_polygons(segmentation, height, width)
    raise ValueError(
        f'A segmentation must be a list of polygons or an RLE with size and counts, not {type(segmentation).__name__}.'
    )


def _encode_polygons(polygons: Any, height: int, width: int) -> bytes:
    from pycocotools import mask as coco

    if not len(polygons):
        raise ValueError('A segmentation has no polygon.')
    checked = [check_polygon(polygon, height, width) for polygon in polygons]
    painted = coco.frPyObjects(checked, height, width)
    rle = painted[0] if len(painted) == 1 else coco.merge(painted)
    return rle['counts'] if coco.area(rle) else b''


def check_polygon(polygon: Any, height: int, width: int) -> list[float]:
    """The coordinates x, y, x, y, ... of a polygon as floats.

    Raises:
        ValueError: not a polygon, or one that lies so far outside the scene that it cannot be meant.
    """
    if not isinstance(polygon, (list, tuple, np.ndarray)):
        raise ValueError(f'A polygon must be a list of numbers x, y, x, y, ..., not {type(polygon).__name__}.')
    try:  # polygons have some dozen points: plain Python is a third of NumPy's time
        points = list(map(float, polygon))
    except (TypeError, ValueError, OverflowError):
        raise ValueError('A polygon has a coordinate that is not a number.') from None
    if len(points) % 2:
        raise ValueError(f'A polygon has an odd number of coordinates ({len(points)}).')
    if len(points) < 6:
        raise ValueError(f'A polygon has {len(points) // 2} points; it needs three at least.')
    if not all(map(math.isfinite, points)):
        raise ValueError('A polygon has a coordinate that is NaN or infinite.')
    x, y = points[::2], points[1::2]
    if min(x) < -width or max(x) > 2 * width or min(y) < -height or max(y) > 2 * height:
        raise ValueError(f'A polygon reaches far outside its image of {width}x{height} pixels.')
    return points


def _encode_rle(rle: dict[str, Any], height: int, width: int) -> bytes:
    size, counts = rle.get('size'), rle.get('counts')
    if size is None or counts is None:
        raise ValueError('An RLE needs both size and counts.')
    try:
        given = tuple(int(side) for side in size)
    except (TypeError, ValueError, OverflowError):
        given = ()
    if given != (height, width):
        raise ValueError(f'An RLE has the size {size} (height, width), but its image has {[height, width]}.')
    if isinstance(counts, str):
        try:
            counts = counts.encode('ascii')
        except UnicodeEncodeError:
            raise ValueError('A compressed RLE has characters that it cannot have.') from None
    if isinstance(counts, (bytes, bytearray)):
        lengths = decode_counts(bytes(counts))
        _check_lengths(lengths, height, width)
        return bytes(counts) if lengths[1::2].any() else b''
    try:
        lengths = np.asarray(counts)
        if lengths.dtype.kind == 'f' and (lengths == np.floor(lengths)).all() and (abs(lengths) < 2**52).all():
            lengths = lengths.astype(np.int64)
    except (TypeError, ValueError, OverflowError):
        raise ValueError('The counts of an RLE must be a string or a list of whole numbers.') from None
    if lengths.ndim != 1 or lengths.dtype.kind not in 'iu':
        raise ValueError('The counts of an RLE must be a string or a list of whole numbers.')
    _check_lengths(lengths, height, width)
    return encode_counts(lengths) if lengths[1::2].any() else b''


def _check_lengths(lengths: np.ndarray, height: int, width: int) -> None:
    if len(lengths) and (lengths.min() < 0 or lengths.max() > _MOST_PIXELS):
        raise ValueError('The counts of an RLE hold a negative or an impossibly large number.')
    total = int(lengths.sum(dtype=np.int64))
    if total != height * width:
        raise ValueError(f'The counts of an RLE add up to {total}, but its image has {width}x{height} pixels.')


def decode_counts(counts: bytes) -> np.ndarray:
    """(R,) int64 run lengths, outside first, of a compressed RLE.

    Each number is written in groups of five bits, lowest first, the last group signed; from the fourth number on it is
    the difference from the number two places before.

    Raises:
        ValueError: bytes that no RLE can have.
    """
    codes = np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - _FIRST
    if not len(codes):
        return np.zeros(0, dtype=np.int64)
    if codes.min() < 0 or codes.max() > 63:
        raise ValueError('A compressed RLE has characters that it cannot have.')
    last = np.flatnonzero((codes & 32) == 0)
    if not len(last) or last[-1] != len(codes) - 1:
        raise ValueError('A compressed RLE is cut short.')
    first = np.concatenate([[0], last[:-1] + 1])
    sizes = last - first + 1
    if sizes.max() > _MOST_CHARACTERS:
        raise ValueError('The counts of an RLE hold a negative or an impossibly large number.')
    place = 5 * (np.arange(len(codes)) - np.repeat(first, sizes))
    numbers = np.add.reduceat((codes & 31) << place, first)
    numbers -= np.where(codes[last] & 16, np.int64(1) << (5 * sizes), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def encode_counts(lengths: np.ndarray) -> bytes:
    """The inverse of :func:`decode_counts`: run lengths → compressed RLE."""
    numbers = [int(length) for length in lengths]
    text = bytearray()
    for k, number in enumerate(numbers):
        rest = number - numbers[k - 2] if k > 2 else number
        while True:
            code, rest = rest & 31, rest >> 5
            more = rest != (-1 if code & 16 else 0)
            text.append(_FIRST + code + (32 if more else 0))
            if not more:
                break
    return bytes(text)


def paint(counts: bytes, height: int, width: int) -> np.ndarray | None:
    """(H, W) bool pixels of a mask, painted by pycocotools; None for ``b''`` (no mask).

    Raises:
        ValueError: the run lengths do not add up to the scene's size.
    """
    from pycocotools import mask as coco

    if not len(counts):
        return None
    _check_lengths(decode_counts(counts), height, width)
    return np.ascontiguousarray(coco.decode(dict(size=[height, width], counts=bytes(counts))), dtype=bool)
