"""What an object asks of its windows, and their feasible shapes (compiled).

Let A be a window's area and a its aspect (width / height); its width is sqrt(A a), its height sqrt(A / a). Every rule
that does not look at other objects bounds the area, the width or the height from below or above, so in (log a, log A)
the feasible set is a convex polygon with sides of slope 0, -1 and +1 (:class:`Shape`): aspect and area can be drawn
from it without a miss. For a target given by its box these bounds are exact. For one given by a mask they are necessary
(:func:`_mask_target`), and windows are measured by their pixels afterwards.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .compiling import jit
from .runs import shortest

ACCEPTED, CROWDED, TOO_SMALL, TOO_LONG, AT_THE_BORDER, NO_WINDOW, TOO_THIN = range(7)  # windows.REASONS
BOX, MASK, ANYTHING = 0, 1, 2  # what an object is known by
GAP = 1.0  # a mask may reach this far out of its box (pixels, by rounding) where the box stands for it


class Limits(NamedTuple):
    """The rules for one crop size as the kernels use them (all float64; see ``windows._limits``)."""

    inside: float  # narrowed by SLACK, as are offset, fill, others and the aspects: windows are drawn from these
    offset: float
    fill: float
    others: float
    least_width: float
    least_height: float
    aspect_low: float  # log of width / height
    aspect_high: float
    aspect_out: float
    draw_low: float  # log of target area / window area
    draw_high: float
    test_inside: float  # narrowed by half of that: each window is tested with these after rounding to float32
    test_fill: float
    test_offset: float
    by_mask: float  # 1: masks count where there are some; 0: boxes only


class Target(NamedTuple):
    """What an object asks of its windows."""

    centre_x: float  # of its box
    centre_y: float
    x1: float  # of its box, or the box of its pixels if it has a mask
    y1: float
    x2: float
    y2: float
    area: float
    least_width: float  # a narrower window cannot hold enough of it
    least_height: float
    most_width: float  # a wider window is not filled enough, or sticks out of the scene
    most_height: float
    must_x1: float  # every window starts at or before this and ends at or after must_x2
    must_y1: float
    must_x2: float
    must_y2: float
    has_mask: bool


class Shape(NamedTuple):
    """The feasible log aspects and log areas: max(area_low, width_low - a, height_low + a) <= log A <= min(...)."""

    low: float  # of log aspect; low > high: no window
    high: float
    area_low: float
    area_high: float
    width_low: float  # 2 log(least width)
    width_high: float
    height_low: float
    height_high: float


@jit
def _room(centre, side, offset):
    """A window inside the scene whose centre is near the target's cannot be wider than this."""
    return min(side, min(centre, side - centre) / (0.5 - offset))


@jit
def _box_target(box, width, height, limits):
    x1, y1, x2, y2 = float(box[0]), float(box[1]), float(box[2]), float(box[3])
    t_w, t_h = x2 - x1, y2 - y1
    cut = 1.0 - limits.inside
    centre_x, centre_y = (x1 + x2) / 2, (y1 + y2) / 2
    return Target(
        centre_x,
        centre_y,
        x1,
        y1,
        x2,
        y2,
        t_w * t_h,
        max(limits.inside * t_w, limits.least_width),
        max(limits.inside * t_h, limits.least_height),
        min(_room(centre_x, width, limits.offset), t_w / limits.fill),
        min(_room(centre_y, height, limits.offset), t_h / limits.fill),
        x1 + cut * t_w,
        y1 + cut * t_h,
        x2 - cut * t_w,
        y2 - cut * t_h,
        False,
    )


@jit
def _mask_target(box, mask, width, height, limits):
    """Necessary bounds for a target of pixels: by its column sums and row sums.

    A window holds at most what its columns hold, so it is at least as wide as the shortest interval of columns that
    hold enough, starts before too much is lost on its left, and so on. It sees at most its height times the longest
    row, so its width is at most that over the least fill.
    """
    first, pointer, rows = mask
    columns = len(pointer) - 1
    top, bottom = np.int64(2**31), np.int64(0)
    for k in range(len(rows)):
        top, bottom = min(top, rows[k, 0]), max(bottom, rows[k, 1])
    across, down = np.zeros(columns), np.zeros(bottom - top + 1)
    area = 0.0
    for column in range(columns):
        for k in range(pointer[column], pointer[column + 1]):
            across[column] += rows[k, 1] - rows[k, 0]
            down[rows[k, 0] - top] += 1.0
            down[rows[k, 1] - top] -= 1.0
        area += across[column]
    for k in range(1, len(down)):
        down[k] += down[k - 1]
    down = down[: bottom - top]
    needed = limits.inside * area
    least_w, must_x1, must_x2 = shortest(across, needed)
    least_h, must_y1, must_y2 = shortest(down, needed)
    centre_x, centre_y = (float(box[0]) + float(box[2])) / 2, (float(box[1]) + float(box[3])) / 2
    return Target(
        centre_x,
        centre_y,
        float(first),
        float(top),
        float(first + columns),
        float(bottom),
        area,
        max(least_w, limits.least_width),
        max(least_h, limits.least_height),
        min(_room(centre_x, width, limits.offset), down.max() / limits.fill),
        min(_room(centre_y, height, limits.offset), across.max() / limits.fill),
        first + must_x1,
        top + must_y1,
        first + must_x2,
        top + must_y2,
        True,
    )


