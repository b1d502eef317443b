"""Fitting weights to a backbone of another size: position tables, relative positions, the patch embedding.

Absolute positions and BEiT's tables are resampled bicubically, as timm's ``resize_rel_pos_bias_table_simple`` does
(BEiT itself resamples its tables on a geometric grid: near offsets come out alike, far ones differ); ViTDet's
decomposed positions linearly, as ViTDet does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import resample_patch_embed
from torch import Tensor

from mixedae.checkpoints.reading import CheckpointError
from mixedae.layers import resample_pos_embed

Grid = tuple[int, int]
CLS_ROWS = 3  # of a bias table: [CLS] to patch, patch to [CLS], [CLS] to itself


def fit_pos_embed(
    table: Tensor, wanted: Tensor, grid: Grid, prefix: int, source_grid: Grid | None, source: str
) -> tuple[Tensor, str]:
    """A position table for another grid, with or without a row for [CLS].

    Args:
        table: ``(1, rows, D)`` of the file.
        wanted: the backbone's ``(1, prefix + h*w, D)``.
        grid: ``(h, w)`` of the backbone.
        prefix: rows before the patches in the backbone's table, 1 or 0.
        source_grid: ``(h, w)`` of the file's table, None if not known.
        source: name of the file.

    Returns:
        the fitted table and what was done to it, '' for nothing.

    Raises:
        CheckpointError: the table fits no grid.
    """
    if table.ndim == 2:
        table = table.unsqueeze(0)
    if table.ndim != 3 or table.shape[0] != 1 or table.shape[2] != wanted.shape[2]:
        return table, ''  # of another width: the check of shapes says so
    rows = table.shape[1]
    old_grid, old_prefix = table_grid(rows, grid, source_grid, source)
    changes = []
    if old_grid != tuple(grid):
        table = resample_pos_embed(table, old_grid, grid, num_prefix_tokens=old_prefix)
        changes.append(f'{old_grid[0]} x {old_grid[1]} -> {grid[0]} x {grid[1]} patches')
    if old_prefix < prefix:  # that row is zero, as in MAE's table
        table = torch.cat([table.new_zeros(1, prefix - old_prefix, table.shape[2]), table], dim=1)
        changes.append('a row of zeros put before it for [CLS]')
    elif old_prefix > prefix:
        table = table[:, old_prefix - prefix :]
        changes.append('its row of [CLS] dropped')
    return table, ', '.join(changes)


def table_grid(rows: int, grid: Grid | None, source_grid: Grid | None, source: str) -> tuple[Grid, int]:
    """Grid and number of prefix rows (0 or 1) of a position table.

    Args:
        rows: rows of the table.
        grid: ``(h, w)`` of the backbone, taken where the table has as many patches and is not square; None for none.
        source_grid: ``(h, w)`` that the file or the user tells.
        source: name of the file.

    Raises:
        CheckpointError: the grid cannot be known.
    """
    if source_grid is not None and rows - source_grid[0] * source_grid[1] in (0, 1):
        return tuple(source_grid), rows - source_grid[0] * source_grid[1]
    squares = [(math.isqrt(max(rows - prefix, 0)), prefix) for prefix in (1, 0)]
    found = [((side, side), prefix) for side, prefix in squares if side > 0 and side * side == rows - prefix]
    if grid is not None and rows - grid[0] * grid[1] in (0, 1):
        as_backbone = (tuple(grid), rows - grid[0] * grid[1])
        found += [as_backbone] if as_backbone not in found else []
    if len(found) > 1:
        choices = ' or '.join(f'{h} x {w} patches with{"" if prefix else "out"} [CLS]' for (h, w), prefix in found)
        raise CheckpointError(
            f'The position embedding of {source} has {rows} rows, which can be {choices}: give '
            'source_grid=(rows, columns) in patches that it was trained with.'
        )
    if found:
        return found[0]
    raise CheckpointError(
        f'The position embedding of {source} has {rows} rows: neither with nor without one for [CLS] is that a square '
        'grid, so it cannot be resampled; give source_grid=(rows, columns) in patches that it was trained with.'
    )


def check_source_grid(table: Tensor | None, source_grid: Sequence[int] | None, source: str) -> Grid | None:
    """``source_grid`` as the user gave it, as a pair; it must fit the position table, if there is one.

    Raises:
        ValueError: it is no pair of numbers of patches.
        CheckpointError: the table has another number of rows.
    """
    if source_grid is None:
        return None
    grid = tuple(source_grid)
    if len(grid) != 2 or not all(isinstance(side, int) and side > 0 for side in grid):
        raise ValueError(f'source_grid is (rows, columns) in patches, not {source_grid}.')
    rows = grid[0] * grid[1] if table is None else table.shape[-2]
    if rows - grid[0] * grid[1] not in (0, 1):
        raise CheckpointError(
            f'source_grid {grid} has {grid[0] * grid[1]} patches, but the position embedding of {source} has {rows} '
            'rows.'
        )
    return grid


def fit_bias_table(table: Tensor, wanted: Tensor, grid: Grid, prefix: int, source_grid: Grid | None) -> Tensor:
    """BEiT's table ``(rows, H)`` for another grid or window ``(h, w)``; [CLS]'s rows are kept, dropped or zero."""
    if table.ndim != 2 or table.shape[1] != wanted.shape[1]:
        return table
    rows = table.shape[0]
    size = (2 * grid[0] - 1, 2 * grid[1] - 1)
    candidates = [(2 * g[0] - 1, 2 * g[1] - 1) for g in (source_grid, grid) if g is not None]
    for extra in (CLS_ROWS, 0):
        side = math.isqrt(max(rows - extra, 0))
        if side > 0 and side * side == rows - extra and side % 2:
            candidates.append((side, side))
    old = next((c for c in candidates if rows - c[0] * c[1] in (0, CLS_ROWS)), None)
    if old is None:
        return table
    offsets, extra = table[: old[0] * old[1]].float(), table[old[0] * old[1] :].float()
    if old != size:
        x = offsets.t().reshape(1, -1, *old)
        offsets = F.interpolate(x, size=size, mode='bicubic', align_corners=False).flatten(2)[0].t()
    if not prefix:
        return offsets
    return torch.cat([offsets, extra if len(extra) else offsets.new_zeros(CLS_ROWS, offsets.shape[1])])


def fit_axis_table(table: Tensor, wanted: Tensor) -> Tensor:
    """ViTDet's positions along one axis ``(2n-1, d)`` for another length."""
    if table.ndim != 2 or table.shape[1] != wanted.shape[1]:
        return table
    return F.interpolate(table.float().t().unsqueeze(0), size=wanted.shape[0], mode='linear')[0].t()


def fit_patch_embed(weight: Tensor, wanted: Tensor) -> Tensor:
    """Projection ``(D, C, P, P)`` for another patch size and another number of channels.

    The patch is resampled by the pseudo-inverse of bicubic resizing (FlexiViT), which keeps the product with a resized
    patch. One channel of several is their sum (a grey image is the same in each); more channels repeat the file's,
    scaled so that the sum stays.
    """
    if weight.ndim != 4 or weight.shape[0] != wanted.shape[0]:
        return weight
    weight = weight.float()
    channels, new_channels = weight.shape[1], wanted.shape[1]
    if new_channels == 1:
        weight = weight.sum(1, keepdim=True)
    elif channels != new_channels:
        index = torch.arange(new_channels) % channels
        weight = weight[:, index] * (channels / new_channels)
    if weight.shape[2:] != wanted.shape[2:]:
        weight = resample_patch_embed(weight, list(wanted.shape[2:]))
    return weight
