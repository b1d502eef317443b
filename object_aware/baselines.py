"""Windows of other kinds in the scenes of a crop index: what object crops are compared with."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from mixedae.registry import DATASETS

from .dataset import Key, ObjectCropDataset, split_key
from .images import random_resized_window

WINDOWS = ('moved', 'scene')


def moved_window(window: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A window of the same width and height at a uniformly random place of the image.

    Args:
        window: (4,) xyxy inside the image.
        size: (width, height) of the image.
        rng: source of randomness.

    Returns:
        (4,) float32 xyxy.
    """
    extent = np.asarray(window[2:], np.float64) - np.asarray(window[:2], np.float64)
    room = np.maximum(np.asarray(size, np.float64) - extent, 0)
    corner = rng.random(2) * room
    return np.concatenate([corner, corner + extent]).astype(np.float32)


@DATASETS.register_module()
class SceneCropDataset(ObjectCropDataset):
    """As many crops of the same scenes as the object crops of an index, but not cut around objects.

    Item n comes from the scene of the index's object n, so scenes are seen as often as with
    :class:`ObjectCropDataset`, in the same groups; only the window differs.

    Args:
        windows: ``'moved'``, random crops: the object's window, moved to a uniformly random place of its scene, so that
            crops have the same scale; ``'scene'``, whole scenes: RandomResizedCrop (.2, 1) of the scene, the usual
            recipe.
        index_file: as in :class:`ObjectCropDataset`.
        size: as there.
        seed: as there.
        options: ``flip_prob`` and others, as there.
    """

    def __init__(
        self,
        index_file: str | os.PathLike[str],
        size: int | Sequence[int] | None = None,
        windows: str = 'moved',
        seed: int = 0,
        **options: Any,
    ) -> None:
        if windows not in WINDOWS:
            raise ValueError(f'windows must be one of {", ".join(map(repr, WINDOWS))}, not {windows!r}.')
        super().__init__(index_file, size, seed, **options)
        self.windows = windows

    def draw(self, key: Key) -> tuple[int, np.ndarray, bool]:
        """(object number, (4,) float32 window, flip?) of a key, without reading pixels."""
        number, window, flip = super().draw(key)
        rng = np.random.default_rng((self.seed, split_key(key, len(self))[1], number, 1 + WINDOWS.index(self.windows)))
        width, height = self.index.sizes[self.scene_ids[number]].tolist()
        if self.windows == 'moved':
            return number, moved_window(window, (width, height), rng), flip
        aspect = self.size[1] / self.size[0]
        ratio = (aspect * 3 / 4, aspect * 4 / 3)
        return number, random_resized_window((width, height), (0.2, 1.0), ratio, rng), flip