@jit
def _anything_in(box, width, height, limits):
    """Bounds that hold for whatever mask a box can have: its area lies between a pixel and the whole box."""
    x1, y1, x2, y2 = box[0] - GAP, box[1] - GAP, box[2] + GAP, box[3] + GAP
    centre_x, centre_y = (x1 + x2) / 2, (y1 + y2) / 2
    return Target(
        centre_x,
        centre_y,
        x1,
        y1,
        x2,
        y2,
        (x2 - x1) * (y2 - y1),
        limits.least_width,
        limits.least_height,
        min(_room(centre_x, width, limits.offset), (x2 - x1) / limits.fill),
        min(_room(centre_y, height, limits.offset), (y2 - y1) / limits.fill),
        x2,  # starts anywhere, ends anywhere
        y2,
        x1,
        y1,
        True,
    )


@jit
def make_target(known_by, box, mask, width, height, limits):
    """(target, shape) of an object."""
    if known_by == BOX:
        target = _box_target(box, width, height, limits)
    elif known_by == MASK:
        target = _mask_target(box, mask, width, height, limits)
    else:
        target = _anything_in(box, width, height, limits)
    if target.most_width <= 0 or target.most_height <= 0 or target.area <= 0:
        return target, Shape(1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    least = 1e-9 if known_by == ANYTHING else limits.inside * target.area
    area_low, area_high = math.log(least), math.log(target.area / limits.fill)
    width_low, width_high = 2 * math.log(target.least_width), 2 * math.log(target.most_width)
    height_low, height_high = 2 * math.log(target.least_height), 2 * math.log(target.most_height)
    low, high = limits.aspect_low, limits.aspect_high
    if area_low > area_high or width_low > width_high or height_low > height_high:
        low, high = 1.0, 0.0
    else:  # each pair of a lower and an upper bound of different slopes leaves a half-line of aspects
        low = max(max(low, area_low - height_high), max(width_low - area_high, (width_low - height_high) / 2))
        high = min(min(high, width_high - area_low), min(area_high - height_low, (width_high - height_low) / 2))
    return target, Shape(low, high, area_low, area_high, width_low, width_high, height_low, height_high)


@jit
def log_areas(shape, aspect):
    """Feasible interval of log area for a feasible log aspect."""
    low = max(shape.area_low, max(shape.width_low - aspect, shape.height_low + aspect))
    high = min(shape.area_high, min(shape.width_high - aspect, shape.height_high + aspect))
    return low, max(low, high)


@jit
def _without(limits, border, size, aspect):
    """The limits without the rule about the border, about the enlargement, about the aspect."""
    return Limits(
        limits.inside,
        0.4999 if border else limits.offset,
        limits.fill,
        limits.others,
        1e-9 if size else limits.least_width,
        1e-9 if size else limits.least_height,
        -14.0 if aspect else limits.aspect_low,
        14.0 if aspect else limits.aspect_high,
        limits.aspect_out,
        limits.draw_low,
        limits.draw_high,
        limits.test_inside,
        limits.test_fill,
        limits.test_offset,
        limits.by_mask,
    )


@jit
def why_no_shape(known_by, box, mask, width, height, limits):
    """Name the rule without which there would be a window (as an index into REASONS)."""
    for k in range(5):
        border, size, aspect = k == 0 or k == 3, k == 1 or k >= 3, k == 2 or k == 4
        shape = make_target(known_by, box, mask, width, height, _without(limits, border, size, aspect))[1]
        if shape.low <= shape.high:
            return AT_THE_BORDER if k == 0 else TOO_LONG if k == 2 else TOO_SMALL
    return TOO_THIN if known_by == MASK else NO_WINDOW


@jit
def reach_of(target, shape, width, height, limits):
    """(x1, y1, x2, y2) that holds every window of these shapes."""
    half = (0.5 + limits.offset) * (1 + 1e-6)
    most_w = math.exp(min(shape.width_high, shape.area_high + shape.high) / 2) * half
    most_h = math.exp(min(shape.height_high, shape.area_high - shape.low) / 2) * half
    return (
        max(target.centre_x - most_w, 0.0),
        max(target.centre_y - most_h, 0.0),
        min(target.centre_x + most_w, float(width)),
        min(target.centre_y + most_h, float(height)),
    )
