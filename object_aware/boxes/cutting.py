"""Boxes and masks from normalised cuts of a ViT's patch features; no labels are used.

Each image is cut several times: for every threshold ``tau``, and for every object that is found the graph is cut again
without it. Each connected part of the object's side is a candidate. Candidates that several thresholds agree on rank
first.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .features import PatchFeatures
from .ncut import affinity, cut, label_components
from .overlaps import nms
from .proposals import Proposals
from .reading import Picture, read_picture

CENTRES = ('none', 'image', 'position')


@dataclass(frozen=True)
class Candidates:
    """Parts of one image in patches.

    Attributes:
        parts: (K, L) bool.
        fields: (K, L) float32: the cut's field, negative outside of the part.
        rounds: (K,) which cut each came from: 0 for the first object of a threshold.
        seeds: (K,) bool: the part holds the patch that stood out most.
        taus: (K,) number of the threshold.
    """

    parts: np.ndarray
    fields: np.ndarray
    rounds: np.ndarray
    seeds: np.ndarray
    taus: np.ndarray


class CutProposer:
    """Images to proposals.

    Args:
        features: of a ViT.
        size: (height, width) in pixels that images are stretched to, multiples of the patch size.
        taus: thresholds of the affinity.
        objects: cuts for each threshold.
        components: ``'seed'``: the part of the object's side around its most outstanding patch alone (TokenCut);
            ``'all'``: every part of at least ``min_patches``.
        min_patches: smallest part.
        centre: subtract from the features of each image their mean over its patches (``'image'``), or the mean of a
            sample of images at each position (``'position'``, see :meth:`fit`); ``'none'``: neither.
        nms_iou: of boxes.
        top_n: boxes of an image at most.
        over: of :func:`.overlaps.nms`.
        refine: edges at the zero line of the bilinearly enlarged field; otherwise at patch borders.
        device: of features and cuts.
    """

    def __init__(
        self,
        features: PatchFeatures,
        size: tuple[int, int],
        *,
        taus: Sequence[float] = (0.0, 0.2, 0.4),
        objects: int = 3,
        components: str = 'all',
        min_patches: int = 3,
        centre: str = 'position',
        nms_iou: float = 0.7,
        top_n: int = 20,
        over: str = 'union',
        refine: bool = True,
        device: str = 'cpu',
    ) -> None:
        if any(side % features.patch_size or side < 2 * features.patch_size for side in size):
            raise ValueError(
                f'The image size {size[0]} x {size[1]} must be multiples of the patch size {features.patch_size}, '
                'two patches at least.'
            )
        if components not in ('seed', 'all') or centre not in CENTRES:
            raise ValueError(f"components is 'seed' or 'all' and centre one of {', '.join(CENTRES)}.")
        if not taus or objects < 1 or top_n < 1 or min_patches < 1:
            raise ValueError('At least one threshold, one object, one box and one patch are needed.')
        self.features = features.to(device)
        self.size = size
        self.grid = (size[0] // features.patch_size, size[1] // features.patch_size)
        self.taus = tuple(float(tau) for tau in taus)
        self.objects, self.components, self.min_patches = objects, components, min_patches
        self.centre, self.refine = centre, refine
        self.nms_iou, self.top_n, self.over = nms_iou, top_n, over
        self.mean: Tensor | None = None

    def fit(self, pictures: Sequence[Picture], batch_size: int = 32) -> None:
        """Learn the mean feature at each position from a sample of images."""
        total, count = 0, 0
        for start in range(0, len(pictures), batch_size):
            batch = self._extract(pictures[start : start + batch_size])
            total, count = total + batch.double().sum(0), count + len(batch)
        self.mean = (total / max(count, 1)).float()

    def read(self, path: str | os.PathLike[str]) -> Picture:
        """An image as this proposer wants it."""
        return read_picture(path, size=self.size)

    def __call__(self, pictures: Sequence[Picture]) -> list[Proposals]:
        """Proposals of each of a batch of images."""
        candidates = self.candidates(self._centred(self._extract(pictures)))
        return [self._finish(found, picture.size) for found, picture in zip(candidates, pictures)]

    def candidates(self, features: Tensor) -> list[Candidates]:
        """(B, L, C) features to the parts that the cuts find."""
        batch, length, _ = features.shape
        found: list[list[tuple]] = [[] for _ in range(batch)]
        for number, tau in enumerate(self.taus):
            weights = affinity(features, tau)
            active = torch.ones(batch, length, dtype=torch.bool, device=features.device)
            for turn in range(self.objects):
                result = cut(weights, self.grid, active)
                labels = label_components(result.foreground.view(batch, *self.grid)).view(batch, length)
                own = labels.gather(1, result.seed[:, None])
                for image, (label, seed, field) in enumerate(
                    zip(labels.cpu().numpy(), own[:, 0].tolist(), result.field.float().cpu().numpy())
                ):
                    sizes = np.bincount(label)
                    for part in np.flatnonzero(sizes):
                        if part and sizes[part] >= self.min_patches and (part == seed or self.components == 'all'):
                            inside = label == part
                            found[image].append(
                                (inside, np.where(inside, field, -np.abs(field)), turn, part == seed, number)
                            )
                rest = active & (labels != own)
                # a graph of one or two patches cannot be cut again: such an image repeats its last cut
                active = torch.where(rest.sum(1, keepdim=True) >= 3, rest, active)
        return [_as_candidates(parts, length) for parts in found]

    def _extract(self, pictures: Sequence[Picture]) -> Tensor:
        pixels = np.stack([picture.pixels for picture in pictures]).transpose(0, 3, 1, 2)
        return self.features(torch.from_numpy(np.ascontiguousarray(pixels)))

    def _centred(self, features: Tensor) -> Tensor:
        if self.centre == 'image':
            return features - features.mean(1, keepdim=True)
        if self.centre == 'position':
            if self.mean is None:
                raise RuntimeError('Features are centred by position: call fit() with a sample of images first.')
            return features - self.mean
        return features

    def _finish(self, found: Candidates, size: tuple[int, int]) -> Proposals:
        """Score, NMS on patches, then masks and boxes in pixels of the image."""
        if not len(found.parts):
            return Proposals(np.zeros((0, 4)), np.zeros(0), [])
        scores = agreement(found)
        kept = nms(_patch_boxes(found.parts, self.grid), scores, self.nms_iou, self.top_n, self.over)
        boxes, masks = [], []
        for row in kept:
            mask = self._mask(found, row, size)
            box = _box_of(mask)
            boxes.append(box if box is not None else _scaled(found.parts[row], self.grid, size))
            masks.append(_encode(mask) if box is not None else b'')
        return Proposals(np.array(boxes, dtype=np.float64), scores[kept], masks)

    def _mask(self, found: Candidates, row: int, size: tuple[int, int]) -> np.ndarray:
        """(height, width) bool at the image's size."""
        width, height = size
        if not self.refine:
            part = torch.from_numpy(found.parts[row].reshape(1, 1, *self.grid).astype(np.float32))
            return F.interpolate(part, (height, width), mode='nearest-exact')[0, 0].numpy() > 0
        field = torch.from_numpy(found.fields[row].reshape(1, 1, *self.grid))
        return F.interpolate(field, (height, width), mode='bilinear', align_corners=False)[0, 0].numpy() > 0


