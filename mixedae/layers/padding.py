"""Batches of images of different sizes: which part of each padded image is real."""

from __future__ import annotations

import torch
from torch import Tensor


def real_grids(images: Tensor, patch_size: int) -> list[tuple[int, int]]:
    """How many patches of each image are real, when images were padded with zeros at the bottom and the right.

    Pre-processors of mm pad after normalisation, with zeros. A pixel of a photograph is never zero in all channels then
    (that would need the value 123.675 of 255), so trailing rows and columns of zeros are padding.

    Args:
        images: ``(B, 3, H, W)``, normalised.
        patch_size: P.

    Returns:
        ``(h, w)`` for each image: patches that hold at least one real pixel, 1 or more along each side.
    """
    real = (images != 0).any(dim=1)  # (B, H, W)
    sizes = []
    for lines in (real.any(dim=2), real.any(dim=1)):  # rows, columns
        numbers = torch.arange(1, lines.shape[1] + 1, device=images.device)
        last = (lines * numbers).amax(dim=1).clamp(min=1)  # pixels up to the last real one
        sizes.append((last + patch_size - 1) // patch_size)
    return [tuple(size) for size in torch.stack(sizes, dim=1).tolist()]


def padded_patches(grids: list[tuple[int, int]], grid: tuple[int, int], device: torch.device | None = None) -> Tensor:
    """``(B, h*w)`` bool: the patches of a common grid that lie outside each image's own grid."""
    own = torch.tensor(grids, device=device)
    rows = torch.arange(grid[0], device=device) >= own[:, :1]  # (B, h)
    columns = torch.arange(grid[1], device=device) >= own[:, 1:]
    return (rows[:, :, None] | columns[:, None, :]).flatten(1)
