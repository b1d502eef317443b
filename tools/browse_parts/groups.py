"""Mixing groups as the model gets them."""

from __future__ import annotations

from itertools import islice

import numpy as np
import torch

from mixedae.functional import draw_mixing_mask, mix, patchify, unpatchify
from mixedae.visualization import encode_image, mask_colours
from mixedae.visualization.draw import SOURCE_COLOURS, palette
from object_aware import GroupSampler, ObjectCropDataset

Row = tuple[str, list[str | None]]


def group_rows(
    dataset: ObjectCropDataset, groups: int, group_size: int, patch_size: int, seed: int, differ: str
) -> list[Row]:
    """Each group's crops, its mixing mask, and the mix of its patches.

    Raises:
        ValueError: the crop size is no multiple of the patch size, or there are too few scenes.
    """
    height, width = dataset.size
    if height % patch_size or width % patch_size:
        raise ValueError(f'Crops of {height}x{width} cannot be cut into patches of {patch_size}: give --patch-size.')
    sampler = GroupSampler(dataset, group_size, seed=seed, rank=0, world_size=1, differ=differ)
    groups = min(groups, sampler.num_groups)
    keys = list(islice(sampler, groups * group_size))
    crops = torch.stack([dataset[key]['inputs'] for key in keys]).unflatten(0, (groups, group_size))
    grid = (height // patch_size, width // patch_size)
    generator = torch.Generator().manual_seed(seed)
    mask = draw_mixing_mask(groups, grid[0] * grid[1], group_size, generator=generator)
    mixed = unpatchify(mix(patchify(crops.float(), patch_size), mask), patch_size, grid)
    rows: list[Row] = []
    for k in range(groups):
        pictures: list[str | None] = [_encode(crop) for crop in crops[k]]
        pictures.append(encode_image(mask_colours(mask[k].numpy(), grid, patch_size), photo=False))
        pictures.append(_encode(mixed[k]))
        rows.append((f'group {k + 1}', pictures))
    return rows


def group_colours(group_size: int) -> list[tuple[str, tuple[int, int, int]]]:
    """Legend of the mixing masks."""
    colours = SOURCE_COLOURS if group_size <= len(SOURCE_COLOURS) else palette(group_size)
    return [(f'from crop {k + 1}', tuple(colours[k])) for k in range(group_size)]


def _encode(crop: torch.Tensor) -> str:
    return encode_image(np.ascontiguousarray(crop.to(torch.uint8).numpy().transpose(1, 2, 0)), quality=80)