def agreement(found: Candidates) -> np.ndarray:
    """Scores of candidates, 0..1: how much the cuts of all thresholds agree with each.

    The mean over the thresholds of the best IoU (in patches) with one of their parts, weighted by 1 / (1 + its round)
    and half for parts without the outstanding patch.
    """
    parts = found.parts.astype(np.float32)
    both = parts @ parts.T
    areas = parts.sum(1)
    iou = both / (areas[:, None] + areas[None] - both)
    weight = 1.0 / (1 + found.rounds) * np.where(found.seeds, 1.0, 0.5)
    numbers = np.unique(found.taus)
    best = [(iou[:, found.taus == number] * weight[found.taus == number]).max(1) for number in numbers]
    return np.mean(best, axis=0).astype(np.float64)


def _as_candidates(parts: list[tuple], length: int) -> Candidates:
    if not parts:
        none = np.zeros((0, length))
        return Candidates(none > 0, none.astype(np.float32), np.zeros(0, int), np.zeros(0, bool), np.zeros(0, int))
    inside, fields, rounds, seeds, taus = (np.array(column) for column in zip(*parts))
    return Candidates(inside, fields.astype(np.float32), rounds, seeds, taus)


def _patch_boxes(parts: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    return np.array([_box_of(part.reshape(grid)) for part in parts], dtype=np.float64)


def _scaled(part: np.ndarray, grid: tuple[int, int], size: tuple[int, int]) -> list[float]:
    x1, y1, x2, y2 = _box_of(part.reshape(grid))
    across, down = size[0] / grid[1], size[1] / grid[0]
    return [x1 * across, y1 * down, x2 * across, y2 * down]


def _box_of(mask: np.ndarray) -> list[float] | None:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]


def _encode(mask: np.ndarray) -> bytes:
    from pycocotools import mask as coco

    return coco.encode(np.asfortranarray(mask.astype(np.uint8)))['counts']
