"""The rules of a training window, and how a window is measured against them.

Everything is measured **by box** here: the target covers its box, and the others cover the union of theirs. (Masks,
where there are some, are a later refinement of ``measure_window``.) Two consequences, both on the careful side:

* The area where another object's box overlaps the target's box counts for the *others*, because a box does not say
  whose those pixels are. A tie on a person counts, and so does the table under a plate.
* A crowd region counts with its whole box.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np

SLACK = 1e-4
"""Relative safety margin by which rules are narrowed for drawing, so that rounding to float32 cannot break one."""

# Room for float32 coordinates where a rule allows a single value: min_inside=1, max_offset=0, aspect=(1, 1).
_ROUNDING = 2e-5


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
    """

    min_inside: float = 0.9
    max_offset: float = 0.25
    min_fill: float = 0.15
    max_others: float = 0.30
    max_upsample: float = 4.0
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    draw_fill: tuple[float, float] = (0.15, 1.0)

    def __post_init__(self) -> None:
        def check(condition: bool, sentence: str) -> None:
            if not condition:
                raise ValueError(sentence)

        for name in ('min_inside', 'max_offset', 'min_fill', 'max_others', 'max_upsample'):
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

    def as_dict(self) -> dict[str, float | list[float]]:
        """The rules as plain JSON values; ``WindowRules(**rules.as_dict()) == rules``."""
        return {key: list(value) if isinstance(value, tuple) else float(value) for key, value in asdict(self).items()}


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


def union_area(boxes: np.ndarray) -> float:
    """Exact area of the union of (K, 4) boxes, by coordinate compression: at most 2K x 2K cells."""
    boxes = boxes[(boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])]
    if len(boxes) == 0:
        return 0.0
    xs, ys = np.unique(boxes[:, [0, 2]]), np.unique(boxes[:, [1, 3]])
    across = (boxes[:, :1] <= xs[None, :-1]) & (xs[None, 1:] <= boxes[:, 2:3])  # (K, cells in x)
    down = (boxes[:, 1:2] <= ys[None, :-1]) & (ys[None, 1:] <= boxes[:, 3:4])  # (K, cells in y)
    covered = (across.astype(np.float32).T @ down.astype(np.float32)) > 0  # (cells in x, cells in y)
    return float(np.diff(xs) @ covered @ np.diff(ys))


def clip_boxes(boxes: np.ndarray, window: np.ndarray) -> np.ndarray:
    """(K, 4) boxes cut at a (4,) window; a box outside gets a side of zero or less."""
    return np.concatenate([np.maximum(boxes[:, :2], window[:2]), np.minimum(boxes[:, 2:], window[2:])], axis=1)


def measure_window(window: np.ndarray, target: np.ndarray, others: np.ndarray) -> WindowMeasure:
    """Measure one window exactly (the others as the exact area of their union).

    Args:
        window: (4,) xyxy, scene pixels.
        target: (4,) box of the object that the window is for.
        others: (K, 4) boxes of all other objects of the scene, crowds among them; K may be 0.
    """
    window, target = np.asarray(window, dtype=np.float64), np.asarray(target, dtype=np.float64)
    others = np.asarray(others, dtype=np.float64).reshape(-1, 4)
    seen = float(intersections(window[None], target[None])[0, 0])
    side = window[2:] - window[:2]
    centre_distance = np.abs((target[:2] + target[2:]) - (window[:2] + window[2:])) / 2
    other_area = union_area(clip_boxes(others, window))
    return WindowMeasure(
        inside=seen / float(np.prod(target[2:] - target[:2])),
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
) -> list[str]:
    """Names of the rules that a window breaks: of inside, offset, fill, others, upsample, aspect, border; [] if none.

    Args:
        window, target, others: as in :func:`measure_window`.
        scene_size: (width, height) of the scene in pixels.
        out_size: (height, width) of the crop in pixels.
        rules: the rules.
    """
    measure = measure_window(window, target, others)
    x1, y1, x2, y2 = (float(c) for c in window)
    width, height = x2 - x1, y2 - y1
    out_height, out_width = out_size
    distortion = (width / height) / (out_width / out_height)
    low, high = rules.aspect
    if high / low < 1 + 3 * SLACK:
        low, high = low - _ROUNDING, high + _ROUNDING
    broken = {
        'inside': measure.inside < min(rules.min_inside, 1 - _ROUNDING),
        'offset': measure.offset > max(rules.max_offset, _ROUNDING),
        'fill': measure.fill < rules.min_fill,
        'others': measure.others >= rules.max_others and measure.others > 0,
        'upsample': max(out_width / width, out_height / height) > rules.max_upsample,
        'aspect': not low <= distortion <= high,
        'border': x1 < 0 or y1 < 0 or x2 > scene_size[0] or y2 > scene_size[1],
    }
    return [name for name, is_broken in broken.items() if is_broken]


def few_others(windows: np.ndarray, target: np.ndarray, others: np.ndarray, rules: WindowRules) -> np.ndarray:
    """(T,) bool: which of T windows obey the rule about the other objects.

    Exact. The union is worked out only where it decides, between the largest single intersection (a lower bound of it)
    and the sum of all (an upper one). The rule is narrowed by ``SLACK``.
    """
    if len(others) == 0:
        return np.ones(len(windows), dtype=bool)
    limit = rules.max_others * (1 - SLACK) * intersections(windows, target[None])[:, 0]
    areas = intersections(windows, others)
    good = areas.sum(axis=1) < limit
    good |= ~areas.any(axis=1)
    for k in np.flatnonzero(~good & (areas.max(axis=1) < limit)):
        good[k] = union_area(clip_boxes(others[areas[k] > 0], windows[k])) < limit[k]
    return good
