"""Windows: crop rectangles (x1, y1, x2, y2) in scene pixels that hold one centred object.

Pure geometry on NumPy arrays, no images. ``rules.py`` says what a window must obey and measures it; ``shapes.py`` knows
in closed form which windows obey all rules but the one about the other objects; here windows are drawn from those until
few enough others are in them.
"""

from __future__ import annotations

import math

import numpy as np

from .rules import (
    SLACK,
    WindowMeasure,
    WindowRules,
    clip_boxes,
    few_others,
    intersections,
    measure_window,
    union_area,
    violations,
)
from .shapes import WindowShapes

__all__ = [
    'REASONS',
    'WindowMeasure',
    'WindowRules',
    'WindowShapes',
    'canonical_window',
    'draw_window',
    'few_others',
    'intersections',
    'measure_window',
    'union_area',
    'violations',
]

REASONS = ('accepted', 'crowded', 'too small', 'too long', 'at the border', 'no window')
"""What can become of an object: the first, or why it is dropped."""

_CANONICAL_FILL = 0.5  # the canonical window prefers that its target fills half of it
_TIGHT = 0.35  # where others crowd in, the second half of the tries draws from this part of the range of log areas


def _sides(log_aspect: np.ndarray, log_area: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.exp((log_area + log_aspect) / 2), np.exp((log_area - log_aspect) / 2)


def _rounded(windows: np.ndarray, scene_size: tuple[int, int]) -> np.ndarray:
    """To float32, the precision that windows are stored and measured in, and inside the scene."""
    limits = np.array([scene_size[0], scene_size[1]] * 2, dtype=np.float32)
    return np.clip(windows.astype(np.float32), 0.0, limits)


def draw_window(
    target: np.ndarray,
    others: np.ndarray,
    scene_size: tuple[int, int],
    out_size: tuple[int, int],
    rules: WindowRules,
    rng: np.random.Generator,
    *,
    max_tries: int = 64,
) -> np.ndarray | None:
    """Draw a random window that obeys all rules, straight in scene pixels.

    Aspect log-uniform in its feasible range, then area log-uniform in its feasible range narrowed by
    ``rules.draw_fill``, then the position uniform in its feasible interval, axis by axis in random order. Windows with
    too many others are drawn again, up to ``max_tries``.

    Args:
        target: (4,) xyxy box inside the scene.
        others: (K, 4) boxes of all other objects.
        scene_size: (width, height) of the scene.
        out_size: (height, width) of the crop.
        rules: the rules.
        rng: source of randomness.
        max_tries: most windows that are tried.

    Returns:
        (4,) float32 xyxy inside the scene, or None if no try obeyed the rules (there may be none: see
        :func:`canonical_window`).
    """
    target = np.asarray(target, dtype=np.float64)
    others = np.asarray(others, dtype=np.float64).reshape(-1, 4)
    shapes = WindowShapes(target, scene_size, out_size, rules)
    if shapes.empty:
        return None
    log_target = math.log((target[2] - target[0]) * (target[3] - target[1]))
    tries = 0
    while tries < max_tries:
        count = min(4 if tries == 0 else 16, max_tries - tries)  # the first tries mostly do
        tries += count
        draws = rng.random((5, count))
        log_aspect = shapes.log_aspect[0] + draws[0] * (shapes.log_aspect[1] - shapes.log_aspect[0])
        low, high = shapes.log_area(log_aspect)
        low, high = (np.clip(log_target - math.log(fill), low, high) for fill in rules.draw_fill[::-1])
        share = draws[1] if tries <= max_tries // 2 else _TIGHT * draws[1]
        width, height = _sides(log_aspect, low + share * (high - low))
        windows = _rounded(shapes.place(width, height, draws[2], draws[3], draws[4] < 0.5), scene_size)
        good = np.flatnonzero(few_others(windows.astype(np.float64), target, others, rules))
        if len(good):
            return windows[good[0]]
    return None


def _why_no_shape(
    target: np.ndarray, scene_size: tuple[int, int], out_size: tuple[int, int], rules: WindowRules
) -> str:
    """Name the rule without which there would be a window."""
    settings = rules.as_dict()
    no_border, no_size, no_aspect = dict(max_offset=0.4999), dict(max_upsample=1e9), dict(aspect=(1e-6, 1e6))
    for reason, changes in (
        ('at the border', no_border),  # the same object elsewhere would do
        ('too small', no_size),
        ('too long', no_aspect),
        ('too small', {**no_size, **no_border}),
        ('too small', {**no_size, **no_aspect}),
    ):
        if not WindowShapes(target, scene_size, out_size, WindowRules(**{**settings, **changes})).empty:
            return reason
    return 'no window'


def canonical_window(
    target: np.ndarray,
    others: np.ndarray,
    scene_size: tuple[int, int],
    out_size: tuple[int, int],
    rules: WindowRules,
) -> tuple[np.ndarray | None, str]:
    """The best window of a coarse, fixed grid, or the reason why there is none. Deterministic.

    Best = little distortion, little offset, and a fill near one half. Centred windows are tried first; windows at the
    edges of what the rules allow only if other objects spoil those. Arguments as in :func:`draw_window`.

    Returns:
        ((4,) float32 window, 'accepted'), or (None, reason) with a reason out of ``REASONS``: 'too small' (it would
        have to be enlarged too much), 'too long' (its aspect is too far from the crop's), 'at the border' (no window
        inside the scene is centred on it), 'crowded' (others cover too much of every window of the grid), 'no window'.
    """
    target = np.asarray(target, dtype=np.float64)
    others = np.asarray(others, dtype=np.float64).reshape(-1, 4)
    shapes = WindowShapes(target, scene_size, out_size, rules)
    if shapes.empty:
        return None, _why_no_shape(target, scene_size, out_size, rules)
    # Others cover c of the target's box. A window that holds the share s of the target holds at least c - (1 - s) of
    # that, so that others >= 1 - (1 - c) / s, which is least at s = min_inside.
    if len(others):
        covered = union_area(clip_boxes(others, target)) / float(np.prod(target[2:] - target[:2]))
        if 1 - (1 - covered) / rules.min_inside >= max(rules.max_others, SLACK):
            return None, 'crowded'

    low, high = shapes.log_aspect
    neutral = float(np.clip(shapes.log_out_aspect, low, high))
    aspects = np.unique([low, (low + neutral) / 2, neutral, (neutral + high) / 2, high])
    areas = np.linspace(0.0, 1.0, 7)
    log_aspect = np.repeat(aspects, len(areas))
    area_low, area_high = shapes.log_area(log_aspect)
    log_area = area_low + np.tile(areas, len(aspects)) * (area_high - area_low)
    width, height = _sides(log_aspect, log_area)
    best = _best_window(shapes.nearest_centred(width, height), target, others, scene_size, out_size, rules)
    if best is None and len(others):
        steps = np.linspace(0.0, 1.0, 5)
        u, v = (grid.reshape(-1) for grid in np.meshgrid(steps, steps))
        shape, place = np.divmod(np.arange(len(width) * len(u)), len(u))
        windows = shapes.place(width[shape], height[shape], u[place], v[place], place % 2 == 0)
        best = _best_window(windows, target, others, scene_size, out_size, rules)
    if best is None:
        return None, 'crowded' if len(others) else 'no window'
    return best, 'accepted'


def _best_window(
    windows: np.ndarray,
    target: np.ndarray,
    others: np.ndarray,
    scene_size: tuple[int, int],
    out_size: tuple[int, int],
    rules: WindowRules,
) -> np.ndarray | None:
    windows = _rounded(windows, scene_size)
    precise = windows.astype(np.float64)
    side = precise[:, 2:] - precise[:, :2]
    offset = np.abs(target[:2] + target[2:] - precise[:, :2] - precise[:, 2:]) / 2 / side
    fill = intersections(precise, target[None])[:, 0] / np.prod(side, axis=1)
    distortion = np.log(side[:, 0] / side[:, 1] * out_size[0] / out_size[1])
    cost = 4 * distortion**2 + 8 * (offset**2).sum(axis=1) + np.log(fill / _CANONICAL_FILL) ** 2
    order = np.argsort(cost, kind='stable')
    for block in np.array_split(order, max(1, len(order) // 32)):  # mostly the first block decides
        good = block[few_others(precise[block], target, others, rules)]
        if len(good):
            return windows[good[0]]
    return None
