"""Multi-head self-attention with timm's parameter names, global or homologous (TopK)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mixedae.functional.attention import topk_attention
from mixedae.functional.positions import take


class Attention(nn.Module):
    """Self-attention; ``topk_ratio`` makes it homologous (Eq 6) without any parameter of its own.

    Args:
        dim: D.
        num_heads: H; D is a multiple of H.
        qkv_bias: bias on the q, k, v projection.
        topk_ratio: K / L, the share of patch keys that each query keeps; None is global attention.
        cls: how [CLS] takes part in the selection, ``'keep'`` or ``'compete'``.
        num_prefix_tokens: tokens before the patches.
        backend: of :func:`mixedae.functional.topk_attention`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qkv_bias: bool = True,
        topk_ratio: float | None = None,
        cls: str = 'keep',
        num_prefix_tokens: int = 1,
        backend: str = 'auto',
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f'The width {dim} cannot be shared by {num_heads} heads.')
        if topk_ratio is not None and not 0 < topk_ratio <= 1:
            raise ValueError(f'topk_ratio is a share of the keys and must lie in (0, 1], not {topk_ratio}.')
        if cls not in ('keep', 'compete'):
            raise ValueError(f"cls must be 'keep' or 'compete', not '{cls}'.")
        self.num_heads = num_heads
        self.topk_ratio = topk_ratio
        self.cls = cls
        self.num_prefix_tokens = num_prefix_tokens
        self.backend = backend
        self.qkv = nn.Linear(dim, dim * 3, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def project_qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``(B, N, D)`` to q, k, v of ``(B, H, N, d)``."""
        batch, length, dim = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.num_heads, dim // self.num_heads)
        return qkv.permute(2, 0, 3, 1, 4).unbind(0)

    def num_kept(self, num_tokens: int) -> int | None:
        """K for a sequence of ``num_tokens``; None where the attention is global."""
        if self.topk_ratio is None:
            return None
        return max(1, round(self.topk_ratio * (num_tokens - self.num_prefix_tokens)))

    def project_wanted(self, x: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``(B, N, D)`` to q of the wanted tokens ``(B, H, U, d)`` and k, v of all ``(B, H, N, d)``."""
        batch, length, dim = x.shape
        split = (dim, 2 * dim)
        weight_q, weight_kv = self.qkv.weight.split(split)
        bias_q, bias_kv = (None, None) if self.qkv.bias is None else self.qkv.bias.split(split)
        q = F.linear(take(x, wanted), weight_q, bias_q).unflatten(-1, (self.num_heads, -1))
        kv = F.linear(x, weight_kv, bias_kv).view(batch, length, 2, self.num_heads, -1)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)
        return q.transpose(1, 2), k, v

    def forward(self, x: Tensor, wanted: Tensor | None = None) -> Tensor:
        """Attends.

        Args:
            x: ``(B, N, D)``.
            wanted: ``(B, U)`` int64, the tokens whose output is wanted (all are keys); None: all. Only global
                attention takes it.

        Returns:
            ``(B, N, D)``, or ``(B, U, D)`` of the wanted tokens.
        """
        topk = self.num_kept(x.shape[1])
        if wanted is not None:
            if topk is not None:
                raise ValueError('Homologous attention computes all tokens: leave wanted out, or topk_ratio.')
            q, k, v = self.project_wanted(x, wanted)
        else:
            q, k, v = self.project_qkv(x)
        if topk is None:
            out = F.scaled_dot_product_attention(q, k, v)
        else:
            out = topk_attention(
                q, k, v, topk, num_prefix_tokens=self.num_prefix_tokens, cls=self.cls, backend=self.backend
            )
        return self.proj(out.transpose(1, 2).flatten(2))
