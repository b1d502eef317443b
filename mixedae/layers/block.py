"""The pre-norm transformer block, with timm's parameter names."""

from __future__ import annotations

from typing import Any

from timm.layers import DropPath, LayerScale, Mlp
from torch import Tensor, nn

from mixedae.functional.positions import take
from mixedae.layers.attention import Attention


class Block(nn.Module):
    """``x + attn(norm1(x))``, then ``x + mlp(norm2(x))``.

    Args:
        dim: D.
        num_heads: H.
        mlp_ratio: hidden width of the MLP over D.
        qkv_bias: bias on the q, k, v projection.
        drop_path: probability of dropping a residual branch for a sample (stochastic depth).
        init_values: initial layer scale; None leaves layer scale out.
        norm_eps: epsilon of both LayerNorms.
        attention: further arguments of the attention (``topk_ratio``, ``cls``, ...).
        attention_class: :class:`Attention`, or :class:`SpatialAttention` for a block that knows the patch grid.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path: float = 0.0,
        init_values: float | None = None,
        norm_eps: float = 1e-6,
        attention: dict | None = None,
        attention_class: type[Attention] = Attention,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = attention_class(dim, num_heads, qkv_bias=qkv_bias, **(attention or {}))
        self.ls1 = LayerScale(dim, init_values=init_values) if init_values is not None else nn.Identity()
        self.drop_path1 = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.ls2 = LayerScale(dim, init_values=init_values) if init_values is not None else nn.Identity()
        self.drop_path2 = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor, *context: Any, wanted: Tensor | None = None) -> Tensor:
        """Attention, then MLP, each on the normalised tokens and added to them.

        Args:
            x: ``(B, N, D)``.
            context: goes to the attention beside the tokens (grid, padded patches, bias).
            wanted: ``(B, U)`` int64, the tokens whose output is wanted, by an :class:`Attention` that is global;
                None: all.

        Returns:
            ``(B, N, D)``, or ``(B, U, D)`` of the wanted tokens: the same values for less work.
        """
        if wanted is not None:
            context = (*context, wanted)
        attended = self.attn(self.norm1(x), *context)
        x = (x if wanted is None else take(x, wanted)) + self.drop_path1(self.ls1(attended))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
