"""``mixedae.MixedAEViT``: the pre-trained encoder as a plain ViT backbone for mmdet, mmseg and MMEngine models."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from mmengine.model.weight_init import PretrainedInit
from timm.layers import PatchEmbed
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mixedae.checkpoints import load_backbone, read_checkpoint
from mixedae.layers import Block, resample_pos_embed, sincos_pos_embed
from mixedae.models.archs import get_arch
from mixedae.models.encoder import init_vit_weights
from mixedae.registry import MODELS

# resampled position tables kept at inference; at 50 x 84 patches of width 768 one takes 13 MB
POS_EMBED_CACHE = 8


@MODELS.register_module()
class MixedAEViT(BaseModule):
    """Plain ViT at any image size: images ``(B, 3, H, W)`` to a tuple of maps ``(B, D, ceil(H/P), ceil(W/P))``.

    H and W need not be multiples of P: the bottom and the right are padded with zeros (the mean colour after
    normalisation), and padded patches are tokens like any other. Segmentors should choose crops that are multiples of
    P, since they stretch the logits of the padded map over the image.

    Parameters carry timm's names, so weights of timm, MAE and our own pre-training load by name
    (:func:`mixedae.checkpoints.load_backbone`). Segment embedding, decoder and projector of pre-training stay behind.

    Args:
        arch: ``'tiny'``, ``'small'``, ``'base'``, ``'large'``, ``'huge'``, or a dict of embed_dim, depth, num_heads.
        img_size: size in pixels the position table is kept at, an int or ``(height, width)``; other sizes resample it.
        patch_size: P.
        in_channels: channels of an image.
        out_indices: blocks whose output is returned, negative ones count from the end. Blocks after the last of them
            are not built.
        mlp_ratio: hidden width of the MLPs over D.
        qkv_bias: bias on the q, k, v projections.
        drop_path_rate: stochastic depth of the last block, rising linearly from 0 at the first.
        init_values: initial layer scale, None for none (BEiT/MAE recipes for UPerNet: 1.0).
        norm_eps: epsilon of the LayerNorms.
        out_norm: ``'final'``: the last block's output, where it is returned, goes through the encoder's own final
            LayerNorm, as all uses of it in pre-training do; earlier blocks are returned raw.
            ``'none'``: all raw, as BEiT, MAE and ViTDet take them.
            ``'each'``: every output through a new LayerNorm of its own (``out_norms.i``).
        frozen_stages: -1 trains all; 0 freezes patch embedding, [CLS] and positions; n also the first n blocks.
        fix_pos_embed: keep the position table as it is, as in pre-training; otherwise it is fine-tuned.
        with_cp: activation checkpointing: less memory, a second forward in backward.
        topk_ratio: K / L for TopK attention as in pre-training (first block global); None: global attention everywhere.
        cls: how [CLS] takes part in TopK attention, ``'keep'`` or ``'compete'``.
        init_cfg: MMEngine's; ``dict(type='Pretrained', checkpoint=FILE)`` goes through our safe loader.
    """

    num_prefix_tokens = 1  # [CLS]

    def __init__(
        self,
        arch: str | dict = 'base',
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_channels: int = 3,
        out_indices: Sequence[int] = (3, 5, 7, 11),
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path_rate: float = 0.0,
        init_values: float | None = None,
        norm_eps: float = 1e-6,
        out_norm: str = 'final',
        frozen_stages: int = -1,
        fix_pos_embed: bool = False,
        with_cp: bool = False,
        topk_ratio: float | None = None,
        cls: str = 'keep',
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        dim, depth, num_heads = get_arch(arch)
        img_size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        if any(side % patch_size for side in img_size):
            raise ValueError(f'img_size {img_size} is not a multiple of the patch size {patch_size}.')
        outside = [i for i in out_indices if not -depth <= i < depth]
        if outside or not out_indices:
            raise ValueError(f'out_indices {tuple(out_indices)} must name blocks of 0..{depth - 1}, at least one.')
        if out_norm not in ('final', 'none', 'each'):
            raise ValueError(f"out_norm must be 'final', 'none' or 'each', not '{out_norm}'.")
        self.embed_dim = dim
        self.patch_size = patch_size
        self.grid = (img_size[0] // patch_size, img_size[1] // patch_size)
        self.out_indices = tuple(i % depth for i in out_indices)
        if list(self.out_indices) != sorted(set(self.out_indices)):
            raise ValueError(f'out_indices {tuple(out_indices)} must rise and name each block once.')
        self.with_cp = with_cp
        self.frozen_stages = frozen_stages

        self.patch_embed = PatchEmbed(
            img_size, patch_size, in_channels, dim, strict_img_size=False, dynamic_img_pad=True
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(
            sincos_pos_embed(dim, self.grid, num_prefix_tokens=self.num_prefix_tokens), requires_grad=not fix_pos_embed
        )
        drop_path = torch.linspace(0, drop_path_rate, depth).tolist()
        num_blocks = self.out_indices[-1] + 1
        self.blocks = nn.ModuleList(
            Block(
                dim,
                num_heads,
                mlp_ratio,
                qkv_bias,
                drop_path=drop_path[i],
                init_values=init_values,
                norm_eps=norm_eps,
                attention=dict(topk_ratio=topk_ratio if i > 0 else None, cls=cls),
            )
            for i in range(num_blocks)
        )
        # a LayerNorm is built only where it is used: distributed training stops at parameters without a gradient
        self.norm = nn.LayerNorm(dim, eps=norm_eps) if out_norm == 'final' and num_blocks == depth else None
        self.out_norms = (
            nn.ModuleList(nn.LayerNorm(dim, eps=norm_eps) for _ in self.out_indices) if out_norm == 'each' else None
        )
        init_vit_weights(self)
        nn.init.normal_(self.cls_token, std=0.02)
        self._pos_embed_cache: OrderedDict[tuple, Tensor] = OrderedDict()
        self._freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps of the blocks in ``out_indices``, each ``(B, D, h, w)`` at stride P."""
        batch, _, height, width = x.shape
        grid = (-(-height // self.patch_size), -(-width // self.patch_size))
        x = self.patch_embed(x)  # (B, h*w, D)
        x = torch.cat([self.cls_token.expand(batch, -1, -1).to(x.dtype), x], dim=1)
        x = x + self.pos_embed_at(grid)
        maps = []
        for i, block in enumerate(self.blocks):
            if self.with_cp and self.training and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
            if i in self.out_indices:
                maps.append(self._to_map(x, len(maps), grid))
        return tuple(maps)

    def _to_map(self, x: Tensor, place: int, grid: tuple[int, int]) -> Tensor:
        """``(B, 1 + h*w, D)`` to ``(B, D, h, w)``, normalised as ``out_norm`` says."""
        if self.out_norms is not None:
            x = self.out_norms[place](x)
        elif self.norm is not None and place == len(self.out_indices) - 1:
            x = self.norm(x)
        patches = x[:, self.num_prefix_tokens :]
        return patches.transpose(1, 2).reshape(len(x), self.embed_dim, *grid).contiguous()

    def pos_embed_at(self, grid: tuple[int, int]) -> Tensor:
        """The position table ``(1, 1 + h*w, D)`` for a grid; at inference resampled once for each grid."""
        if grid == self.grid:
            return self.pos_embed
        if self.training or torch.is_grad_enabled():
            return resample_pos_embed(self.pos_embed, self.grid, grid, self.num_prefix_tokens)
        # the version counts in-place changes of the parameter, so a table of older weights is never used
        key = (grid, self.pos_embed._version, self.pos_embed.data_ptr(), self.pos_embed.dtype)
        if key not in self._pos_embed_cache:
            self._pos_embed_cache[key] = resample_pos_embed(self.pos_embed, self.grid, grid, self.num_prefix_tokens)
            if len(self._pos_embed_cache) > POS_EMBED_CACHE:
                self._pos_embed_cache.popitem(last=False)
        self._pos_embed_cache.move_to_end(key)
        return self._pos_embed_cache[key]

    def forget_pos_embed(self) -> None:
        """Drops the resampled tables; called wherever weights may have changed behind the version counter."""
        self._pos_embed_cache.clear()

    def train(self, mode: bool = True) -> MixedAEViT:
        """Frozen blocks stay in evaluation mode (no stochastic depth)."""
        super().train(mode)
        self.forget_pos_embed()  # MMEngine's EMA hook swaps weights through .data, then calls this
        if mode:
            for block in self.blocks[: max(self.frozen_stages, 0)]:
                block.eval()
        return self

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        self.cls_token.requires_grad_(False)
        self.pos_embed.requires_grad_(False)
        self.patch_embed.requires_grad_(False)
        for block in self.blocks[: self.frozen_stages]:
            block.requires_grad_(False)
        if self.norm is not None and self.frozen_stages >= len(self.blocks):
            self.norm.requires_grad_(False)

    def init_weights(self) -> None:
        """MMEngine's initialisation; ``type='Pretrained'`` goes through :func:`mixedae.checkpoints.load_backbone`."""
        if self.is_init:
            return
        init_cfg = self.init_cfg
        entries = [init_cfg] if isinstance(init_cfg, dict) else list(init_cfg or [])
        pretrained = [entry for entry in entries if entry['type'] in ('Pretrained', PretrainedInit)]
        self.init_cfg = [entry for entry in entries if entry not in pretrained] or None
        try:
            super().init_weights()
        finally:
            self.init_cfg = init_cfg
        for entry in pretrained:
            state_dict = read_checkpoint(entry['checkpoint'])
            prefix = entry.get('prefix') or ''
            if prefix:  # MMEngine's option; not needed here, the format is recognised
                prefix = prefix.rstrip('.') + '.'
                state_dict = {k[len(prefix) :]: v for k, v in state_dict.items() if k.startswith(prefix)}
            load_backbone(self, state_dict, source=str(entry['checkpoint']))

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Depth of a parameter, for layer-wise learning rates; the convention of mmpretrain.

        Args:
            param_name: full name, e.g. ``'backbone.blocks.3.attn.qkv.weight'``.
            prefix: name of this module with a dot, e.g. ``'backbone.'``.

        Returns:
            ``(depth, num_depths)``: patch embedding, [CLS] and positions 0, block i at i + 1, all that follows (also
            parameters of other modules) ``num_depths - 1``; ``num_depths`` = blocks + 2.
        """
        num_depths = len(self.blocks) + 2
        if not param_name.startswith(prefix):
            return num_depths - 1, num_depths
        name = param_name[len(prefix) :]
        if name.startswith(('patch_embed.', 'cls_token', 'pos_embed')):
            return 0, num_depths
        if name.startswith('blocks.'):
            return int(name.split('.')[1]) + 1, num_depths
        return num_depths - 1, num_depths
