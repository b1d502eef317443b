"""Which windows obey the rules for an object (compiled): found by search, or drawn at random.

``rules.py`` defines what is measured, in plain NumPy; here is the same, fast enough for millions of objects and for one
draw per training sample. Everything runs in one thread and depends on its arguments alone.
"""

from __future__ import annotations

import math

import numpy as np

from .company import few, gather, others_in
from .compiling import entry, jit, readonly, sources_hash, types
from .runs import decode, mask_in
from .shapes import (
    ACCEPTED,
    ANYTHING,
    BOX,
    CROWDED,
    MASK,
    NO_WINDOW,
    TOO_THIN,
    Limits,
    log_areas,
    make_target,
    reach_of,
    why_no_shape,
)

NO_TARGET = 255  # the outcome of a crowd
_CANONICAL_FILL = 0.5  # the canonical window prefers that its target fills half of it
_FIRST_STEP, _LAST_STEP = 1 / 8, 1 / 512  # of moving a window, as shares of the feasible ranges
_TIGHT = 0.35  # where others crowd in, the second half of the tries draws from this part of the range of log areas


# ---- one window -----------------------------------------------------------------------------------------------------


@jit
def _starts(target, limits, axis, scene_side, side, across, held):
    """Feasible interval of a window's start on one axis (0 = x, 1 = y).

    By box, a window has to hold the area that ``inside`` and ``fill`` need: ``held`` is the most that it can hold on
    the other axis (before that one is placed) or what it does hold (after). By mask the bounds are necessary only.
    """
    t = target
    start, end, centre = (t.x1, t.x2, t.centre_x) if axis == 0 else (t.y1, t.y2, t.centre_y)
    if t.has_mask:
        must_start, must_end = (t.must_x1, t.must_x2) if axis == 0 else (t.must_y1, t.must_y2)
    else:
        needed = max(limits.inside * t.area, limits.fill * side * across)
        overlap = min(needed / max(held, 1e-9), min(side, end - start))
        must_start, must_end = end - overlap, start + overlap
    low = max(centre - side / 2 - limits.offset * side, max(0.0, must_end - side))
    high = min(centre - side / 2 + limits.offset * side, min(scene_side - side, must_start))
    return low, max(low, high)


@jit
def _held(target, axis, start, side):
    """Overlap of a window with the target's box on one axis."""
    if axis == 0:
        return min(start + side, target.x2) - max(start, target.x1)
    return min(start + side, target.y2) - max(start, target.y1)


@jit
def _place(target, limits, width, height, w, h, u, v, x_first):
    """Start of a window of shape (w, h); u, v in 0..1 say where in its feasible interval each axis lies.

    The axis that is placed first leaves the other one enough room. By box, a feasible shape obeys all rules when it is
    nearest to centred, so no interval is empty.
    """
    if x_first:
        low, high = _starts(target, limits, 0, width, w, h, min(h, target.y2 - target.y1))
        x = low + u * (high - low)
        low, high = _starts(target, limits, 1, height, h, w, _held(target, 0, x, w))
        return x, low + v * (high - low)
    low, high = _starts(target, limits, 1, height, h, w, min(w, target.x2 - target.x1))
    y = low + v * (high - low)
    low, high = _starts(target, limits, 0, width, w, h, _held(target, 1, y, h))
    return low + u * (high - low), y


@jit
def _rounded(x, y, w, h, width, height):
    """A window in float32, the precision that windows are stored and measured in, inside the scene; as float64."""
    return (
        float(np.float32(max(x, 0.0))),
        float(np.float32(max(y, 0.0))),
        float(min(np.float32(x + w), np.float32(width))),
        float(min(np.float32(y + h), np.float32(height))),
    )


@jit
def _seen(target, mask, limits, x1, y1, x2, y2):
    """Area of the target in a window that obeys every rule but the one about the others; -1 if it does not."""
    w, h = x2 - x1, y2 - y1
    offset = max(abs(target.centre_x - (x1 + x2) / 2) / w, abs(target.centre_y - (y1 + y2) / 2) / h)
    if not offset <= limits.test_offset:
        return -1.0
    if target.has_mask:
        seen = mask_in(mask, x1, y1, x2, y2)
    else:
        seen = (min(x2, target.x2) - max(x1, target.x1)) * (min(y2, target.y2) - max(y1, target.y1))
    if seen < limits.test_inside * target.area or seen < limits.test_fill * w * h:
        return -1.0
    return seen


# ---- the best window ------------------------------------------------------------------------------------------------


