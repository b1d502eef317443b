"""Masks as runs by column (compiled): (first column, pointer of each column into the runs, (R, 2) rows of the runs).

The area of a mask in a window is the area of its pixels' unit squares cut by the window, exactly.
"""

from __future__ import annotations

import math

import numpy as np

from .compiling import jit

_DAMAGED = 'A mask does not fit its scene: the crop index is damaged, build it anew.'


@jit
def next_length(data, at, stop, k, before):
    """(run length number k, position after it) of a compressed RLE; ``before`` holds the last two lengths."""
    value, shift = 0, 0
    while True:
        if at >= stop or shift > 30:
            raise ValueError(_DAMAGED)
        code = np.int64(data[at]) - 48
        if code < 0 or code > 63:
            raise ValueError(_DAMAGED)
        at += 1
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            if code & 16:
                value -= np.int64(1) << shift
            break
    if k > 2:
        value += before[k & 1]
    before[k & 1] = value
    return value, at


@jit
def decode(data, start, stop, width, height):
    """Runs by column of the mask in ``data[start:stop]``."""
    if start < 0 or stop > len(data):
        raise ValueError(_DAMAGED)
    before = np.zeros(2, dtype=np.int64)
    total = np.int64(width) * np.int64(height)
    runs, first, last = 0, -1, -1
    at, position, k = start, np.int64(0), 0
    while at < stop:
        length, at = next_length(data, at, stop, k, before)
        if length < 0 or position + length > total:
            raise ValueError(_DAMAGED)
        if k & 1 and length > 0:
            begin, end = position // height, (position + length - 1) // height
            runs += end - begin + 1
            if first < 0:
                first = begin
            last = end
        position += length
        k += 1
    if position != total:
        raise ValueError(_DAMAGED)
    columns = last - first + 1 if first >= 0 else 0
    pointer = np.zeros(columns + 1, dtype=np.int32)
    rows = np.empty((runs, 2), dtype=np.int32)
    at, position, k, run, column = start, np.int64(0), 0, 0, 0
    while at < stop:
        length, at = next_length(data, at, stop, k, before)
        if k & 1 and length > 0:
            left, row = length, position % height
            here = position // height - first
            while left > 0:
                end = min(row + left, height)
                while column < here:
                    column += 1
                    pointer[column] = run
                rows[run, 0], rows[run, 1] = row, end
                run += 1
                left -= end - row
                row = 0
                here += 1
        position += length
        k += 1
    while column < columns:
        column += 1
        pointer[column] = run
    return np.int64(first), pointer, rows


@jit
def mask_in(mask, x1, y1, x2, y2):
    """Area of a mask inside a window."""
    first, pointer, rows = mask
    begin = max(math.floor(x1) - first, 0)
    end = min(math.ceil(x2) - first, len(pointer) - 1)
    total = 0.0
    for column in range(begin, end):
        x = float(first + column)
        length = 0.0
        for k in range(pointer[column], pointer[column + 1]):
            low, high = max(float(rows[k, 0]), y1), min(float(rows[k, 1]), y2)
            if high > low:
                length += high - low
        total += (min(x2, x + 1.0) - max(x1, x)) * length
    return total


@jit
def shortest(marginal, needed):
    """(shortest interval that holds ``needed`` of a marginal, largest start, least end of any that does)."""
    count = len(marginal)
    total = 0.0
    for k in range(count):
        total += marginal[k]
    spare = max(total - needed, 0.0)
    left, start = 0.0, 0
    while start < count - 1 and left + marginal[start] <= spare:
        left += marginal[start]
        start += 1
    largest_start = start + min((spare - left) / marginal[start], 1.0)
    right, end = 0.0, count
    while end > 1 and right + marginal[end - 1] <= spare:
        right += marginal[end - 1]
        end -= 1
    least_end = end - min((spare - right) / marginal[end - 1], 1.0)
    # The held share is piecewise linear in the start, so a shortest interval begins or ends at a pixel's edge.
    shortest = float(count)
    held, stop = 0.0, 0
    for start in range(count):
        while stop < count and held < needed:
            held += marginal[stop]
            stop += 1
        if held < needed:
            break
        if marginal[stop - 1] > 0:
            shortest = min(shortest, stop - start - (held - needed) / marginal[stop - 1])
        if marginal[start] > 0:
            shortest = min(shortest, stop - start - min((held - needed) / marginal[start], 1.0))
        held -= marginal[start]
    return max(shortest * (1 - 1e-9), 1e-9), largest_start, least_end
