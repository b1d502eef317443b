"""Relative positions in attention: BEiT's bias tables and ViTDet's decomposed embeddings, with resampling.

Both add to the score of query (y, x) and key (v, u) a term that depends on ``(y - v, x - u)`` alone:

- *table* (BEiT, arXiv 2106.08254): one learned number for each head and each offset, ``B[y - v, x - u]``, and three
  more for [CLS]: from [CLS] to a patch, from a patch to [CLS], from [CLS] to itself;
- *decomposed* (MViTv2, arXiv 2112.01526; ViTDet, arXiv 2203.16527): ``q . Rh[y - v] + q . Rw[x - u]`` with one learned
  vector of the head's width for each offset along an axis, shared by the heads; [CLS] takes no part.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NUM_CLS_ENTRIES = 3  # [CLS] to patch, patch to [CLS], [CLS] to itself: the last rows of a table, in this order


def table_size(grid: tuple[int, int], num_prefix_tokens: int = 1) -> int:
    """Rows of a bias table for a grid ``(h, w)``: ``(2h-1)(2w-1)`` offsets, and three for [CLS] if there is one."""
    return (2 * grid[0] - 1) * (2 * grid[1] - 1) + (NUM_CLS_ENTRIES if num_prefix_tokens else 0)


def table_bias(table: Tensor, table_grid: tuple[int, int], grid: tuple[int, int], num_prefix_tokens: int = 1) -> Tensor:
    """The bias that a table adds to the scores.

    Args:
        table: ``(table_size(table_grid), H)``, offsets row-major from ``(-(h-1), -(w-1))``, as in BEiT.
        table_grid: ``(h, w)`` the table is for.
        grid: ``(h', w')`` of the tokens; another one resamples the table.
        num_prefix_tokens: 1 with [CLS], 0 without.

    Returns:
        ``(1, H, N, N)`` (query, key), N = prefix + h'*w'.
    """
    if tuple(grid) != tuple(table_grid):
        table = resample_bias_table(table, table_grid, grid, num_prefix_tokens)
    tokens = num_prefix_tokens + grid[0] * grid[1]
    rows = table_rows(tuple(grid), num_prefix_tokens, table.device)
    # gathered along the values of each head: cheaper than table[rows] and a permutation of the result
    return table.t().contiguous().index_select(1, rows).view(1, -1, tokens, tokens)


@lru_cache(maxsize=2)  # windows and the whole grid take turns
def table_rows(grid: tuple[int, int], num_prefix_tokens: int, device: torch.device) -> Tensor:
    """Which row of a bias table each pair (query, key) takes: ``(N * N,)`` int32, for the last two grids kept."""
    height, width = grid
    offsets = (2 * height - 1) * (2 * width - 1)
    with torch.inference_mode(False):  # what is made in inference mode cannot be used in training later
        y, x = (torch.arange(side, device=device, dtype=torch.int32) for side in grid)
        dy = (y[:, None] - y[None, :] + height - 1) * (2 * width - 1)  # (query row, key row)
        dx = x[:, None] - x[None, :] + width - 1
        rows = (dy[:, None, :, None] + dx[None, :, None, :]).reshape(height * width, height * width)
        if num_prefix_tokens:
            rows = F.pad(rows, (1, 0, 1, 0))
            rows[0, 1:], rows[1:, 0], rows[0, 0] = offsets, offsets + 1, offsets + 2
        return rows.flatten()


class SharedBiasTable(nn.Module):
    """BEiT's relative position bias that all blocks share, under BEiT's name ``rel_pos_bias``."""

    def __init__(self, grid: tuple[int, int], num_heads: int, num_prefix_tokens: int) -> None:
        super().__init__()
        self.grid = grid
        self.num_prefix_tokens = num_prefix_tokens
        self.relative_position_bias_table = nn.Parameter(torch.zeros(table_size(grid, num_prefix_tokens), num_heads))

    def forward(self, grid: tuple[int, int]) -> Tensor:
        """``(1, H, N, N)`` for a grid ``(h, w)``."""
        return table_bias(self.relative_position_bias_table, self.grid, grid, self.num_prefix_tokens)


def resample_bias_table(
    table: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int], num_prefix_tokens: int = 1
) -> Tensor:
    """Resamples a bias table to another grid, bicubically over the offsets; the rows of [CLS] are kept.

    Args:
        table: ``(table_size(old_grid), H)``.
        old_grid: ``(h, w)``.
        new_grid: ``(h', w')``.
        num_prefix_tokens: 1 with [CLS], 0 without.

    Returns:
        ``(table_size(new_grid), H)`` in the same dtype.
    """
    offsets = (2 * old_grid[0] - 1) * (2 * old_grid[1] - 1)
    expected = table_size(old_grid, num_prefix_tokens)
    if table.shape[0] != expected:
        raise ValueError(f'A bias table for {old_grid[0]} x {old_grid[1]} has {expected} rows, not {table.shape[0]}.')
    x = table[:offsets].t().reshape(1, -1, 2 * old_grid[0] - 1, 2 * old_grid[1] - 1)
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    size = (2 * new_grid[0] - 1, 2 * new_grid[1] - 1)
    x = F.interpolate(x, size=size, mode='bicubic', align_corners=False)
    return torch.cat([x.flatten(2)[0].t().to(table.dtype), table[offsets:]])


def axis_table(rel_pos: Tensor, length: int) -> Tensor:
    """Embeddings of all offsets along one axis, ``R[i, j] = rel_pos[i - j + length - 1]``.

    Args:
        rel_pos: ``(2n-1, d)``, from offset ``-(n-1)``; n other than ``length`` is resampled linearly, as in ViTDet.
        length: number of places along the axis.

    Returns:
        ``(length, length, d)``: query place, key place.
    """
    wanted = 2 * length - 1
    if rel_pos.shape[0] != wanted:
        x = rel_pos.t().unsqueeze(0)
        x = F.interpolate(x.to(torch.promote_types(x.dtype, torch.float32)), size=wanted, mode='linear')
        rel_pos = x[0].t().to(rel_pos.dtype)
    return rel_pos.flip(0).unfold(0, length, 1).flip(0).transpose(1, 2)


def decomposed_terms(q: Tensor, rel_pos_h: Tensor, rel_pos_w: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Decomposed relative positions as further columns of queries and keys.

    The bias of query (y, x) and key (v, u) is ``a[v] + b[u]`` with ``a[v] = q . Rh[y - v]``, ``b[u] = q . Rw[x - u]``.
    That is a dot product of ``(a, b)``, h + w numbers of the query, with a key's ``(one-hot v, one-hot u)``. Attention
    on vectors that are longer by h + w gives the same values as a bias of ``(B, H, L, L)`` numbers, which is never
    made: at 64 x 64 patches a row of it has 4096 numbers, here it is 128.

    Args:
        q: queries of the patches ``(B, H, h*w, d)``, not scaled.
        rel_pos_h: ``(2n-1, d)``.
        rel_pos_w: ``(2n-1, d)``.
        grid: ``(h, w)``.

    Returns:
        columns for the queries ``(B, H, h*w, h + w)`` and for the keys ``(h*w, h + w)``.
    """
    height, width = grid
    places = q.unflatten(2, grid)  # (B, H, h, w, d)
    rows = torch.einsum('bnyxd,yvd->bnyxv', places, axis_table(rel_pos_h, height).to(q.dtype))
    columns = torch.einsum('bnyxd,xud->bnyxu', places, axis_table(rel_pos_w, width).to(q.dtype))
    one_hot_rows = torch.eye(height, device=q.device).to(q.dtype).repeat_interleave(width, dim=0)
    one_hot_columns = torch.eye(width, device=q.device).to(q.dtype).repeat(height, 1)
    return torch.cat([rows, columns], dim=-1).flatten(2, 3), torch.cat([one_hot_rows, one_hot_columns], dim=1)
