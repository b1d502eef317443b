"""Overlap of boxes, and what follows from it: NMS, the best N."""

from __future__ import annotations

import itertools

import numpy as np

from ..rules import intersections


def box_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(K, M) intersection over union of (K, 4) and (M, 4) boxes, xyxy; 0 where both are empty."""
    both, areas = _areas(first, second)
    union = areas[0][:, None] + areas[1][None] - both
    return np.divide(both, union, out=np.zeros_like(both), where=union > 0)


def share_of_smaller(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(K, M) intersection over the area of the smaller box: 1 where one box lies inside of the other."""
    both, areas = _areas(first, second)
    smaller = np.minimum(areas[0][:, None], areas[1][None])
    return np.divide(both, smaller, out=np.zeros_like(both), where=smaller > 0)


def _areas(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """(K, M) areas of the intersections, and the (K,) and (M,) areas of the boxes."""
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    areas = [np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0.0), axis=1) for boxes in (first, second)]
    return intersections(first, second), areas


OVERLAPS = {'union': box_iou, 'smaller': share_of_smaller}
"""What the intersection of two boxes is divided by: their union (IoU), or the smaller box."""


def nms(
    boxes: np.ndarray, scores: np.ndarray, max_iou: float, top_n: int | None = None, over: str = 'union'
) -> np.ndarray:
    """Non-maximum suppression without regard to classes.

    Args:
        boxes: (K, 4) xyxy.
        scores: (K,); of equal scores the first counts as better.
        max_iou: a box goes if its IoU with a better one that stays is above this; 1 keeps all.
        top_n: stop when so many are kept.
        over: ``'smaller'`` measures the overlap as :func:`share_of_smaller` in place of IoU: then a part goes with the
            whole that it lies in, and with a low ``max_iou`` what stays is nearly disjoint.

    Returns:
        Rows that stay, best first.
    """
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind='stable')
    if max_iou >= 1:
        return order[:top_n]
    boxes, overlap = np.asarray(boxes, dtype=np.float64), OVERLAPS[over]
    kept: list[int] = []
    while len(order) and (top_n is None or len(kept) < top_n):
        best, order = order[0], order[1:]
        kept.append(int(best))
        order = order[overlap(boxes[best : best + 1], boxes[order])[0] <= max_iou]
    return np.array(kept, dtype=np.int64)


def select(
    boxes: np.ndarray,
    scores: np.ndarray,
    image_of: np.ndarray,
    *,
    score_threshold: float | None = None,
    nms_iou: float | None = None,
    top_n: int | None = None,
) -> tuple[np.ndarray, dict[str, int]]:
    """Filter the scored boxes of many images: score threshold, then NMS, then the best N of each image.

    Args:
        boxes: (K, 4) xyxy.
        scores: (K,).
        image_of: (K,) whole numbers.
        score_threshold: least score.
        nms_iou: as ``max_iou`` of :func:`nms`.
        top_n: how many boxes an image keeps at most.

    Returns:
        Rows that stay, sorted by image, best first; and how many each step took away.
    """
    scores = np.asarray(scores, dtype=np.float64)
    rows = np.arange(len(boxes))
    if score_threshold is not None:
        rows = rows[scores >= score_threshold]
    counts = {'below the score threshold': len(boxes) - len(rows)}
    rows = rows[np.lexsort((rows, -scores[rows], image_of[rows]))]
    starts = np.flatnonzero(np.diff(image_of[rows], prepend=-1, append=-1)) if len(rows) else np.zeros(1, dtype=int)
    kept = []
    removed = beyond = 0
    for start, stop in itertools.pairwise(starts):
        group = rows[start:stop]
        if nms_iou is not None and len(group) > 1:
            # also those beyond the top N are counted for what they are: suppressed, or only too many
            stay = group[nms(boxes[group], scores[group], nms_iou)]
            removed += len(group) - len(stay)
            group = stay
        if top_n is not None and len(group) > top_n:
            beyond += len(group) - top_n
            group = group[:top_n]
        kept.append(group)
    counts |= {'removed by NMS': removed, 'beyond the top N': beyond}
    return np.concatenate(kept) if kept else np.zeros(0, dtype=np.int64), counts