@jit
def _judge(target, mask, company, limits, window, bent, least):
    """(cost, share of the others) of a window; infinite if it breaks a rule (a cost of ``least`` or more counts as so).

    Little distortion, little offset and a fill near one half cost little. ``bent`` is the log of the distortion.
    """
    x1, y1, x2, y2 = window
    off_x = (target.centre_x - (x1 + x2) / 2) / (x2 - x1)
    off_y = (target.centre_y - (y1 + y2) / 2) / (y2 - y1)
    cost = 4 * bent * bent + 8 * (off_x * off_x + off_y * off_y)
    if cost >= least:
        return math.inf, math.inf
    seen = _seen(target, mask, limits, x1, y1, x2, y2)
    if seen < 0:
        return math.inf, math.inf
    cost += math.log(seen / ((x2 - x1) * (y2 - y1)) / _CANONICAL_FILL) ** 2
    if cost >= least:
        return math.inf, math.inf
    others = others_in(company, x1, y1, x2, y2, limits.others * seen)
    return cost if few(others, limits.others * seen) else math.inf, others / seen


@jit
def _crowded(target, company, limits, x1, y1, x2, y2):
    """Whether the others cover too much of what a whole set of windows holds: then they do of each of the windows."""
    limit = limits.others * target.area
    return x2 > x1 and y2 > y1 and not few(others_in(company, x1, y1, x2, y2, limit), limit)


@jit
def _sides(size, aspect):
    return math.exp((size + aspect) / 2), math.exp((size - aspect) / 2)


@jit
def _centred(target, shape, mask, company, limits, width, height, grid):
    """The best window of a fixed grid of shapes, each as centred as it can be; NaN if none obeys the rules."""
    best, least = (math.nan, math.nan, math.nan, math.nan), math.inf
    neutral = min(max(limits.aspect_out, shape.low), shape.high)
    half = grid[0] // 2
    log_area, log_inside = math.log(target.area / _CANONICAL_FILL), math.log(limits.inside)
    for i in range(2 * half + 1):
        side = (i + 1) // 2 / half * (-1 if i % 2 else 1)  # 0, then further and further to both sides
        aspect = neutral + side * (neutral - shape.low if side < 0 else shape.high - neutral)
        bent = aspect - limits.aspect_out
        if 4 * bent * bent >= least or (i > 0 and aspect == neutral):
            continue
        low, high = log_areas(shape, aspect)
        for j in range(grid[1]):
            size = low + (high - low) * j / (grid[1] - 1)
            far = max(size - log_area, log_area + log_inside - size)  # a bound of |log(fill / canonical fill)|
            if far > 0 and 4 * bent * bent + far * far >= least:
                continue
            w, h = _sides(size, aspect)
            x_low, x_high = _starts(target, limits, 0, width, w, h, min(h, target.y2 - target.y1))
            y_low, y_high = _starts(target, limits, 1, height, h, w, min(w, target.x2 - target.x1))
            x = min(max(target.centre_x - w / 2, x_low), x_high)
            y = min(max(target.centre_y - h / 2, y_low), y_high)
            window = _rounded(x, y, w, h, width, height)
            cost = _judge(target, mask, company, limits, window, bent, least)[0]
            if cost < least:
                least, best = cost, window
    return best


