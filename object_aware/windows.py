"""Windows: crop rectangles (x1, y1, x2, y2) in scene pixels that hold one centred object.

``rules.py`` says what a window must obey and measures it; ``shapes.py`` and ``kernels.py`` know which shapes obey all
rules but the one about the other objects and draw windows from those until few enough others are in them. Here are the
functions that Python code calls. The compiled code is loaded by the first call, or by :func:`prepare`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .rules import ROUNDING, SLACK, WindowMeasure, WindowRules, intersections, measure_window, union_area, violations

__all__ = [
    'REASONS',
    'WindowMeasure',
    'WindowRules',
    'canonical_window',
    'decide',
    'draw_in_scene',
    'draw_window',
    'intersections',
    'measure_window',
    'prepare',
    'union_area',
    'violations',
]

REASONS = ('accepted', 'crowded', 'too small', 'too long', 'at the border', 'no window', 'too thin')
"""What can become of an object: the first, or why it is dropped."""

GRID = (5, 9, 5)
"""Aspects, areas and positions per axis that the search for a canonical window tries."""


def prepare() -> Any:
    """Load the compiled code (the first time ever on a machine: compile it, which takes some seconds).

    Call it before worker processes are forked, so that they share it.

    Raises:
        ImportError: numba is missing.
    """
    from . import kernels

    return kernels


@functools.lru_cache(maxsize=16)
def _limits(out_size: tuple[int, int], rules: WindowRules) -> tuple[float, ...]:
    """The rules as the kernels use them: the fields of ``shapes.Limits``."""
    from .shapes import Limits

    scale = rules.max_upsample * (1 - SLACK)
    aspect_out = math.log(out_size[1] / out_size[0])
    low, high = (aspect_out + math.log(bound) for bound in rules.aspect)
    low, high = (low + SLACK, high - SLACK) if high - low > 2 * SLACK else ((low + high) / 2,) * 2
    limits = Limits(
        inside=min(1.0, rules.min_inside * (1 + SLACK)),
        offset=rules.max_offset * (1 - SLACK),
        fill=rules.min_fill * (1 + SLACK),
        others=rules.max_others * (1 - SLACK),
        least_width=out_size[1] / scale,
        least_height=out_size[0] / scale,
        aspect_low=low,
        aspect_high=high,
        aspect_out=aspect_out,
        draw_low=math.log(rules.draw_fill[0]),
        draw_high=math.log(rules.draw_fill[1]),
        test_inside=min(rules.min_inside * (1 + SLACK / 2), 1 - ROUNDING / 2),
        test_fill=rules.min_fill * (1 + SLACK / 2),
        test_offset=max(rules.max_offset * (1 - SLACK / 2), ROUNDING / 2),
        by_mask=float(rules.measure == 'mask'),
    )
    return tuple(limits)


def _array(values: Any, dtype: type) -> np.ndarray:
    return np.ascontiguousarray(values, dtype=dtype)


_NO_OFFSETS, _NO_BYTES = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.uint8)


def _mask_columns(offsets: np.ndarray | None, data: np.ndarray | None, count: int) -> tuple[np.ndarray, np.ndarray]:
    if offsets is None or data is None:
        return np.zeros(count + 1, dtype=np.int64), _NO_BYTES
    offsets, data = _array(offsets, np.int64), _array(data, np.uint8)
    if len(offsets) != count + 1 or offsets[0] < 0 or offsets[-1] > len(data) or (np.diff(offsets) < 0).any():
        raise ValueError(f'The mask offsets of {count} objects do not fit them and {len(data)} bytes of masks.')
    return offsets, data


def decide(
    boxes: np.ndarray,
    crowd: np.ndarray,
    object_offsets: np.ndarray,
    sizes: np.ndarray,
    mask_offsets: np.ndarray | None,
    mask_bytes: np.ndarray | None,
    out_size: tuple[int, int],
    rules: WindowRules,
    *,
    grid: tuple[int, int, int] = GRID,
) -> tuple[np.ndarray, np.ndarray]:
    """For every object of many scenes its canonical window, or the reason why there is none. Deterministic.

    The canonical window is the best of a fixed grid of shapes and positions: little distortion, little offset, and a
    fill near one half. Centred windows are tried first; others only if none of those obeys the rules.

    Args:
        boxes: (N, 4) float32 xyxy inside their scenes.
        crowd: (N,) bool; crowds are no targets, but count among the others.
        object_offsets: (S + 1,) int64: the objects of scene s are the rows ``offsets[s]:offsets[s + 1]``.
        sizes: (S, 2) int32 width, height of each scene.
        mask_offsets: (N + 1,) int64 into ``mask_bytes``; an empty mask is none. None: no object has a mask.
        mask_bytes: (M,) uint8, compressed RLE (see ``masks.py``).
        out_size: (height, width) of the crops.
        rules: the rules.
        grid: numbers of aspects (odd), areas and positions per axis that are tried.

    Returns:
        (N,) uint8 index into ``REASONS``, 255 for crowds; (N, 4) float32 windows, NaN where there is none. The reasons:
        'too small' (it would have to be enlarged too much), 'too long' (its aspect is too far from the crop's), 'too
        thin' (its pixels fill too little of any window that holds them), 'at the border' (no window inside the scene
        is centred on it), 'crowded' (others cover too much of every window of the grid), 'no window'.

    Raises:
        ValueError: a mask does not fit its scene.
    """
    offsets, data = _mask_columns(mask_offsets, mask_bytes, len(boxes))
    return prepare().decide(
        _array(boxes, np.float32),
        _array(crowd, np.bool_),
        _array(object_offsets, np.int64),
        _array(sizes, np.int32),
        offsets,
        data,
        _limits(tuple(out_size), rules),
        grid,
    )


def draw_in_scene(
    boxes: np.ndarray,
    row: int,
    scene_size: tuple[int, int],
    out_size: tuple[int, int],
    rules: WindowRules,
    rng: np.random.Generator,
    *,
    mask_offsets: np.ndarray | None = None,
    mask_bytes: np.ndarray | None = None,
    max_tries: int = 256,
) -> np.ndarray | None:
    """Draw a random window for one object of a scene that obeys all rules, straight in scene pixels.

    Aspect log-uniform in its feasible range, then area log-uniform in its feasible range narrowed by
    ``rules.draw_fill``, then the position uniform in its feasible interval per axis. Windows that do not obey (too many
    others; too little of a mask) are drawn again, up to ``max_tries``.

    Args:
        boxes: (K, 4) float32 xyxy boxes of all objects of the scene, crowds too.
        row: which of them the window is for.
        scene_size: (width, height) of the scene.
        out_size: (height, width) of the crop.
        rules: the rules.
        rng: source of randomness; one number is taken from it.
        mask_offsets: (K + 1,) int64 places of the objects' masks in ``mask_bytes``; None: boxes only.
        mask_bytes: (M,) uint8, compressed RLE; may hold the masks of other scenes too.
        max_tries: most windows that are tried.

    Returns:
        (4,) float32 xyxy inside the scene, or None if no try obeyed the rules (there may be no such window).
    """
    if mask_offsets is None or mask_bytes is None:
        mask_offsets, mask_bytes = np.zeros(len(boxes) + 1, dtype=np.int64), _NO_BYTES
    if not 0 <= row < len(boxes) or len(mask_offsets) != len(boxes) + 1:
        raise ValueError(f'Row {row} and {len(mask_offsets)} mask offsets do not fit a scene of {len(boxes)} objects.')
    width, height = scene_size
    seed = rng.integers(0, 2**64, dtype=np.uint64)
    window = prepare().draw(
        _array(boxes, np.float32),
        int(row),
        int(width),
        int(height),
        _array(mask_offsets, np.int64),
        np.asarray(mask_bytes),
        _limits(tuple(out_size), rules),
        seed,
        max_tries,
    )
    return None if np.isnan(window[0]) else window


def _one_scene(target: np.ndarray, others: np.ndarray, masks: Sequence[bytes] | None) -> tuple[np.ndarray, ...]:
    """(boxes, mask offsets, mask bytes) of a scene whose first object is the target."""
    others = np.asarray(others, dtype=np.float32).reshape(-1, 4)
    boxes = np.concatenate([np.asarray(target, dtype=np.float32).reshape(1, 4), others])
    if masks is None:
        return boxes, np.zeros(len(boxes) + 1, dtype=np.int64), _NO_BYTES
    if len(masks) != len(boxes):
        raise ValueError(f'{len(masks)} masks were given for {len(boxes)} objects (the target and the others).')
    offsets = np.cumsum([0, *(len(mask) for mask in masks)], dtype=np.int64)
    return boxes, offsets, np.frombuffer(b''.join(masks), dtype=np.uint8)


def draw_window(
    target: np.ndarray,
    others: np.ndarray,
    scene_size: tuple[int, int],
    out_size: tuple[int, int],
    rules: WindowRules,
    rng: np.random.Generator,
    *,
    masks: Sequence[bytes] | None = None,
    max_tries: int = 256,
) -> np.ndarray | None:
    """:func:`draw_in_scene` for a target (4,) and its others (K, 4).

    ``masks``: compressed RLE of the target and of each other, ``b''`` for none.
    """
    boxes, offsets, data = _one_scene(target, others, masks)
    return draw_in_scene(
        boxes, 0, scene_size, out_size, rules, rng, mask_offsets=offsets, mask_bytes=data, max_tries=max_tries
    )


def canonical_window(
    target: np.ndarray,
    others: np.ndarray,
    scene_size: tuple[int, int],
    out_size: tuple[int, int],
    rules: WindowRules,
    *,
    masks: Sequence[bytes] | None = None,
) -> tuple[np.ndarray | None, str]:
    """:func:`decide` for one object. Arguments as in :func:`draw_window`.

    Returns:
        ((4,) float32 window, 'accepted'), or (None, reason) with a reason out of ``REASONS``.
    """
    boxes, offsets, data = _one_scene(target, others, masks)
    crowd = np.arange(len(boxes)) > 0  # the others are not asked for
    outcome, windows = decide(boxes, crowd, [0, len(boxes)], [scene_size], offsets, data, out_size, rules)
    reason = REASONS[outcome[0]]
    return (windows[0], reason) if reason == 'accepted' else (None, reason)
