"""Position embeddings: the fixed 2-D sin-cos table of MAE and its resampling to other grids."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def sincos_pos_embed(dim: int, grid: tuple[int, int], num_prefix_tokens: int = 0) -> Tensor:
    """Fixed 2-D sin-cos position embedding, equal to MAE's.

    Half of the values encode the column, half the row; each half is sines, then cosines, of the position times
    ``10000 ** (-i / (dim/4))``.

    Args:
        dim: D, a multiple of 4.
        grid: ``(h, w)`` in patches.
        num_prefix_tokens: rows of zeros put before the patches ([CLS]).

    Returns:
        ``(1, prefix + h*w, D)`` float32.
    """
    if dim % 4:
        raise ValueError(f'A 2-D sin-cos embedding needs a width that is a multiple of 4, not {dim}.')
    # float64 until the end: float32 angles differ between platforms in the last digits
    omega = 10000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    rows, columns = torch.meshgrid(
        torch.arange(grid[0], dtype=torch.float64), torch.arange(grid[1], dtype=torch.float64), indexing='ij'
    )
    parts = []
    for position in (columns, rows):
        angle = position.reshape(-1, 1) * omega  # (h*w, D/4)
        parts += [angle.sin(), angle.cos()]
    table = torch.cat(parts, dim=1).float()
    return torch.cat([table.new_zeros(num_prefix_tokens, dim), table]).unsqueeze(0)


def resample_pos_embed(
    pos_embed: Tensor,
    old_grid: tuple[int, int],
    new_grid: tuple[int, int],
    num_prefix_tokens: int = 1,
    antialias: bool = True,
) -> Tensor:
    """Resamples the patch part of a position embedding to another grid, bicubically.

    Args:
        pos_embed: ``(1, prefix + h*w, D)``.
        old_grid: ``(h, w)`` it was made for.
        new_grid: ``(h', w')``.
        num_prefix_tokens: leading rows that are kept as they are.
        antialias: with antialiasing, as timm; without, as ViTDet.

    Returns:
        ``(1, prefix + h'*w', D)`` in the same dtype.
    """
    if tuple(old_grid) == tuple(new_grid):
        return pos_embed
    prefix, patches = pos_embed[:, :num_prefix_tokens], pos_embed[:, num_prefix_tokens:]
    dim = patches.shape[-1]
    x = patches.reshape(1, *old_grid, dim).permute(0, 3, 1, 2).float()
    x = F.interpolate(x, size=tuple(new_grid), mode='bicubic', antialias=antialias, align_corners=False)
    x = x.permute(0, 2, 3, 1).reshape(1, -1, dim).to(pos_embed.dtype)
    return torch.cat([prefix, x], dim=1)
