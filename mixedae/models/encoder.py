"""The pre-training encoder: a plain ViT over raw patches, global or homologous."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mixedae.layers import Block, sincos_pos_embed
from mixedae.models.archs import get_arch

Probe = Callable[[int, Block, Tensor], None]


class Encoder(nn.Module):
    """A standard ViT with [CLS] and fixed sin-cos positions that takes *patches*, so mixing happens before embedding.

    The patch embedding is linear for each patch: mixing raw patches and embedding once equals embedding every image
    and mixing then, for a g-th of the work.

    Args:
        arch: name in :data:`mixedae.models.archs.ARCHS` or a dict of sizes.
        img_size: pixels, an int or ``(height, width)``.
        patch_size: P.
        in_channels: channels of an image.
        mlp_ratio: hidden width of the MLPs over D.
        qkv_bias: bias on the q, k, v projections.
        topk_ratio: K / L of the homologous blocks; None makes all blocks global.
        global_layers: numbers of the blocks that stay global whatever ``topk_ratio`` says; negative ones count from
            the end.
        cls: how [CLS] takes part in the selection, ``'keep'`` or ``'compete'``.
        num_segments: g, how many segment embeddings; 0 leaves them out.
        norm_eps: epsilon of the LayerNorms.
        with_cp: activation checkpointing: less memory, a second forward in backward.
        backend: of :func:`mixedae.functional.topk_attention`.
    """

    def __init__(
        self,
        arch: str | dict = 'base',
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_channels: int = 3,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        topk_ratio: float | None = None,
        global_layers: Sequence[int] = (0,),
        cls: str = 'keep',
        num_segments: int = 0,
        norm_eps: float = 1e-6,
        with_cp: bool = False,
        backend: str = 'auto',
    ) -> None:
        super().__init__()
        dim, depth, num_heads = get_arch(arch)
        self.embed_dim = dim
        self.patch_size = patch_size
        self.img_size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        if any(side % patch_size for side in self.img_size):
            raise ValueError(f'img_size {self.img_size} is not a multiple of the patch size {patch_size}.')
        self.grid = (self.img_size[0] // patch_size, self.img_size[1] // patch_size)
        self.num_patches = self.grid[0] * self.grid[1]
        self.in_channels = in_channels
        self.with_cp = with_cp

        self.patch_embed = PatchEmbed(self.img_size, patch_size, in_channels, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.register_buffer('pos_embed', sincos_pos_embed(dim, self.grid, num_prefix_tokens=1))
        self.segment_embed = nn.Parameter(torch.zeros(num_segments, dim)) if num_segments else None
        outside = [i for i in global_layers if not -depth <= i < depth]
        if outside:
            raise ValueError(f'global_layers names block {outside[0]}, but there are {depth} blocks.')
        global_layers = {i % depth for i in global_layers}
        self.blocks = nn.ModuleList(
            Block(
                dim,
                num_heads,
                mlp_ratio,
                qkv_bias,
                norm_eps=norm_eps,
                attention=dict(topk_ratio=None if i in global_layers else topk_ratio, cls=cls, backend=backend),
            )
            for i in range(depth)
        )
        self.norm = nn.LayerNorm(dim, eps=norm_eps)
        init_vit_weights(self)
        nn.init.normal_(self.cls_token, std=0.02)
        if self.segment_embed is not None:
            nn.init.normal_(self.segment_embed, std=0.02)

    def embed(self, patches: Tensor) -> Tensor:
        """Raw patches ``(..., L', P*P*C)``, see :func:`patchify`, to tokens ``(..., L', D)`` without positions."""
        weight = self.patch_embed.proj.weight.permute(0, 2, 3, 1).flatten(1)  # (D, P*P*C)
        return F.linear(patches, weight, self.patch_embed.proj.bias)

    def segments(self) -> Tensor:
        """Segment embeddings ``(g, D)`` with zero mean over the group, so dropping them later shifts nothing."""
        return self.segment_embed - self.segment_embed.mean(0)

    def forward(self, tokens: Tensor, probe: Probe | None = None) -> Tensor:
        """Runs the blocks.

        Args:
            tokens: patch tokens ``(B, L', D)`` with their positions added.
            probe: called with (number, block, input) before each block; meters look at q and k through it.

        Returns:
            ``(B, 1 + L', D)``, [CLS] first, *before* the final LayerNorm :attr:`norm`.
        """
        cls_token = self.cls_token + self.pos_embed[:, :1]
        x = torch.cat([cls_token.expand(len(tokens), -1, -1).to(tokens.dtype), tokens], dim=1)
        for i, block in enumerate(self.blocks):
            if probe is not None:
                probe(i, block, x)
            x = checkpoint(block, x, use_reentrant=False) if self.with_cp and self.training else block(x)
        return x


def init_vit_weights(module: nn.Module) -> None:
    """MAE's initialisation: Xavier-uniform linear maps (the patch embedding as a matrix), zero biases."""
    for child in module.modules():
        if isinstance(child, nn.Linear):
            nn.init.xavier_uniform_(child.weight)
            if child.bias is not None:
                nn.init.zeros_(child.bias)
        elif isinstance(child, PatchEmbed):
            nn.init.xavier_uniform_(child.proj.weight.view(child.proj.weight.shape[0], -1))
            nn.init.zeros_(child.proj.bias)
