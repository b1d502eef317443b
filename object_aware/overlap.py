"""The overlap rule: crops of scenes that have no object which could be cropped alone.

Such a scene has one window of its own, the largest centred one. The windows that are drawn overlap it by an
intersection over union (IoU) of more than ``rules.min_iou``, as MultiSiam (Chen et al., 2021) asks of two views of one
scene. So any two epochs show much the same things.
"""

from __future__ import annotations

import numpy as np

from .rules import SLACK, WindowRules, intersections


def iou(windows: np.ndarray, window: np.ndarray) -> np.ndarray:
    """(T,) intersection over union of each of (T, 4) windows with a (4,) window, xyxy."""
    windows = np.asarray(windows, dtype=np.float64).reshape(-1, 4)
    window = np.asarray(window, dtype=np.float64)
    common = intersections(windows, window[None])[:, 0]
    areas = np.prod(windows[:, 2:] - windows[:, :2], axis=1)
    return common / (areas + np.prod(window[2:] - window[:2]) - common)


def _bounds(out_size: tuple[int, int], rules: WindowRules) -> tuple[np.ndarray, np.ndarray]:
    """(least, greatest) aspect width / height of a window, (width, height) that a window has at least; narrowed."""
    aspects = out_size[1] / out_size[0] * np.array(rules.aspect) * [1 + SLACK, 1 - SLACK]
    if aspects[0] > aspects[1]:
        aspects[:] = aspects.mean()
    return aspects, np.array([out_size[1], out_size[0]]) / (rules.max_upsample * (1 - SLACK))


def overlap_windows(sizes: np.ndarray, out_size: tuple[int, int], rules: WindowRules) -> np.ndarray:
    """The largest centred window of each scene that obeys the rules about aspect and enlargement.

    Args:
        sizes: (S, 2) width, height of the scenes.
        out_size: (height, width) of the crops.
        rules: the rules.

    Returns:
        (S, 4) float32 xyxy, NaN where the scene is too small.
    """
    sizes = np.asarray(sizes, dtype=np.float64).reshape(-1, 2)
    aspects, least = _bounds(out_size, rules)
    aspect = np.clip(sizes[:, 0] / sizes[:, 1], *aspects)
    sides = np.minimum(sizes, np.stack([sizes[:, 1] * aspect, sizes[:, 0] / aspect], axis=1))
    start = (sizes - sides) / 2
    windows = np.concatenate([start, start + sides], axis=1)
    windows[(sides < least).any(axis=1)] = np.nan
    return np.clip(windows.astype(np.float32), 0, np.concatenate([sizes, sizes], axis=1).astype(np.float32))


def draw_overlap(
    own: np.ndarray,
    scene_size: tuple[int, int],
    out_size: tuple[int, int],
    rules: WindowRules,
    rng: np.random.Generator,
    *,
    max_tries: int = 128,
) -> np.ndarray | None:
    """Draw a random window that overlaps the scene's own window well.

    Aspect log-uniform in its range, area log-uniform between ``min_iou`` times the own window's area and that, position
    uniform in the scene.

    Args:
        own: (4,) the scene's own window, of :func:`overlap_windows`.
        scene_size: (width, height) of the scene.
        out_size: (height, width) of the crop.
        rules: the rules.
        rng: source of randomness.
        max_tries: windows that are tried.

    Returns:
        (4,) float32 xyxy inside the scene, or None if no try obeyed the rules.
    """
    own = np.asarray(own, dtype=np.float64)
    aspects, least = _bounds(out_size, rules)
    area = np.prod(own[2:] - own[:2])
    draws = rng.random((4, max_tries))
    aspect = aspects[0] * (aspects[1] / aspects[0]) ** draws[0]
    smallest = max(rules.min_iou, float(np.prod(least)) / area)
    size = area * min(smallest, 1.0) ** draws[1]
    sides = np.stack([np.sqrt(size * aspect), np.sqrt(size / aspect)], axis=1)
    scene = np.array(scene_size, dtype=np.float64)
    start = draws[2:].T * np.maximum(scene - sides, 0)
    windows = np.concatenate([start, start + sides], axis=1).astype(np.float32)
    windows = np.minimum(windows, np.float32([*scene_size, *scene_size]))
    good = (sides <= scene).all(axis=1) & (sides >= least).all(axis=1)
    good &= iou(windows, own) > rules.min_iou * (1 + SLACK)
    found = np.flatnonzero(good)
    return windows[found[0]] if len(found) else None
