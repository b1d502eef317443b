"""The other objects near a target, and how much of a window they cover (compiled)."""

from __future__ import annotations

import math

import numpy as np

from .compiling import jit
from .runs import mask_in


@jit
def touches(boxes, k, reach):
    return boxes[k, 0] < reach[2] and boxes[k, 2] > reach[0] and boxes[k, 1] < reach[3] and boxes[k, 3] > reach[1]


@jit
def gather(boxes, row, has_mask, masks, reach):
    """The other objects that can be seen in windows within ``reach``: (boxes sorted by y1, union of masks)."""
    begin, end = math.floor(reach[0]), math.ceil(reach[2])
    top, bottom = math.floor(reach[1]), math.ceil(reach[3])
    columns = max(end - begin, 0)
    count, runs = 0, 0
    filled = np.zeros(columns + 1, dtype=np.int32)
    for k in range(len(boxes)):
        if k == row:
            continue
        if has_mask[k]:
            first, pointer, rows = masks[k]
            for column in range(max(first, begin), min(first + len(pointer) - 1, end)):
                for r in range(pointer[column - first], pointer[column - first + 1]):
                    if rows[r, 0] < bottom and rows[r, 1] > top:
                        filled[column - begin] += 1
                        runs += 1
        elif touches(boxes, k, reach):
            count += 1
    found = np.empty((count, 4), dtype=np.float64)
    count = 0
    for k in range(len(boxes)):
        if k != row and not has_mask[k] and touches(boxes, k, reach):
            place = count
            while place > 0 and found[place - 1, 1] > boxes[k, 1]:
                found[place] = found[place - 1]
                place -= 1
            for c in range(4):
                found[place, c] = boxes[k, c]
            count += 1
    if runs == 0:
        return found, (np.int64(0), np.zeros(1, dtype=np.int32), np.empty((0, 2), dtype=np.int32))
    pointer_all = np.zeros(columns + 1, dtype=np.int32)
    for column in range(columns):
        pointer_all[column + 1] = pointer_all[column] + filled[column]
        filled[column] = pointer_all[column]
    merged = np.empty((runs, 2), dtype=np.int32)
    for k in range(len(boxes)):
        if k == row or not has_mask[k]:
            continue
        first, pointer, rows = masks[k]
        for column in range(max(first, begin), min(first + len(pointer) - 1, end)):
            for r in range(pointer[column - first], pointer[column - first + 1]):
                if rows[r, 0] < bottom and rows[r, 1] > top:
                    place = filled[column - begin]  # insertion by first row
                    while place > pointer_all[column - begin] and merged[place - 1, 0] > rows[r, 0]:
                        merged[place] = merged[place - 1]
                        place -= 1
                    merged[place] = rows[r]
                    filled[column - begin] += 1
    written, start = 0, 0
    for column in range(columns):
        stop = pointer_all[column + 1]
        before = written
        for r in range(start, stop):
            if written > before and merged[r, 0] <= merged[written - 1, 1]:
                merged[written - 1, 1] = max(merged[written - 1, 1], merged[r, 1])
            else:
                merged[written] = merged[r]
                written += 1
        start = stop
        pointer_all[column + 1] = written
    return found, (np.int64(begin), pointer_all, merged[:written].copy())


@jit
def _union_in(boxes, x1, y1, x2, y2):
    """Exact area of the union of boxes (sorted by y1) inside a window: strip by strip between their vertical edges."""
    count = len(boxes)
    edges = np.empty(2 * count)
    for k in range(count):
        edges[2 * k] = min(max(boxes[k, 0], x1), x2)
        edges[2 * k + 1] = min(max(boxes[k, 2], x1), x2)
    edges.sort()
    total = 0.0
    for e in range(2 * count - 1):
        if edges[e + 1] <= edges[e]:
            continue
        length, reached = 0.0, y1
        for k in range(count):
            if boxes[k, 0] <= edges[e] and boxes[k, 2] >= edges[e + 1]:
                low, high = max(boxes[k, 1], reached), min(boxes[k, 3], y2)
                if high > low:
                    length += high - low
                    reached = high
        total += length * (edges[e + 1] - edges[e])
    return total


@jit
def others_in(company, x1, y1, x2, y2, enough):
    """Area that the others cover in a window (where masks and boxes overlap, it counts twice).

    The exact union of boxes is worked out only if the sum of their areas reaches ``enough``; else it is the sum.
    """
    boxes, mask = company
    masks = mask_in(mask, x1, y1, x2, y2)
    total, largest = masks, masks
    for k in range(len(boxes)):
        w = min(x2, boxes[k, 2]) - max(x1, boxes[k, 0])
        h = min(y2, boxes[k, 3]) - max(y1, boxes[k, 1])
        if w > 0 and h > 0:
            total += w * h
            largest = max(largest, masks + w * h)
    if total < enough or total == largest:
        return total
    return masks + _union_in(boxes, x1, y1, x2, y2)


@jit
def few(others, limit):
    return others < limit or others == 0.0