@jit
def _aside(target, shape, mask, company, limits, width, height, grid):
    """The best window of a fixed grid of shapes and positions; where none obeys the rules, the one with the least
    others is moved in small steps until it does. NaN if it never does.

    Sets of windows that the others spoil together are left out (:func:`_crowded`).
    """
    best, least = (math.nan, math.nan, math.nan, math.nan), math.inf
    start, fewest = (0.0, 0.0, 0.0, 0.0), math.inf
    last = grid[2] - 1
    for i in range(grid[0]):
        aspect = shape.low + (shape.high - shape.low) * i / (grid[0] - 1)
        low, high = log_areas(shape, aspect)
        for j in range(grid[1]):
            w, h = _sides(low + (high - low) * j / (grid[1] - 1), aspect)
            x_low, x_high = _starts(target, limits, 0, width, w, h, min(h, target.y2 - target.y1))
            y_low, y_high = _starts(target, limits, 1, height, h, w, min(w, target.x2 - target.x1))
            if _crowded(target, company, limits, x_high, y_high, x_low + w, y_low + h):
                break  # a larger window holds more of what they spoil
            for u in range(grid[2]):
                x = x_low + (x_high - x_low) * u / last
                y_low, y_high = _starts(target, limits, 1, height, h, w, _held(target, 0, x, w))
                if _crowded(target, company, limits, x, y_high, x + w, y_low + h):
                    continue
                for v in range(grid[2]):
                    window = _rounded(x, y_low + (y_high - y_low) * v / last, w, h, width, height)
                    cost, others = _judge(target, mask, company, limits, window, aspect - limits.aspect_out, least)
                    if cost < least:
                        least, best = cost, window
                    if others < fewest:
                        fewest = others
                        start = (i / (grid[0] - 1), j / (grid[1] - 1), u / last, v / last)
    if least < math.inf or fewest == math.inf:
        return best
    place = np.array(start)
    step = _FIRST_STEP
    while step >= _LAST_STEP:
        moved = False
        for k in range(8):
            before = place[k // 2]
            place[k // 2] = min(max(before + (step if k % 2 else -step), 0.0), 1.0)
            aspect = shape.low + (shape.high - shape.low) * place[0]
            low, high = log_areas(shape, aspect)
            w, h = _sides(low + (high - low) * place[1], aspect)
            x, y = _place(target, limits, width, height, w, h, place[2], place[3], True)
            window = _rounded(x, y, w, h, width, height)
            cost, others = _judge(target, mask, company, limits, window, aspect - limits.aspect_out, math.inf)
            if cost < math.inf:
                return window
            if others < fewest:
                fewest, moved = others, True
            else:
                place[k // 2] = before
        if not moved:
            step /= 2
    return best


@jit
def _hopeless(target, company, limits):
    """Whether the others cover too much of what every window holds: then they do of every window."""
    if _crowded(target, company, limits, target.must_x1, target.must_y1, target.must_x2, target.must_y2):
        return True
    if target.has_mask:
        return False
    # Others cover c of the target's box. A window that holds the share s of it holds at least c - (1 - s) of that, so
    # that others >= 1 - (1 - c) / s, which is least at s = inside.
    most = (1 - (1 - limits.others) * limits.inside) * target.area
    most = max(most, 1e-9 * target.area)
    return not few(others_in(company, target.x1, target.y1, target.x2, target.y2, most), most)


# ---- all objects of many scenes, and one draw -----------------------------------------------------------------------


@jit
def _masks_of(boxes, mask_offsets, mask_bytes, width, height, limits):
    """(has mask (K,), list of masks) of the objects of a scene; one without a mask gets an empty one."""
    none = (np.int64(0), np.zeros(1, dtype=np.int32), np.empty((0, 2), dtype=np.int32))
    has = np.zeros(len(boxes), dtype=np.bool_)
    masks = [none]
    masks.pop()
    for k in range(len(boxes)):
        mask = none
        if limits.by_mask > 0 and mask_offsets[k + 1] > mask_offsets[k]:
            mask = decode(mask_bytes, mask_offsets[k], mask_offsets[k + 1], width, height)
            has[k] = len(mask[2]) > 0
        masks.append(mask)
    return has, masks


@jit
def _decide(boxes, crowd, object_offsets, sizes, mask_offsets, mask_bytes, limits, grid):
    """See ``windows.decide``; ``grid`` is (aspects, areas, positions per axis) of the search."""
    outcome = np.full(len(boxes), NO_TARGET, dtype=np.uint8)
    windows = np.full((len(boxes), 4), np.nan, dtype=np.float32)
    none = (np.int64(0), np.zeros(1, dtype=np.int32), np.empty((0, 2), dtype=np.int32))
    for scene in range(len(sizes)):
        start, stop = object_offsets[scene], object_offsets[scene + 1]
        width, height = np.int64(sizes[scene, 0]), np.int64(sizes[scene, 1])
        here = boxes[start:stop].astype(np.float64)
        open_ = np.zeros(stop - start, dtype=np.bool_)
        for k in range(stop - start):
            if crowd[start + k]:
                continue
            known_by = BOX
            if limits.by_mask > 0 and mask_offsets[start + k + 1] > mask_offsets[start + k]:
                known_by = ANYTHING
            shape = make_target(known_by, here[k], none, width, height, limits)[1]
            if shape.low > shape.high:
                outcome[start + k] = why_no_shape(known_by, here[k], none, width, height, limits)
            else:
                open_[k] = True
        if not open_.any():
            continue
        offsets = mask_offsets[start : stop + 1] if limits.by_mask > 0 else mask_offsets[:0]
        has, masks = _masks_of(here, offsets, mask_bytes, width, height, limits)
        for k in range(stop - start):
            if not open_[k]:
                continue
            known_by = MASK if has[k] else BOX
            target, shape = make_target(known_by, here[k], masks[k], width, height, limits)
            if shape.low > shape.high:
                outcome[start + k] = why_no_shape(known_by, here[k], masks[k], width, height, limits)
                continue
            reach = reach_of(target, shape, width, height, limits)
            company = gather(here, k, has, masks, reach)
            alone = len(company[0]) == 0 and len(company[1][2]) == 0
            if not alone and _hopeless(target, company, limits):
                outcome[start + k] = CROWDED
                continue
            best = _centred(target, shape, masks[k], company, limits, width, height, grid)
            if math.isnan(best[0]) and (not alone or has[k]):
                best = _aside(target, shape, masks[k], company, limits, width, height, grid)
            if not math.isnan(best[0]):
                outcome[start + k] = ACCEPTED
                windows[start + k] = np.array(best, dtype=np.float64)
            elif alone:
                outcome[start + k] = TOO_THIN if has[k] else NO_WINDOW
            else:
                outcome[start + k] = CROWDED
    return outcome, windows


@jit
def _random(state):
    """The next number in 0..1 of a splitmix64 generator (Steele, Lea, Flood 2014)."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return float(z >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@jit
def _draw(scene_boxes, row, width, height, mask_offsets, mask_bytes, limits, seed, max_tries):
    """A random window for one object of a scene, NaN if no try obeyed the rules; see ``windows.draw_in_scene``."""
    window = np.full(4, np.nan, dtype=np.float32)
    boxes = scene_boxes.astype(np.float64)
    has, masks = _masks_of(boxes, mask_offsets, mask_bytes, width, height, limits)
    mask = masks[row]
    target, shape = make_target(MASK if has[row] else BOX, boxes[row], mask, width, height, limits)
    if shape.low > shape.high:
        return window
    company = gather(boxes, row, has, masks, reach_of(target, shape, width, height, limits))
    log_target = math.log(target.area)
    state = np.array([seed], dtype=np.uint64)
    for k in range(max_tries):
        aspect = shape.low + _random(state) * (shape.high - shape.low)
        low, high = log_areas(shape, aspect)
        from_ = min(max(log_target - limits.draw_high, low), high)
        to = min(max(log_target - limits.draw_low, low), high)
        share = _random(state) * (1.0 if 2 * k < max_tries else _TIGHT)
        area = from_ + share * (to - from_)
        w, h = math.exp((area + aspect) / 2), math.exp((area - aspect) / 2)
        u, v, x_first = _random(state), _random(state), _random(state) < 0.5
        x, y = _place(target, limits, width, height, w, h, u, v, x_first)
        x1, y1, x2, y2 = _rounded(x, y, w, h, width, height)
        seen = _seen(target, mask, limits, x1, y1, x2, y2)
        if seen < 0:
            continue
        limit = limits.others * seen
        if few(others_in(company, x1, y1, x2, y2, limit), limit):
            window[0], window[1], window[2], window[3] = x1, y1, x2, y2
            break
    return window


_LIMITS = types.UniTuple(types.float64, len(Limits._fields))  # no class of ours: a renamed one would break the cache
_BOXES, _FLAGS, _OFFSETS = readonly(types.float32, 2), readonly(types.boolean), readonly(types.int64)
_SIZES, _BYTES = readonly(types.int32, 2), readonly(types.uint8)


def _entries(version):
    """The functions that Python calls; their cache on disk is good for this version of the files they are made of."""

    @entry(
        types.Tuple((types.uint8[::1], types.float32[:, ::1]))(
            _BOXES, _FLAGS, _OFFSETS, _SIZES, _OFFSETS, _BYTES, _LIMITS, types.UniTuple(types.int64, 3)
        )
    )
    def decide(boxes, crowd, object_offsets, sizes, mask_offsets, mask_bytes, limits, grid):
        _ = version
        return _decide(boxes, crowd, object_offsets, sizes, mask_offsets, mask_bytes, Limits(*limits), grid)

    @entry(
        types.float32[::1](
            _BOXES, types.int64, types.int64, types.int64, _OFFSETS, _BYTES, _LIMITS, types.uint64, types.int64
        )
    )
    def draw(boxes, row, width, height, mask_offsets, mask_bytes, limits, seed, max_tries):
        _ = version
        return _draw(boxes, row, width, height, mask_offsets, mask_bytes, Limits(*limits), seed, max_tries)

    return decide, draw


decide, draw = _entries(sources_hash('company', 'runs', 'shapes'))
