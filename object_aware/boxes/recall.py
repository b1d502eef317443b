"""How well boxes without labels find the objects that are there: recall, average recall, CorLoc."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .overlaps import box_iou

IOUS = tuple(np.round(np.arange(0.5, 1.0, 0.05), 2).tolist())
COUNTS = (1, 3, 10, 100)
AREAS = {'all': (0.0, np.inf), 'small': (0.0, 32.0**2), 'medium': (32.0**2, 96.0**2), 'large': (96.0**2, np.inf)}
"""Ranges of an object's area in pixels, as COCO's evaluation has them."""


@dataclass(frozen=True)
class Truth:
    """Objects of one image.

    Attributes:
        boxes: (M, 4) xyxy.
        areas: (M,) pixels, of the mask where there is one.
    """

    boxes: np.ndarray
    areas: np.ndarray


def match(iou: np.ndarray, threshold: float, ignored: np.ndarray | None = None) -> np.ndarray:
    """Which objects are found: each box in turn takes the free object that it covers best (as pycocotools does).

    Args:
        iou: (K, M), boxes in falling order of score.
        threshold: least IoU.
        ignored: (M,) bool, objects that are taken only by a box that no other object fits.

    Returns:
        (M,) bool.
    """
    found = np.zeros(iou.shape[1], dtype=bool)
    if not iou.size:
        return found
    ignored = np.zeros(iou.shape[1], dtype=bool) if ignored is None else ignored
    for row in iou[(iou >= threshold - 1e-10).any(axis=1)]:
        for group in (~ignored, ignored):
            free = group & ~found & (row >= threshold - 1e-10)
            if free.any():
                # of equals the last one, as pycocotools
                best = row[free].max()
                found[np.flatnonzero(free & (row == best))[-1]] = True
                break
    return found


def evaluate(
    proposals: Mapping[str, tuple[np.ndarray, np.ndarray]],
    truths: Mapping[str, Truth],
    counts: Sequence[int] = COUNTS,
    ious: Sequence[float] = IOUS,
    areas: Mapping[str, tuple[float, float]] = AREAS,
) -> dict[str, float | int | None]:
    """Measure proposals against the objects of the same images.

    Args:
        proposals: for each image (K, 4) boxes xyxy and (K,) scores; images without an entry have no boxes.
        truths: for each image its objects; images without any count nowhere.
        counts: N of the recalls: only the best N boxes of an image are looked at.
        ious: thresholds that average recall is the mean over.
        areas: ranges of the objects' areas, both ends included.

    Returns:
        ``recall@N``: share of all objects found at IoU 0.5; ``ar@N``: the mean over ``ious``; for the largest N also
        ``recall@N small`` and so on; ``corloc``: share of the images whose first box has an IoU of at least 0.5 with
        any object; ``boxes``: boxes an image; ``images``, ``objects`` and ``objects small`` ... counted. None where
        there is no object of a size.
    """
    counts = sorted(counts)
    found = {(area, n): np.zeros(len(ious)) for area in areas for n in counts}
    at_half = {(area, n): 0 for area in areas for n in counts}
    objects = dict.fromkeys(areas, 0)
    images = first = boxes_in_all = 0
    for name, truth in truths.items():
        if not len(truth.boxes):
            continue
        boxes, scores = proposals.get(name, (np.zeros((0, 4)), np.zeros(0)))
        order = np.argsort(-np.asarray(scores), kind='stable')[: counts[-1]]
        iou = box_iou(np.asarray(boxes)[order], truth.boxes)
        images += 1
        boxes_in_all += len(order)
        first += bool(len(iou) and iou[0].max() >= 0.5)
        for area, (low, high) in areas.items():
            ignored = (truth.areas < low) | (truth.areas > high)
            objects[area] += int((~ignored).sum())
            if ignored.all():
                continue
            for n in counts:
                at_half[area, n] += int((match(iou[:n], 0.5, ignored) & ~ignored).sum())
                found[area, n] += [int((match(iou[:n], level, ignored) & ~ignored).sum()) for level in ious]
    if not images:
        raise ValueError('No image with objects: there is nothing to measure against.')
    result: dict[str, float | int | None] = dict(corloc=first / images)
    for area in areas:
        word = '' if area == 'all' else f' {area}'
        for n in counts if area == 'all' else counts[-1:]:
            total = objects[area]
            result[f'recall@{n}{word}'] = at_half[area, n] / total if total else None
            result[f'ar@{n}{word}'] = float(found[area, n].mean() / total) if total else None
    result |= {'boxes': boxes_in_all / images, 'images': images}
    result |= {'objects' + ('' if area == 'all' else f' {area}'): number for area, number in objects.items()}
    return result
