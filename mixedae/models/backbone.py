"""``mixedae.MixedAEViT``: the pre-trained encoder as a plain ViT backbone for mmdet, mmseg and MMEngine models."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.model.weight_init import PretrainedInit
from timm.layers import PatchEmbed
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mixedae.checkpoints import load_pretrained
from mixedae.layers import (
    Block,
    SharedBiasTable,
    SpatialAttention,
    at_least_float32,
    padded_patches,
    real_grids,
    resample_pos_embed,
    sincos_pos_embed,
)
from mixedae.models.archs import get_arch
from mixedae.models.encoder import init_vit_weights
from mixedae.registry import MODELS

# resampled position tables kept at inference; at 50 x 84 patches of width 768 one takes 13 MB
POS_EMBED_CACHE = 8
REL_POS = (None, 'table', 'shared', 'decomposed')


@MODELS.register_module()
class MixedAEViT(BaseModule):
    """Plain ViT at any image size: images ``(B, 3, H, W)`` to a tuple of maps ``(B, D, ceil(H/P), ceil(W/P))``.

    H and W need not be multiples of P: the bottom and the right are padded with zeros (the mean colour after
    normalisation), and a partly padded patch is a token like any other. Segmentors stretch the logits of the padded map
    over the image: choose crops that are multiples of P, and ``data_preprocessor=dict(test_cfg=dict(size_divisor=P))``.

    Parameters carry timm's names (relative positions BEiT's and ViTDet's), so weights of timm, MAE and our own
    pre-training load by name (:func:`mixedae.checkpoints.load_backbone`). Segment embedding, decoder and projector of
    pre-training stay behind.

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
        with_cls_token: False drops [CLS], as ViTDet does.
        abs_pos_embed: False leaves the absolute positions out (BEiT has relative ones only).
        fix_pos_embed: keep the position table as it is, as in pre-training; otherwise it is fine-tuned.
        pos_embed_antialias: resample the position table with antialiasing, as timm; False: without, as ViTDet.
        rel_pos: ``'table'``: BEiT's relative position bias in every block; ``'shared'``: one table for all blocks (not
            with windows); ``'decomposed'``: ViTDet's; None: none. All start at zero, that is, without effect. A table
            costs a mask ``(H, N, N)`` in each block: at 800 x 1333 with 12 heads 0.4 GB in half precision, so detection
            wants ``'decomposed'``, which costs none, or windows.
        rel_pos_size: size in pixels that relative positions of blocks without windows are kept at, ``img_size`` if
            None. Other sizes resample them in each forward; those of windows fit any size.
        window_size: side of the attention windows in patches, None: global attention in every block.
        global_blocks: blocks that stay global beside windows; None: the last of each quarter, as in ViTDet.
        window_padding: ``'mask'`` or ``'zeros'``, see :class:`mixedae.layers.SpatialAttention`.
        mask_padding: in a batch of images of different sizes, nothing attends to patches that are padding, and each
            image has the positions of its own size: its maps do not depend on what it is batched with. Exceptions:
            relative positions of blocks without windows, which are resampled to the common grid, and an image whose
            last rows or columns are zeros themselves. Not with ``window_padding='zeros'``. Needs images padded with
            zeros after normalisation at the bottom and the right, as mm does.
        topk_ratio: K / L for TopK attention as in pre-training (first block global); None: no selection.
        cls: how [CLS] takes part in TopK attention, ``'keep'`` or ``'compete'``.
        frozen_stages: -1 trains all; 0 freezes patch embedding, [CLS] and positions; n also the first n blocks, all of
            them also the final LayerNorm and a shared table of relative positions.
        with_cp: activation checkpointing: less memory, a second forward in backward.
        init_cfg: MMEngine's; ``dict(type='Pretrained', checkpoint=FILE)`` goes through our safe loader.
    """

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
        with_cls_token: bool = True,
        abs_pos_embed: bool = True,
        fix_pos_embed: bool = False,
        pos_embed_antialias: bool = True,
        rel_pos: str | None = None,
        rel_pos_size: int | tuple[int, int] | None = None,
        window_size: int | None = None,
        global_blocks: Sequence[int] | None = None,
        window_padding: str = 'mask',
        mask_padding: bool = False,
        topk_ratio: float | None = None,
        cls: str = 'keep',
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        dim, depth, num_heads = get_arch(arch)
        self.embed_dim = dim
        self.patch_size = patch_size
        self.num_prefix_tokens = int(with_cls_token)
        img_size, self.grid = _grid_of(img_size, patch_size, 'img_size')
        _, self.rel_pos_grid = _grid_of(rel_pos_size or img_size, patch_size, 'rel_pos_size')
        self.out_indices = _block_numbers(out_indices, depth, 'out_indices')
        if not self.out_indices:
            raise ValueError(f'out_indices must name blocks of 0..{depth - 1}, at least one.')
        if out_norm not in ('final', 'none', 'each'):
            raise ValueError(f"out_norm must be 'final', 'none' or 'each', not '{out_norm}'.")
        if rel_pos not in REL_POS:
            raise ValueError(f"rel_pos must be 'table', 'shared', 'decomposed' or None, not '{rel_pos}'.")
        if rel_pos == 'shared' and window_size:
            raise ValueError("One table cannot serve windows and global blocks: with window_size use rel_pos='table'.")
        if topk_ratio is not None and (rel_pos or window_size or mask_padding):
            raise ValueError('topk_ratio goes with neither rel_pos nor window_size nor mask_padding.')
        if global_blocks is None:  # ViTDet: four subsets of blocks, the last one of each is global
            global_blocks = sorted({-(-depth * quarter // 4) - 1 for quarter in (1, 2, 3, 4)})
        self.global_blocks = _block_numbers(global_blocks, depth, 'global_blocks')
        if not -1 <= frozen_stages <= depth:
            raise ValueError(f'frozen_stages must lie in -1..{depth}, the number of blocks, not {frozen_stages}.')
        if mask_padding and window_size and window_padding == 'zeros':
            raise ValueError(
                "mask_padding goes with window_padding='mask' alone: zeros that fill windows are attended to, and how "
                'many there are depends on the largest image of the batch.'
            )
        self.mask_padding = mask_padding
        self.pos_embed_antialias = pos_embed_antialias
        self.with_cp = with_cp
        self.frozen_stages = frozen_stages

        self.patch_embed = PatchEmbed(
            img_size, patch_size, in_channels, dim, strict_img_size=False, dynamic_img_pad=True
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)) if with_cls_token else None
        self.pos_embed = None
        if abs_pos_embed:
            table = sincos_pos_embed(dim, self.grid, num_prefix_tokens=self.num_prefix_tokens)
            self.pos_embed = nn.Parameter(table, requires_grad=not fix_pos_embed)
        drop_path = torch.linspace(0, drop_path_rate, depth, device='cpu').tolist()
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
                attention_class=SpatialAttention,
                attention=dict(
                    num_prefix_tokens=self.num_prefix_tokens,
                    window_size=None if i in self.global_blocks else window_size,
                    window_padding=window_padding,
                    rel_pos=rel_pos if rel_pos != 'shared' else None,
                    rel_pos_grid=self.rel_pos_grid,
                    topk_ratio=topk_ratio if i > 0 else None,
                    cls=cls,
                ),
            )
            for i in range(num_blocks)
        )
        self.rel_pos_bias = (
            SharedBiasTable(self.rel_pos_grid, num_heads, self.num_prefix_tokens) if rel_pos == 'shared' else None
        )
        # a LayerNorm is built only where it is used: distributed training stops at parameters without a gradient
        self.norm = nn.LayerNorm(dim, eps=norm_eps) if out_norm == 'final' and num_blocks == depth else None
        self.out_norms = (
            nn.ModuleList(nn.LayerNorm(dim, eps=norm_eps) for _ in self.out_indices) if out_norm == 'each' else None
        )
        init_vit_weights(self)
        if self.cls_token is not None:
            nn.init.normal_(self.cls_token, std=0.02)
        self._pos_embed_cache: OrderedDict[tuple, Tensor] = OrderedDict()
        self._freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps of the blocks in ``out_indices``, each ``(B, D, h, w)`` at stride P."""
        batch, _, height, width = x.shape
        grid = (-(-height // self.patch_size), -(-width // self.patch_size))
        own_grids = real_grids(x, self.patch_size) if self.mask_padding else [grid]
        x = self.patch_embed(x)  # (B, h*w, D)
        if self.pos_embed is None:  # else the sum with the positions is float32; under autocast this would stay half
            x = at_least_float32(x)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(batch, -1, -1).to(x.dtype), x], dim=1)
        padded = None
        if any(own != grid for own in own_grids):
            padded = padded_patches(own_grids, grid, x.device)
            x = x + self._own_positions(own_grids, grid) if self.pos_embed is not None else x
        elif self.pos_embed is not None:
            x = x + self.pos_embed_at(grid)
        context = (grid, padded, self.rel_pos_bias(grid) if self.rel_pos_bias is not None else None)
        maps = []
        for i, block in enumerate(self.blocks):
            if self.with_cp and self.training and torch.is_grad_enabled():
                x = checkpoint(block, x, *context, use_reentrant=False)
            else:
                x = block(x, *context)
            if i in self.out_indices:
                maps.append(self._to_map(x, len(maps), grid))
        return tuple(maps)

    def _own_positions(self, own_grids: list[tuple[int, int]], grid: tuple[int, int]) -> Tensor:
        """``(B, prefix + h*w, D)``: each image's table at its own size in the corner of the common grid, then zeros."""
        tables = {}
        for own in set(own_grids):
            prefix, patches = self.pos_embed_at(own).tensor_split([self.num_prefix_tokens], dim=1)
            patches = patches.unflatten(1, own)
            patches = F.pad(patches, (0, 0, 0, grid[1] - own[1], 0, grid[0] - own[0]))
            tables[own] = torch.cat([prefix, patches.flatten(1, 2)], dim=1)
        return torch.cat([tables[own] for own in own_grids])

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
            return self._resampled(grid)
        # the version counts in-place changes of the parameter, so a table of older weights is never used
        key = (grid, self.pos_embed._version, self.pos_embed.data_ptr(), self.pos_embed.dtype)
        if key not in self._pos_embed_cache:
            self._pos_embed_cache[key] = self._resampled(grid)
            if len(self._pos_embed_cache) > POS_EMBED_CACHE:
                self._pos_embed_cache.popitem(last=False)
        self._pos_embed_cache.move_to_end(key)
        return self._pos_embed_cache[key]

    def _resampled(self, grid: tuple[int, int]) -> Tensor:
        """The position table ``(1, 1 + h*w, D)`` resampled to a grid."""
        return resample_pos_embed(self.pos_embed, self.grid, grid, self.num_prefix_tokens, self.pos_embed_antialias)

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
        for table in (self.cls_token, self.pos_embed):
            if table is not None:
                table.requires_grad_(False)
        self.patch_embed.requires_grad_(False)
        for block in self.blocks[: self.frozen_stages]:
            block.requires_grad_(False)
        if self.frozen_stages >= len(self.blocks):
            for module in (self.norm, self.rel_pos_bias):
                if module is not None:
                    module.requires_grad_(False)

    def init_weights(self) -> None:
        """MMEngine's initialisation; ``type='Pretrained'`` goes through :func:`mixedae.checkpoints.load_pretrained`."""
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
            load_pretrained(self, **{key: value for key, value in entry.items() if key not in ('type', 'map_location')})

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Depth of a parameter, for layer-wise learning rates; the convention of mmpretrain.

        Args:
            param_name: full name, e.g. ``'backbone.blocks.3.attn.qkv.weight'``.
            prefix: name of this module with a dot, e.g. ``'backbone.'``.

        Returns:
            ``(depth, num_depths)``: patch embedding, [CLS] and positions 0, block i at i + 1, all that follows (also
            parameters of other modules) ``num_depths - 1``; ``num_depths`` = blocks + 2. A shared table of relative
            positions is new and works in every block: last, as in BEiT.
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


def _grid_of(size: int | tuple[int, int], patch_size: int, name: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """``(height, width)`` in pixels and in patches."""
    size = (size, size) if isinstance(size, int) else tuple(size)
    if len(size) != 2 or patch_size < 1 or any(side < 1 for side in size):
        raise ValueError(f'{name} must be pixels or (height, width) above 0, patch_size above 0: {size}, {patch_size}.')
    if any(side % patch_size for side in size):
        raise ValueError(f'{name} {size} is not a multiple of the patch size {patch_size}.')
    return size, (size[0] // patch_size, size[1] // patch_size)


def _block_numbers(numbers: int | Sequence[int], depth: int, name: str) -> tuple[int, ...]:
    """Numbers of blocks, negative ones counted from the end; a single one may stand alone."""
    numbers = (numbers,) if isinstance(numbers, int) else numbers
    if any(not -depth <= i < depth for i in numbers):
        raise ValueError(f'{name} {tuple(numbers)} must name blocks of 0..{depth - 1}, at least one.')
    found = tuple(i % depth for i in numbers)
    if list(found) != sorted(set(found)):
        raise ValueError(f'{name} {tuple(numbers)} must rise and name each block once.')
    return found
