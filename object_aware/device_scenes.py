"""Decoded scenes in the memory of the device that trains, cut and resized there: nothing is left for the loader but to
draw windows. For data sets that fit: the scenes of a whole index as uint8.

Name this module in ``custom_imports`` beside ``mixedae``: models are built before the first dataset.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from mmengine.model import ImgDataPreprocessor
from torch import Tensor
from torch.utils.data import Dataset

from mixedae.registry import DATASETS, MODELS

from .index import CropIndex, as_size
from .pixels import crop, open_image

COLUMNS = 6
"""A row of a batch: scene, x1, y1, x2, y2, flip."""
_MOST_SCENES = 1 << 24  # numbers of scenes are float32 in a batch


@DATASETS.register_module()
class WindowDataset(Dataset):
    """The windows of a dataset of crops, without reading a pixel; :class:`DeviceScenes` cuts them on the device.

    Args:
        dataset: config of an :class:`ObjectCropDataset` or :class:`SceneCropDataset`.

    Attributes:
        scene_ids, index: of that dataset.

    Raises:
        ValueError: more scenes than numbers that float32 holds exactly.
    """

    def __init__(self, dataset: dict) -> None:
        self.dataset = DATASETS.build(dataset)
        self.index, self.scene_ids = self.dataset.index, self.dataset.scene_ids
        if len(self.index.sizes) > _MOST_SCENES:
            raise ValueError(f'Scenes on the device are at most {_MOST_SCENES:,}, not {len(self.index.sizes):,}.')

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: int | tuple[int, ...]) -> dict[str, Any]:
        """dict(inputs=float32 (6,) scene, x1, y1, x2, y2, flip; data_samples as the dataset of crops gives them)."""
        number, window, flip = self.dataset.draw(key)
        scene = int(self.scene_ids[number])
        row = torch.tensor([scene, *window.tolist(), float(flip)])
        sample = dict(scene=scene, object=int(self.index.targets[number]), window=row[1:5].clone())
        return dict(inputs=row, data_samples=sample)


@MODELS.register_module()
class DeviceScenes(ImgDataPreprocessor):
    """Data preprocessor that holds all scenes of a crop index and cuts the windows of a batch out of them.

    Takes batches of :class:`WindowDataset`; batches of images pass as through ``mmengine.ImgDataPreprocessor``, so
    that a trained model needs no scenes. They are decoded when the first windows come, padded to one size: S scenes
    take ``3 * S * H * W`` bytes for the largest height and width.

    Args:
        index_file: of the windows.
        size: (height, width) of the crops or one number.
        image_root: replaces the folder of the images when the data moved.
        limit_gib: memory that the scenes may take.
        options: ``mean``, ``std`` and others of ``mmengine.ImgDataPreprocessor``.
    """

    def __init__(
        self,
        index_file: str | os.PathLike[str],
        size: int | tuple[int, int],
        image_root: str | os.PathLike[str] | None = None,
        limit_gib: float = 8.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.index_file, self.image_root = index_file, image_root
        self.size = as_size(size)
        self.limit_gib = limit_gib
        self._scenes: Tensor | None = None  # (S, 3, H, W) uint8 on the device; no buffer: checkpoints leave it out
        self._rows: Tensor | None = None  # scene -> row of _scenes
        self._sizes: Tensor | None = None  # (S, 2) width, height

    def forward(self, data: dict, training: bool = False) -> dict:
        """Windows ``(B, 6)`` or images ``(B, 3, H, W)`` to normalised images, on the device."""
        inputs = data['inputs']
        if torch.is_tensor(inputs) and inputs.dim() == 2 and inputs.shape[1] == COLUMNS:
            data = {**data, 'inputs': self.cut(inputs.to(self.device, non_blocking=True))}
        return super().forward(data, training)

    @torch.no_grad()
    def cut(self, windows: Tensor) -> Tensor:
        """Windows ``(B, 6)`` to crops ``(B, 3, height, width)`` uint8."""
        if self._scenes is None or self._scenes.device != windows.device:
            self._load(windows.device)
        rows = self._rows[windows[:, 0].long()]
        sizes = self._sizes[rows]  # (B, 2)
        height, width = self.size
        pixels = self._scenes[rows].float()  # (B, 3, H, W)
        across = resize_weights(windows[:, 1], windows[:, 3], sizes[:, 0], pixels.shape[3], width)  # (B, width, W)
        across = torch.where(windows[:, 5, None, None] > 0, across.flip(1), across)
        down = resize_weights(windows[:, 2], windows[:, 4], sizes[:, 1], pixels.shape[2], height)  # (B, height, H)
        # rows first, rounded to 8 bits, as on the CPU (see resizing.py)
        narrow = to_levels(pixels.flatten(1, 2) @ across.transpose(1, 2)).unflatten(1, pixels.shape[1:3])
        return to_levels(down.unsqueeze(1) @ narrow).to(torch.uint8)

    def _load(self, device: torch.device) -> None:
        """Decode every scene that a window can be in."""
        index = CropIndex.load(self.index_file)
        folders = [str(folder) for folder in index.image_folders(self.image_root)]
        used = index.used_scenes
        sizes = index.sizes[used].astype(np.int64)  # width, height
        width, height = sizes.max(axis=0).tolist()
        needed = 3 * len(used) * width * height
        if needed > self.limit_gib * 2**30:
            raise ValueError(
                f'{len(used):,} scenes of up to {width}x{height} pixels take {needed / 2**30:.1f} GiB on the device, '
                f'more than limit_gib={self.limit_gib:g}: raise it, or let the loader cut the crops.'
            )
        scenes = torch.zeros(len(used), 3, height, width, dtype=torch.uint8)
        for row, (scene, (w, h)) in enumerate(zip(used.tolist(), sizes.tolist())):
            opened = open_image(index.image_bytes_location(scene, folders), (w, h))
            scenes[row, :, :h, :w] = torch.from_numpy(crop(opened, np.array([0, 0, w, h], np.float32), (h, w)))
        rows = torch.full((len(index.sizes),), -1)
        rows[torch.from_numpy(used.astype(np.int64))] = torch.arange(len(used))
        self._scenes, self._rows = scenes.to(device), rows.to(device)
        self._sizes = torch.from_numpy(sizes).to(device)


def to_levels(values: Tensor) -> Tensor:
    """Rounded to whole levels 0..255, halves up."""
    return (values + 0.5).floor().clamp(0, 255)


def resize_weights(start: Tensor, stop: Tensor, length: Tensor, most: int, count: int) -> Tensor:
    """Weights that resize ``[start, stop)`` of a line of pixels to ``count``: bicubic, antialiased, as Pillow's.

    Args:
        start, stop: ``(B,)`` in pixels.
        length: ``(B,)`` pixels of each line that are real.
        most: pixels of the padded lines.
        count: of the result.

    Returns:
        ``(B, count, most)`` float32, each row with sum 1.
    """
    start, stop = start.double(), stop.double()
    step = ((stop - start) / count)[:, None, None]
    stretch = step.clamp_min(1.0)
    places = torch.arange(count, device=start.device).double()[None, :, None]
    centre = start[:, None, None] + (places + 0.5) * step
    pixel = torch.arange(most, device=start.device).double()[None, None, :]
    x = ((pixel + 0.5 - centre) / stretch).abs()
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    weights = torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
    weights = torch.where(pixel < length[:, None, None], weights, torch.zeros_like(weights))
    return (weights / weights.sum(2, keepdim=True)).float()
