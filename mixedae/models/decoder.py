"""MAE's decoder: a small ViT from unmixed (or masked) sequences to pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mixedae.layers import Block, sincos_pos_embed
from mixedae.models.encoder import init_vit_weights


class Decoder(nn.Module):
    """Linear to its own width, fixed sin-cos positions, global blocks, linear to P·P·C pixels.

    Args:
        encoder_dim: D of the encoder's tokens.
        grid: ``(h, w)`` in patches.
        patch_dim: P·P·C, values of a patch.
        embed_dim: width.
        depth: number of blocks.
        num_heads: heads of a block.
        mlp_ratio: hidden width of the MLPs over the width.
        use_cls: whether a [CLS] token leads each sequence.
        norm_eps: epsilon of the LayerNorms.
    """

    def __init__(
        self,
        encoder_dim: int,
        grid: tuple[int, int],
        patch_dim: int,
        embed_dim: int = 512,
        depth: int = 8,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        use_cls: bool = True,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(
                f'The decoder needs a block at least (masked patches learn of the others there), not {depth}.'
            )
        self.use_cls = use_cls
        self.embed = nn.Linear(encoder_dim, embed_dim)
        self.mask_token = nn.Parameter(torch.zeros(embed_dim))
        self.register_buffer('pos_embed', sincos_pos_embed(embed_dim, grid, num_prefix_tokens=1), persistent=False)
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, mlp_ratio, norm_eps=norm_eps, attention=dict(num_prefix_tokens=int(use_cls)))
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim, eps=norm_eps)
        self.pred = nn.Linear(embed_dim, patch_dim)
        init_vit_weights(self)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, patches: Tensor, cls_token: Tensor | None = None, wanted: Tensor | None = None) -> Tensor:
        """Predicts patches.

        Every token is a key for all others up to the last block. From there on only the wanted ones are computed.

        Args:
            patches: ``(B, L, width)``, embedded by :attr:`embed`, [MASK] where nothing is known.
            cls_token: ``(B, 1, width)``, embedded; left out if ``use_cls`` is off.
            wanted: ``(B, U)`` int64, the patches to predict; None: all.

        Returns:
            ``(B, U, P*P*C)``, or ``(B, L, P*P*C)`` of all.
        """
        x = patches + self.pos_embed[:, 1:]
        if self.use_cls:
            x = torch.cat([cls_token + self.pos_embed[:, :1], x], dim=1)
        for block in self.blocks[:-1]:
            x = block(x)
        if wanted is not None:
            return self.pred(self.norm(self.blocks[-1](x, wanted=wanted + int(self.use_cls))))
        x = self.norm(self.blocks[-1](x))
        return self.pred(x[:, 1:] if self.use_cls else x)
