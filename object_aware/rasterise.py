"""Polygons to masks in bulk (compiled): the same pixels as pycocotools paints, without an object per polygon.

COCO's definition: corners are rounded to fifths of a pixel; each edge is walked in steps of a fifth along its longer
axis; wherever a step passes the middle of a column of pixels, the row of its upper end is a boundary; between a first
and a second boundary of a column the pixels are inside. Only those passages are computed here, not the whole walk.
"""

from __future__ import annotations

import math

import numpy as np

from .compiling import entry, jit, readonly, sources_hash, types

_SCALE = 5
FAULTS = (
    '',
    'A segmentation has no polygon.',
    'A polygon has an odd number of coordinates.',
    'A polygon has fewer than three points.',
    'A polygon has a coordinate that is NaN or infinite.',
    'A polygon reaches far outside its image.',
)
"""Why objects of a batch have no mask; the first means that nothing is wrong."""


@jit
def _fault(coordinates, start, stop, width, height):
    count = stop - start
    if count % 2:
        return 2
    if count < 6:
        return 3
    for k in range(start, stop):
        value, side = coordinates[k], width if (k - start) % 2 == 0 else height
        if not math.isfinite(value):
            return 4
        if value < -side or value > 2 * side:
            return 5
    return 0


@jit
def _fifths(value):
    return np.int64(_SCALE * value + 0.5)  # rounds towards zero, as C does


@jit
def _passages(coordinates, start, stop, width, height, found, count):
    """Append the positions (column * height + row) where a polygon's outline passes the middle of a column."""
    corners = (stop - start) // 2
    for k in range(corners):
        this, following = start + 2 * k, start + 2 * ((k + 1) % corners)
        xs, ys = _fifths(coordinates[this]), _fifths(coordinates[this + 1])
        xe, ye = _fifths(coordinates[following]), _fifths(coordinates[following + 1])
        dx, dy = abs(xe - xs), abs(ye - ys)
        flat = dx >= dy
        if dx == 0:
            continue
        if (flat and xs > xe) or (not flat and ys > ye):
            xs, xe, ys, ye = xe, xs, ye, ys
        slope = (ye - ys) / dx if flat else (xe - xs) / dy
        low, high = min(xs, xe), max(xs, xe)
        column = max((low - 2 + _SCALE - 1) // _SCALE, 0)  # the walk passes from 5 c + 2 to 5 c + 3
        while column < width and _SCALE * column + 2 < high:
            before = _SCALE * column + 2
            if flat:
                t = before - xs
                y = min(np.int64(ys + slope * t + 0.5), np.int64(ys + slope * (t + 1) + 0.5))
            else:
                # The step at which x changes from one side to the other.
                rising = slope > 0
                t = np.int64(math.floor((before + 0.5 - xs) / slope)) if slope != 0 else np.int64(0)
                t = min(max(t - 1, 0), dy)
                if rising:
                    while t < dy and np.int64(xs + slope * (t + 1) + 0.5) <= before:
                        t += 1
                    while t > 0 and np.int64(xs + slope * t + 0.5) > before:
                        t -= 1
                    y = t + ys
                else:
                    while t < dy and np.int64(xs + slope * t + 0.5) > before:
                        t += 1
                    while t > 0 and np.int64(xs + slope * (t - 1) + 0.5) <= before:
                        t -= 1
                    y = t - 1 + ys
            row = (y + 0.5) / _SCALE - 0.5
            row = math.ceil(min(max(row, 0.0), float(height)))
            if count == len(found):
                found = np.concatenate((found, np.empty_like(found)))
            found[count] = column * height + np.int64(row)
            count += 1
            column += 1
    return found, count


@jit
def _write(data, count, number):
    """Append a number in groups of five bits; see ``masks.decode_counts``."""
    while True:
        code = number & 31
        number >>= 5
        more = number != (-1 if code & 16 else 0)
        data[count] = np.uint8(48 + code + (32 if more else 0))
        count += 1
        if not more:
            return count


@jit
def _encode(coordinates, polygon_offsets, object_polygons, sizes):
    objects = len(sizes)
    faults = np.zeros(objects, dtype=np.uint8)
    offsets = np.zeros(objects + 1, dtype=np.int64)
    data = np.empty(max(64 * objects, 1024), dtype=np.uint8)
    written = 0
    found = np.empty(1024, dtype=np.int64)
    runs = np.empty((512, 2), dtype=np.int64)
    for n in range(objects):
        width, height = np.int64(sizes[n, 0]), np.int64(sizes[n, 1])
        first, last = object_polygons[n], object_polygons[n + 1]
        if first == last:
            faults[n] = 1
        for p in range(first, last):
            if faults[n] == 0:
                faults[n] = _fault(coordinates, polygon_offsets[p], polygon_offsets[p + 1], width, height)
        count = 0
        if faults[n] == 0:
            for p in range(first, last):
                found, points = _passages(
                    coordinates, polygon_offsets[p], polygon_offsets[p + 1], width, height, found, 0
                )
                found[:points].sort()
                while count + points // 2 + 1 > len(runs):
                    runs = np.concatenate((runs, np.empty_like(runs)))
                for k in range(0, points, 2):  # boundaries by pairs; one without a partner reaches to the end
                    end = found[k + 1] if k + 1 < points else width * height
                    if end > found[k]:
                        runs[count, 0], runs[count, 1] = found[k], end
                        count += 1
        if count:
            order = np.argsort(runs[:count, 0], kind='mergesort') if last - first > 1 else np.arange(count)
            kept = 0
            merged = np.empty((count, 2), dtype=np.int64)
            for k in order:
                if kept and runs[k, 0] <= merged[kept - 1, 1]:
                    merged[kept - 1, 1] = max(merged[kept - 1, 1], runs[k, 1])
                else:
                    merged[kept] = runs[k]
                    kept += 1
            while written + 7 * (2 * kept + 2) > len(data):
                data = np.concatenate((data, np.empty_like(data)))
            position, k = np.int64(0), 0
            before = np.zeros(2, dtype=np.int64)
            for r in range(kept):
                for edge in range(2):
                    length = merged[r, edge] - position
                    position = merged[r, edge]
                    written = _write(data, written, length - before[k & 1] if k > 2 else length)
                    before[k & 1] = length
                    k += 1
            if position < width * height:
                length = width * height - position
                written = _write(data, written, length - before[k & 1] if k > 2 else length)
        offsets[n + 1] = written
    return offsets, data[:written].copy(), faults


def _entries(version):
    @entry(
        types.Tuple((types.int64[::1], types.uint8[::1], types.uint8[::1]))(
            readonly(types.float64), readonly(types.int64), readonly(types.int64), readonly(types.int32, 2)
        )
    )
    def encode(coordinates, polygon_offsets, object_polygons, sizes):
        _ = version
        return _encode(coordinates, polygon_offsets, object_polygons, sizes)

    return encode


encode = _entries(sources_hash('compiling'))
