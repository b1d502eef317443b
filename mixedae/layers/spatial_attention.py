"""Self-attention that knows the patch grid: relative positions, windows, padded patches; PyTorch's fused call."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixedae.layers.attention import Attention
from mixedae.layers.rel_pos import decomposed_terms, table_bias, table_size
from mixedae.layers.windows import (
    empty_places,
    from_windows,
    num_windows,
    pad_to_windows,
    padded_grid,
    to_windows,
)

REL_POS_KINDS = (None, 'table', 'decomposed')
WINDOW_PADDINGS = ('mask', 'zeros')
# added to the score of a padded key: exp() of it is exactly 0 in every float type, and float16 can hold it
PADDED_SCORE = -1e4


class SpatialAttention(Attention):
    """:class:`Attention` on patches of a grid ``(h, w)`` after ``num_prefix_tokens`` of [CLS].

    **Windows.** With ``window_size`` a patch attends to the patches of its window and to [CLS]. [CLS] itself attends
    to all patches, so that one window as large as the grid is plain global attention. ViTDet drops [CLS] instead
    (``num_prefix_tokens=0``). Where windows reach over the edge of the grid, ``window_padding='mask'`` leaves out the
    places without a patch, exactly; ``'zeros'`` lets them be attended to as tokens of zeros, as ViTDet and SAM do, and
    as their published weights expect.

    **Relative positions.** ``'table'`` holds ``relative_position_bias_table`` (BEiT's name), ``'decomposed'`` holds
    ``rel_pos_h`` and ``rel_pos_w`` (ViTDet's names); zero at the start. They are kept for ``rel_pos_grid``, in blocks
    with windows for one window, and are resampled for other grids. See :mod:`mixedae.layers.rel_pos`.

    Decomposed positions and padded keys become further columns of queries and keys, so no ``(B, H, N, N)`` mask is made
    and the flash kernels stay usable; a table is a mask ``(1, H, N, N)``.

    Args:
        dim: D.
        num_heads: H.
        qkv_bias: bias on the q, k, v projection.
        num_prefix_tokens: 1 with [CLS], 0 without.
        window_size: side of a window in patches; None is global.
        window_padding: ``'mask'`` or ``'zeros'``.
        rel_pos: ``'table'``, ``'decomposed'`` or None.
        rel_pos_grid: ``(h, w)`` the parameters of ``rel_pos`` are kept for; not used with windows.
        topk_ratio: K / L for TopK attention; with none of the above.
        cls: of :class:`Attention`.
        backend: of :class:`Attention`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qkv_bias: bool = True,
        *,
        num_prefix_tokens: int = 1,
        window_size: int | None = None,
        window_padding: str = 'mask',
        rel_pos: str | None = None,
        rel_pos_grid: tuple[int, int] | None = None,
        topk_ratio: float | None = None,
        cls: str = 'keep',
        backend: str = 'auto',
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, topk_ratio, cls, num_prefix_tokens, backend)
        if rel_pos not in REL_POS_KINDS:
            raise ValueError(f"rel_pos must be 'table', 'decomposed' or None, not '{rel_pos}'.")
        if window_padding not in WINDOW_PADDINGS:
            raise ValueError(f"window_padding must be 'mask' or 'zeros', not '{window_padding}'.")
        if window_size is not None and window_size < 1:
            raise ValueError(f'window_size is a number of patches, 1 or more, not {window_size}.')
        if topk_ratio is not None and (rel_pos or window_size):
            raise ValueError('TopK attention is not defined with relative positions or windows; set one of the two.')
        self.window_size = window_size
        self.window_padding = window_padding
        self.rel_pos = rel_pos
        self.rel_pos_grid = (window_size, window_size) if window_size else rel_pos_grid
        if rel_pos == 'table':
            rows = table_size(self.rel_pos_grid, num_prefix_tokens)
            self.relative_position_bias_table = nn.Parameter(torch.zeros(rows, num_heads))
        elif rel_pos == 'decomposed':
            self.rel_pos_h = nn.Parameter(torch.zeros(2 * self.rel_pos_grid[0] - 1, dim // num_heads))
            self.rel_pos_w = nn.Parameter(torch.zeros(2 * self.rel_pos_grid[1] - 1, dim // num_heads))

    def forward(
        self, x: Tensor, grid: tuple[int, int], padded: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        """Attention over ``x`` ``(B, prefix + h*w, D)``.

        Args:
            x: tokens.
            grid: ``(h, w)``.
            padded: ``(B, h*w)`` bool, patches that nothing attends to; None if there are none.
            bias: ``(1, H, N, N)`` added to the scores (a table that all blocks share), for blocks without windows.
        """
        if self.topk_ratio is not None:
            if padded is not None:
                raise ValueError('TopK attention cannot leave padded patches out; set mask_padding=False.')
            return super().forward(x)
        if self.window_size is not None:
            return self.proj(self._windowed(x, grid, padded))
        q, k, v = self.project_qkv(x)
        if self.rel_pos == 'table':
            own = table_bias(self.relative_position_bias_table, self.rel_pos_grid, grid, self.num_prefix_tokens)
            bias = own if bias is None else bias + own
        out = self._attend(q, k, v, grid, padded, bias, self.num_prefix_tokens)
        return self.proj(out.transpose(1, 2).reshape(x.shape))

    def _windowed(self, x: Tensor, grid: tuple[int, int], padded: Tensor | None) -> Tensor:
        """Attention inside windows, before the output projection: ``(B, prefix + h*w, D)``."""
        side, prefix = self.window_size, self.num_prefix_tokens
        count = num_windows(grid, side)
        patches = x[:, prefix:].unflatten(1, grid)  # (B, h, w, D)
        if self.window_padding == 'zeros':
            qkv = self.qkv(pad_to_windows(patches, side))
        else:
            qkv = pad_to_windows(self.qkv(patches), side)
        empty, outside = None, self.window_padding == 'mask' and padded_grid(grid, side) != tuple(grid)
        if outside or padded is not None:
            no_patch = x.new_zeros(len(x), grid[0] * grid[1], dtype=torch.bool) if padded is None else padded
            empty = empty_places(no_patch, grid, side, outside)
        q, k, v = self._split(to_windows(qkv, side))  # (B * windows, H, side**2, d)
        bias = None
        if self.rel_pos == 'table':
            bias = table_bias(self.relative_position_bias_table, self.rel_pos_grid, (side, side), prefix)[:, :, prefix:]
        if prefix:
            q_cls, k_cls, v_cls = self._split(self.qkv(x[:, :prefix]))
            k = torch.cat([k_cls.repeat_interleave(count, dim=0), k], dim=2)
            v = torch.cat([v_cls.repeat_interleave(count, dim=0), v], dim=2)
        out = self._attend(q, k, v, (side, side), empty, bias, prefix)
        out = from_windows(out.transpose(1, 2).flatten(2), grid, side).flatten(1, 2)  # (B, h*w, D)
        if not prefix:
            return out
        _, k, v = self._split(qkv[:, : grid[0], : grid[1]].flatten(1, 2))
        k, v = torch.cat([k_cls, k], dim=2), torch.cat([v_cls, v], dim=2)
        bias = None
        if self.rel_pos == 'table':
            to_patch, _, itself = self.relative_position_bias_table[-3:]
            bias = torch.cat([itself[:, None], to_patch[:, None].expand(-1, k.shape[2] - 1)], dim=1)[None, :, None]
        out_cls = self._attend(q_cls, k, v, None, padded, bias, prefix)
        return torch.cat([out_cls.transpose(1, 2).flatten(2), out], dim=1)

    def _split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``(B, N, 3D)`` to q, k, v of ``(B, H, N, d)``."""
        return qkv.unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def _attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        grid: tuple[int, int] | None,
        padded: Tensor | None,
        bias: Tensor | None,
        prefix: int,
    ) -> Tensor:
        """One fused attention call.

        Args:
            q: ``(B, H, M, d)``: all tokens, the patches of ``grid`` alone, or (``grid`` None) [CLS] alone.
            k: ``(B, H, prefix + patches, d)``.
            v: like k.
            grid: ``(h, w)`` of the queries that are patches, the last h*w ones.
            padded: ``(B, patches)`` bool, keys that are left out.
            bias: added to the scores.
            prefix: how many keys stand before the patches.

        Returns:
            ``(B, H, M, d)``.
        """
        q_terms, k_terms = [], []
        if self.rel_pos == 'decomposed' and grid is not None:
            patches = grid[0] * grid[1]
            to_add, one_hot = decomposed_terms(q[:, :, -patches:], self.rel_pos_h, self.rel_pos_w, grid)
            q_terms.append(F.pad(to_add, (0, 0, q.shape[2] - patches, 0)))  # nothing for [CLS]
            k_terms.append(F.pad(one_hot, (0, 0, prefix, 0)).expand(*k.shape[:3], -1))
        if padded is not None:
            scores = F.pad(padded.to(k.dtype) * PADDED_SCORE, (prefix, 0))[:, None, :, None]
            q_terms.append(q.new_ones(1).expand(*q.shape[:3], 1))
            k_terms.append(scores.expand(*k.shape[:3], 1))
        bias = None if bias is None else bias.to(q.dtype)
        if not q_terms:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        width = q.shape[-1]
        q = torch.cat([q * width**-0.5, *q_terms], dim=-1)
        k = torch.cat([k, *k_terms], dim=-1)
        fill = -q.shape[-1] % 8  # the fused kernels want widths that are multiples of 8, and v as wide as q and k
        q, k, v = F.pad(q, (0, fill)), F.pad(k, (0, fill)), F.pad(v, (0, q.shape[-1] + fill - width))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)[..., :width]
