"""Selective search (Uijlings et al., IJCV 2013): boxes from grouping regions bottom up; no labels, no training.

Small regions of similar colour and texture are joined, the most similar two first, until one is left. Every region on
the way is a candidate. Several colour spaces and two kinds of similarity give several hierarchies.
"""

from __future__ import annotations

import heapq
import importlib.util
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .overlaps import nms
from .proposals import Proposals
from .reading import Picture, read_picture
from .regions import COLOUR_SPACES, Regions, describe, segment, to_colour_space

ALL = ('colour', 'texture', 'size', 'fill')
MODES = {
    'single': (('hsv',), (100.0,), (ALL,)),
    'fast': (('hsv', 'lab'), (50.0, 100.0), (ALL, ALL[1:])),
}
"""Colour spaces, scales of the first segmentation, and sums of similarities, as the paper names its strategies."""


@dataclass(frozen=True)
class Hierarchy:
    """R first regions and the R - 1 that joining made, in that order.

    Attributes:
        boxes: (2R - 1, 4) float64 xyxy.
        sizes: (2R - 1,) float64 pixels.
        parents: (R - 1, 2) int64: the two regions that each further region was made of.
    """

    boxes: np.ndarray
    sizes: np.ndarray
    parents: np.ndarray


def group(regions: Regions, similarities: Sequence[str] = ALL) -> Hierarchy:
    """Join the two most similar neighbours until one region is left.

    The similarity of two regions is the sum of those named, each 0..1: ``colour`` and ``texture``, intersections of
    their histograms; ``size``, 1 - their share of the image, so that small ones go first; ``fill``, 1 - the share of
    the image that their common box leaves empty. Of equals the regions with the lowest numbers are joined first.
    """
    count = len(regions)
    total = 2 * count - 1
    area = float(regions.sizes.sum())
    boxes, sizes = np.empty((total, 4)), np.empty(total)
    boxes[:count], sizes[:count] = regions.boxes, regions.sizes
    histograms = []
    for name, values in (('colour', regions.colours), ('texture', regions.textures)):
        if name in similarities:
            table = np.empty((total, values.shape[1]))
            table[:count] = values
            histograms.append(table)

    def similarity(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        value = np.zeros(len(other))
        for table in histograms:
            value += np.minimum(table[one], table[other]).sum(axis=1)
        joint = sizes[one] + sizes[other]
        if 'size' in similarities:
            value += 1 - joint / area
        if 'fill' in similarities:
            low = np.minimum(boxes[one, :2], boxes[other, :2])
            high = np.maximum(boxes[one, 2:], boxes[other, 2:])
            value += 1 - (np.prod(high - low, axis=1) - joint) / area
        return value

    around: list[set[int]] = [set() for _ in range(total)]
    for a, b in regions.neighbours.tolist():
        around[a].add(b)
        around[b].add(a)
    heap: list[tuple[float, int, int]] = []
    if len(regions.neighbours):
        values = similarity(regions.neighbours[:, 0], regions.neighbours[:, 1])
        heap = [(-value, a, b) for value, (a, b) in zip(values.tolist(), regions.neighbours.tolist())]
        heapq.heapify(heap)
    alive = np.zeros(total, dtype=bool)
    alive[:count] = True
    parents = np.empty((count - 1, 2), dtype=np.int64)
    for new in range(count, total):
        while True:
            _, a, b = heapq.heappop(heap)
            if alive[a] and alive[b]:
                break
        alive[a] = alive[b] = False
        alive[new] = True
        parents[new - count] = a, b
        sizes[new] = sizes[a] + sizes[b]
        boxes[new, :2] = np.minimum(boxes[a, :2], boxes[b, :2])
        boxes[new, 2:] = np.maximum(boxes[a, 2:], boxes[b, 2:])
        for table in histograms:
            table[new] = (sizes[a] * table[a] + sizes[b] * table[b]) / sizes[new]
        around[new] = (around[a] | around[b]) - {a, b}
        others = sorted(around[new])
        for other in others:
            around[other] -= {a, b}
            around[other].add(new)
        if others:
            rows = np.array(others)
            for value, other in zip(similarity(np.full(len(rows), new), rows).tolist(), others):
                heapq.heappush(heap, (-value, other, new))
    return Hierarchy(boxes, sizes, parents)


class SearchProposer:
    """Images to proposals.

    Args:
        mode: ``'single'``, one hierarchy; ``'fast'``, eight, for more boxes.
        side: images are worked on at this longest side in pixels.
        min_side: least side of a box, as a share of the image's shorter side.
        max_share: largest share of the image that a box covers; 1 keeps the whole image as a candidate.
        nms_iou: of boxes.
        top_n: boxes of an image at most.
        over: of :func:`.overlaps.nms`.
        seed: of the ranking.

    Raises:
        ImportError: scikit-image is not installed.
    """

    def __init__(
        self,
        mode: str = 'fast',
        *,
        side: int = 320,
        min_side: float = 0.05,
        max_share: float = 0.95,
        nms_iou: float = 0.8,
        top_n: int = 100,
        over: str = 'union',
        seed: int = 0,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f'The mode of selective search is one of {", ".join(MODES)}, not {mode!r}.')
        if importlib.util.find_spec('skimage') is None:
            raise ImportError('Selective search needs scikit-image: pip install scikit-image.')
        self.strategies = MODES[mode]
        self.side, self.min_side, self.max_share = side, min_side, max_share
        self.nms_iou, self.top_n, self.over, self.seed = nms_iou, top_n, over, seed

    def read(self, path: str | os.PathLike[str]) -> Picture:
        """An image as this proposer wants it."""
        return read_picture(path, side=self.side)

    def __call__(self, pictures: Sequence[Picture]) -> list[Proposals]:
        """Proposals of each image."""
        return [self._search(picture) for picture in pictures]

    def _search(self, picture: Picture) -> Proposals:
        height, width = picture.pixels.shape[:2]
        boxes, ranks = [], []
        # the ranking's chance depends on the image alone, not on its place in a batch
        rng = np.random.default_rng((self.seed, zlib.crc32(picture.pixels.tobytes())))
        spaces, scales, sums = self.strategies
        for space in spaces:
            channels = to_colour_space(picture.pixels, space)
            for scale in scales:
                regions = describe(segment(channels, scale), channels)
                for similarities in sums:
                    found = group(regions, similarities).boxes
                    # the top of the hierarchy is 1; chance keeps many hierarchies from all putting their tops first
                    ranks.append(np.arange(len(found), 0, -1) * rng.uniform(size=len(found)))
                    boxes.append(found)
        joined, rank = np.concatenate(boxes), np.concatenate(ranks)
        sides = joined[:, 2:] - joined[:, :2]
        good = (sides >= self.min_side * min(width, height)).all(axis=1)
        good &= np.prod(sides, axis=1) <= self.max_share * width * height
        joined, rank = joined[good], rank[good]
        kept = nms(joined, -rank, self.nms_iou, self.top_n, self.over)
        scale = np.array([picture.size[0] / width, picture.size[1] / height] * 2)
        return Proposals(joined[kept] * scale, 1 / (1 + rank[kept]))


__all__ = ['ALL', 'COLOUR_SPACES', 'MODES', 'Hierarchy', 'SearchProposer', 'group']
