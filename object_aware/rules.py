"""The rules of a training window, and how a window is measured against them.

This is the definition, in plain NumPy; the search for windows is compiled (``kernels.py``) and must agree with it.

An object covers the pixels of its mask, or its box where it has none or where ``rules.measure`` is 'box'. A mask's area
in a window is the area of its pixels' unit squares cut by the window. The others cover the union of theirs.
Consequences, on the careful side:

* Where the others overlap the target, the area counts for the *others* too. By mask that is rare. By box it is not: a
  box does not say whose those pixels are. A tie on a person counts, and so does the table under a plate.
* A crowd region counts with its whole mask or box.

The offset is always that of the centre of the target's annotated box.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np

SLACK = 1e-4
"""Relative safety margin by which rules are narrowed for drawing, so that rounding to float32 cannot break one."""

ROUNDING = 2e-5
"""Room for float32 coordinates where a rule allows a single value: min_inside=1, max_offset=0, aspect=(1, 1)."""

MEASURES = ('mask', 'box')


@dataclass(frozen=True)
class WindowRules:
    """What every training window must obey.

    Attributes:
        min_inside: least share of the target's area that lies inside the window.
        max_offset: largest distance between the target's centre and the window's centre, per axis, in units of the
            window's side.
        min_fill: least share of the window's area that the target covers.
        max_others: all other objects together cover less than this times what the target covers inside the window.
        max_upsample: largest enlargement of either side from window to crop.
        aspect: range of the window's aspect (width / height) relative to the crop's aspect; 1 means no distortion.
        draw_fill: range of target area / window area for random drawing, narrowed to what the rules above allow for a
            target.
        measure: 'mask' (each object by its mask if it has one, else by its box) or 'box' (all by their boxes).
        min_iou: scenes without a target, used by the overlap rule (see ``overlap.py``): every window's intersection
            over union with the scene's own window is more than this.
    """

    min_inside: float = 0.9
    max_offset: float = 0.25
    min_fill: float = 0.15
    max_others: float = 0.30
    max_upsample: float = 4.0
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    draw_fill: tuple[float, float] = (0.15, 1.0)
    measure: str = 'mask'
    min_iou: float = 0.5

    def __post_init__(self) -> None:
        def check(condition: bool, sentence: str) -> None:
            if not condition:
                raise ValueError(sentence)

        for name in ('min_inside', 'max_offset', 'min_fill', 'max_others', 'max_upsample', 'min_iou'):
            check(
                math.isfinite(getattr(self, name)), f'Window rule {name} must be a number, not {getattr(self, name)}.'
            )
        for name in ('aspect', 'draw_fill'):
            low, high = getattr(self, name)
            check(0 < low <= high < math.inf, f'Window rule {name} must be a range 0 < low <= high, not {low}, {high}.')
            object.__setattr__(self, name, (float(low), float(high)))
        check(0 < self.min_inside <= 1, f'Window rule min_inside must be in (0, 1], not {self.min_inside}.')
        check(0 <= self.max_offset < 0.5, f'Window rule max_offset must be in [0, 0.5), not {self.max_offset}.')
        check(0 < self.min_fill < 1, f'Window rule min_fill must be in (0, 1), not {self.min_fill}.')
        check(self.max_others >= 0, f'Window rule max_others must be at least 0, not {self.max_others}.')
        check(self.max_upsample > 0, f'Window rule max_upsample must be above 0, not {self.max_upsample}.')
        check(0 <= self.min_iou < 1, f'Window rule min_iou must be in [0, 1), not {self.min_iou}.')
        check(self.measure in MEASURES, f"Window rule measure must be 'mask' or 'box', not {self.measure!r}.")

    def as_dict(self) -> dict[str, float | str | list[float]]:
        """The rules as plain JSON values; ``WindowRules(**rules.as_dict()) == rules``."""
        plain = {tuple: list, str: str}
        return {key: plain.get(type(value), float)(value) for key, value in asdict(self).items()}


class WindowMeasure(NamedTuple):
    """What the rules ask about one window (units: see :class:`WindowRules`)."""

    inside: float
    offset: float
    fill: float
    others: float


def intersections(windows: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(T, K) area of the intersection of each of (T, 4) windows with each of (K, 4) boxes, xyxy."""
    low = np.maximum(windows[:, None, :2], boxes[None, :, :2])
    high = np.minimum(windows[:, None, 2:], boxes[None, :, 2:])
    return np.prod(np.maximum(high - low, 0.0), axis=2)


