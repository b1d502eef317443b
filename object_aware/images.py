"""Whole images without boxes (ImageNet and the like), in the same samples as the object crops."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from mixedae.registry import DATASETS

from .dataset import Key, check_files, sample_or_spare
from .image_files import SUFFIXES, list_image_files, missing_files
from .index import as_size
from .messages import some
from .pixels import ImageError, OpenImage, crop, load_kernels, open_image
from .quarantine import Quarantine, default_limit
from .scene_cache import SceneCache


def random_resized_window(
    size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> np.ndarray:
    """A window of random area and aspect: torchvision's RandomResizedCrop with fractional coordinates.

    Args:
        size: (width, height) of the image.
        scale: range of the window's area over the image's area, uniform.
        ratio: range of width / height, log-uniform.
        rng: source of randomness.

    Returns:
        (4,) float32 xyxy. After ten tries that do not fit: the largest centred window with an aspect in ``ratio``.
    """
    width, height = size
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if w <= width and h <= height:
            x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
            break
    else:
        aspect = min(max(width / height, ratio[0]), ratio[1])
        w, h = min(width, height * aspect), min(height, width / aspect)
        x, y = (width - w) / 2, (height - h) / 2
    window = np.array([x, y, x + w, y + h], dtype=np.float32)
    return np.clip(window, 0, np.array([width, height, width, height], dtype=np.float32))


@DATASETS.register_module()
class ImageDataset(Dataset):
    """All images of a folder, or those of a list, with RandomResizedCrop and flip; each image counts as one scene.

    A sample is a function of (seed, epoch, index) alone. Images are taken upright (by their EXIF orientation).

    Args:
        root: folder of images, searched with all its subfolders in sorted order.
        list_file: text file with one path a line, relative to ``root``; then only these, in this order.
        size: (height, width) of the crops or one number for both.
        seed: seed of windows and flips, at least 0.
        flip_prob: probability of a horizontal flip.
        scale: range of the window's area over the image's area.
        ratio: range of the window's width / height.
        quarantine_file, max_bad_files, cache_gib: as in :class:`ObjectCropDataset`.

    Attributes:
        scene_ids: (len,) int64, 0..len-1.
        quarantine: the :class:`Quarantine`.

    Raises:
        FileNotFoundError: the folder, the list or images of the list are missing.
        ValueError: there is no image, or they take more memory than ``cache_gib``.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        list_file: str | os.PathLike[str] | None = None,
        size: int | Sequence[int] = 224,
        seed: int = 0,
        flip_prob: float = 0.5,
        scale: tuple[float, float] = (0.2, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        quarantine_file: str | os.PathLike[str] | None = None,
        max_bad_files: int | None = None,
        cache_gib: float = 0,
    ) -> None:
        if not os.path.isdir(root):
            raise FileNotFoundError(f'Image folder {root} does not exist.')
        if not 0 <= flip_prob <= 1:
            raise ValueError(f'flip_prob must be in 0..1, not {flip_prob}.')
        if not 0 < scale[0] <= scale[1] <= 1 or not 0 < ratio[0] <= ratio[1]:
            raise ValueError(
                f'scale must be a range in (0, 1] and ratio a range above 0, not {tuple(scale)} and {tuple(ratio)}.'
            )
        self.root = str(root)
        self.size = as_size(size)
        self.seed = int(seed)
        self.flip_prob = float(flip_prob)
        self.scale, self.ratio = tuple(scale), tuple(ratio)
        if list_file is None:
            names = list_image_files(root)
            if not names:
                raise ValueError(f'Image folder {root} holds no image ({", ".join(SUFFIXES)}).')
        else:
            if not os.path.isfile(list_file):
                raise FileNotFoundError(f'List of images {list_file} does not exist.')
            names = [line.strip() for line in Path(list_file).read_text(encoding='utf-8').splitlines() if line.strip()]
            if not names:
                raise ValueError(f'List of images {list_file} is empty.')
            missing = missing_files(root, names)
            if missing:
                raise FileNotFoundError(
                    f'{len(missing)} of {len(names)} images of {list_file} are not in {root} ({some(missing)}).'
                )
        self.names = np.array([name.encode() for name in names])  # one array: worker processes share it
        self.scene_ids = np.arange(len(names), dtype=np.int64)
        limit = default_limit(len(names)) if max_bad_files is None else max_bad_files
        self.quarantine = Quarantine(quarantine_file, limit)
        load_kernels()
        self.cache: SceneCache | None = None
        if cache_gib:
            self.cache = SceneCache(self._open, self._sizes(), self.size, cache_gib)

    def _open(self, index: int) -> OpenImage:
        return open_image(self.path(index))

    def _sizes(self) -> Iterator[tuple[int, tuple[int, int]]]:
        for index in range(len(self)):
            try:
                yield index, self._open(index).size
            except ImageError:  # comes up where a sample asks for it
                continue

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> str:
        """Path of an image."""
        return os.path.join(self.root, self.names[index].decode())

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """One sample, as :meth:`ObjectCropDataset.__getitem__`; ``object`` is -1.

        Raises:
            ImageError: the image does not decode, and the key has no spare; it names the file.
            TooManyBadFiles: more files than ``max_bad_files`` are bad.
        """
        return sample_or_spare(self._load, key, len(self), self.quarantine)

    def _load(self, index: int, epoch: int) -> dict[str, Any]:
        rng = np.random.default_rng((self.seed, epoch, index))
        opened = (self.cache.get(index) if self.cache is not None else None) or self._open(index)
        window = random_resized_window(opened.size, self.scale, self.ratio, rng)
        pixels = crop(opened, window, self.size, bool(rng.random() < self.flip_prob))
        sample = dict(scene=index, object=-1, window=torch.from_numpy(window))
        return dict(inputs=torch.from_numpy(pixels), data_samples=sample)

    def preflight(self, progress: Callable[[int, int], None] | None = None, thorough: bool = False) -> None:
        """Look at every image file before hours are spent, as :meth:`ObjectCropDataset.preflight`."""
        check_files([self.path(k) for k in range(len(self))], [None] * len(self), self.quarantine, progress, thorough)