def clip_boxes(boxes: np.ndarray, window: np.ndarray) -> np.ndarray:
    """(K, 4) boxes cut at a (4,) window; a box outside gets a side of zero or less."""
    return np.concatenate([np.maximum(boxes[:, :2], window[:2]), np.minimum(boxes[:, 2:], window[2:])], axis=1)


def mask_area(mask: np.ndarray, window: np.ndarray | None = None) -> float:
    """Exact area of an (H, W) bool mask, or of what a (4,) window holds of it."""
    if window is None:
        return float(np.count_nonzero(mask))
    height, width = mask.shape
    x1, y1, x2, y2 = (float(c) for c in window)
    columns = np.arange(max(math.floor(x1), 0), min(math.ceil(x2), width))
    rows = np.arange(max(math.floor(y1), 0), min(math.ceil(y2), height))
    if not len(columns) or not len(rows):
        return 0.0
    across = np.minimum(columns + 1.0, x2) - np.maximum(columns, x1)
    down = np.minimum(rows + 1.0, y2) - np.maximum(rows, y1)
    return float(down @ (mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] @ across))


def union_area(boxes: np.ndarray, mask: np.ndarray | None = None, window: np.ndarray | None = None) -> float:
    """Exact area of the union of (K, 4) boxes, and of an (H, W) bool mask if there is one, inside a window.

    By coordinate compression: between any two neighbouring edges (of boxes, of the window, and of the mask's pixels)
    a cell is covered or not.
    """
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    if window is not None:
        boxes = clip_boxes(boxes, window)
    boxes = boxes[(boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])]
    if mask is not None and len(boxes) == 0:
        return mask_area(mask, window)
    if len(boxes) == 0:
        return 0.0
    edges = [boxes[:, [0, 2]].ravel()], [boxes[:, [1, 3]].ravel()]
    if mask is not None:
        height, width = mask.shape
        x1, y1, x2, y2 = (0.0, 0.0, float(width), float(height)) if window is None else (float(c) for c in window)
        for axis, (low, high) in enumerate(((x1, x2), (y1, y2))):
            edges[axis].append(np.clip(np.arange(math.floor(low), math.ceil(high) + 1), low, high))
    xs, ys = (np.unique(np.concatenate(parts)) for parts in edges)
    across = (boxes[:, :1] <= xs[None, :-1]) & (xs[None, 1:] <= boxes[:, 2:3])  # (K, cells in x)
    down = (boxes[:, 1:2] <= ys[None, :-1]) & (ys[None, 1:] <= boxes[:, 3:4])  # (K, cells in y)
    covered = (across.astype(np.float32).T @ down.astype(np.float32)) > 0  # (cells in x, cells in y)
    if mask is not None:
        column = np.floor((xs[:-1] + xs[1:]) / 2).astype(int)  # the pixel that a cell lies in
        row = np.floor((ys[:-1] + ys[1:]) / 2).astype(int)
        in_scene = ((column >= 0) & (column < width))[:, None] & ((row >= 0) & (row < height))[None, :]
        pixels = mask[np.clip(row, 0, height - 1)[None, :], np.clip(column, 0, width - 1)[:, None]]
        covered |= pixels & in_scene
    return float(np.diff(xs) @ covered @ np.diff(ys))


def measure_window(
    window: np.ndarray,
    target: np.ndarray,
    others: np.ndarray,
    masks: Sequence[np.ndarray | None] | None = None,
) -> WindowMeasure:
    """Measure one window exactly (the others as the exact area of their union).

    Args:
        window: (4,) xyxy, scene pixels.
        target: (4,) box of the object that the window is for.
        others: (K, 4) boxes of all other objects of the scene, crowds among them; K may be 0.
        masks: the K + 1 masks of the target and of the others, each (H, W) bool in the scene's size, or None for an
            object that is measured by its box (as one without any pixel is). None: all by their boxes.
    """
    window, target = np.asarray(window, dtype=np.float64), np.asarray(target, dtype=np.float64)
    others = np.asarray(others, dtype=np.float64).reshape(-1, 4)
    side = window[2:] - window[:2]
    centre_distance = np.abs((target[:2] + target[2:]) - (window[:2] + window[2:])) / 2
    masks = [None] * (len(others) + 1) if masks is None else list(masks)
    if len(masks) != len(others) + 1:
        raise ValueError(f'{len(masks)} masks were given for {len(others) + 1} objects (the target and the others).')
    masks = [mask if mask is not None and mask.any() else None for mask in masks]
    if masks[0] is None:
        area, seen = float(np.prod(target[2:] - target[:2])), float(intersections(window[None], target[None])[0, 0])
    else:
        area, seen = mask_area(masks[0]), mask_area(masks[0], window)
    painted = [mask for mask in masks[1:] if mask is not None]
    union = np.logical_or.reduce(painted) if painted else None
    boxed = others[[mask is None for mask in masks[1:]]]
    other_area = union_area(boxed, union, window)
    return WindowMeasure(
        inside=seen / area,
        offset=float(np.max(centre_distance / side)),
        fill=seen / float(np.prod(side)),
        others=other_area / seen if seen > 0 else (math.inf if other_area > 0 else 0.0),
    )


def violations(
    window: np.ndarray,
    target: np.ndarray,
    others: np.ndarray,
    scene_size: tuple[int, int],
    out_size: tuple[int, int],
    rules: WindowRules,
    masks: Sequence[np.ndarray | None] | None = None,
) -> list[str]:
    """Names of the rules that a window breaks: of inside, offset, fill, others, upsample, aspect, border; [] if none.

    Args:
        window, target, others, masks: as in :func:`measure_window`; masks do not count if the rules measure by box.
        scene_size: (width, height) of the scene in pixels.
        out_size: (height, width) of the crop in pixels.
        rules: the rules.
    """
    measure = measure_window(window, target, others, masks if rules.measure == 'mask' else None)
    return broken_rules(window, measure, scene_size, out_size, rules)


def broken_rules(
    window: np.ndarray,
    measure: WindowMeasure,
    scene_size: tuple[int, int],
    out_size: tuple[int, int],
    rules: WindowRules,
) -> list[str]:
    """:func:`violations` of a window that is already measured."""
    broken = {
        'inside': measure.inside < min(rules.min_inside, 1 - ROUNDING),
        'offset': measure.offset > max(rules.max_offset, ROUNDING),
        'fill': measure.fill < rules.min_fill,
        'others': measure.others >= rules.max_others and measure.others > 0,
    }
    return [name for name, is_broken in broken.items() if is_broken] + broken_frame(window, scene_size, out_size, rules)


def broken_frame(
    window: np.ndarray, scene_size: tuple[int, int], out_size: tuple[int, int], rules: WindowRules
) -> list[str]:
    """Which of upsample, aspect and border a window breaks: the rules that do not look at objects."""
    x1, y1, x2, y2 = (float(c) for c in window)
    width, height = x2 - x1, y2 - y1
    out_height, out_width = out_size
    distortion = (width / height) / (out_width / out_height)
    low, high = rules.aspect
    if high / low < 1 + 3 * SLACK:
        low, high = low - ROUNDING, high + ROUNDING
    broken = {
        'upsample': max(out_width / width, out_height / height) > rules.max_upsample,
        'aspect': not low <= distortion <= high,
        'border': x1 < 0 or y1 < 0 or x2 > scene_size[0] or y2 > scene_size[1],
    }
    return [name for name, is_broken in broken.items() if is_broken]
