"""Patch features of a pre-trained ViT at any image size: our own checkpoints, or any plain ViT of timm."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import timm
import torch
from torch import Tensor, nn

from mixedae.checkpoints import CheckpointError, Weights, load_backbone, open_weights
from mixedae.checkpoints.loading import convert
from mixedae.models import MixedAEViT
from mixedae.models.archs import ARCHS

KINDS = ('keys', 'queries', 'values', 'tokens')
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of ImageNet, as our pre-training normalises


class PatchFeatures(nn.Module):
    """Images to patch features.

    Args:
        model: has ``blocks`` whose ``attn.qkv`` is one linear layer, and takes normalised images of any size that is a
            multiple of its patch size.
        patch_size: P.
        num_prefix_tokens: tokens before the patches.
        kind: ``'keys'``, ``'queries'``, ``'values'`` of a block's attention (all heads side by side), or ``'tokens'``:
            the block's output, after the model's final norm if it is the last block.
        block: which block, negative ones count from the end.
        mean, std: of the pixels, in 0..255.
    """

    def __init__(
        self,
        model: nn.Module,
        patch_size: int,
        num_prefix_tokens: int,
        kind: str = 'keys',
        block: int = -1,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f'Features are {", ".join(KINDS)}, not {kind!r}.')
        depth = len(model.blocks)
        if not -depth <= block < depth:
            raise ValueError(f'Block {block} does not exist: the model has {depth} blocks, 0..{depth - 1}.')
        self.block = block % depth
        self.last = self.block == depth - 1
        # what comes after the block is not needed
        model.blocks = nn.Sequential(*model.blocks[: self.block + 1])
        if hasattr(model, 'out_indices'):
            model.out_indices = (self.block,)
        watched = model.blocks[self.block]
        if kind != 'tokens':
            watched = getattr(getattr(watched, 'attn', None), 'qkv', None)
            if watched is None:
                raise ValueError(
                    f'{type(model).__name__} has no joint q, k, v projection: take --features tokens with this model.'
                )
        watched.register_forward_hook(self._keep)
        self.model = model
        self.kind = kind
        self.patch_size = patch_size
        self.num_prefix_tokens = num_prefix_tokens
        self.register_buffer('mean', torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer('std', torch.tensor(std).view(1, 3, 1, 1))
        self._kept: Tensor | None = None
        self.eval()

    def _keep(self, module: nn.Module, inputs: tuple, output: Tensor) -> None:
        self._kept = output

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 RGB, H and W multiples of P, to (B, H/P * W/P, C) float32."""
        height, width = pixels.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(f'Images of {height} x {width} pixels are not whole patches of {self.patch_size}.')
        images = (pixels.to(self.mean.device).float() - self.mean) / self.std
        forward = getattr(self.model, 'forward_features', self.model)
        forward(images)
        kept, self._kept = self._kept, None
        if self.kind != 'tokens':
            part = ('queries', 'keys', 'values').index(self.kind)
            kept = kept.chunk(3, dim=-1)[part]
        elif self.last and getattr(self.model, 'norm', None) is not None:
            kept = self.model.norm(kept)
        return kept[:, self.num_prefix_tokens :].float()


def load_features(
    checkpoint: str | os.PathLike[str],
    *,
    timm_name: str | None = None,
    kind: str = 'keys',
    block: int = -1,
    num_heads: int | None = None,
    topk_ratio: float | None = None,
) -> PatchFeatures:
    """Patch features of a checkpoint; the file is read without running code from it.

    Args:
        checkpoint: weights of our pre-training, of an mm model with our backbone, of MAE; or of the timm model.
        timm_name: name of a timm ViT that the weights are of; None for a plain ViT, whose sizes the weights tell.
        kind, block: see :class:`PatchFeatures`.
        num_heads: of a plain ViT that is none of our named sizes (the weights do not tell it).
        topk_ratio: K / L of TopK attention as in pre-training (first block global); None for global attention.

    Raises:
        FileNotFoundError, CheckpointError, ValueError: no such file; it does not fit; a wrong option.
    """
    opened = open_weights(checkpoint)
    if timm_name is not None:
        if topk_ratio is not None:
            raise ValueError('TopK attention is of our own backbone: leave it out with a timm model.')
        model = _timm_model(timm_name, opened.state_dict, opened.source)
        settings = model.pretrained_cfg
        patch_size = model.patch_embed.patch_size[0]
        mean = [255 * c for c in settings.get('mean', (0.485, 0.456, 0.406))]
        std = [255 * c for c in settings.get('std', (0.229, 0.224, 0.225))]
        return PatchFeatures(model, patch_size, model.num_prefix_tokens, kind, block, mean, std)
    model = _plain_model(opened, num_heads, topk_ratio)
    mean, std = opened.facts.mean or MEAN, opened.facts.std or STD
    return PatchFeatures(model, model.patch_size, model.num_prefix_tokens, kind, block, mean, std)


def _plain_model(opened: Weights, num_heads: int | None, topk_ratio: float | None) -> MixedAEViT:
    """A ``MixedAEViT`` of the sizes that the weights have, loaded."""
    weights = convert(opened.state_dict, opened.source)[0].weights
    if 'patch_embed.proj.weight' not in weights or 'pos_embed' not in weights:
        raise CheckpointError(
            f'{opened.source} lacks the patch embedding or the positions of a plain vision transformer: give a '
            'checkpoint of pre-training, of MAE, or --timm NAME with the weights of that model.'
        )
    dim, _, patch_size, _ = weights['patch_embed.proj.weight'].shape
    depth = 1 + max(int(name.split('.')[1]) for name in weights if name.startswith('blocks.'))
    num_heads = num_heads or opened.facts.num_heads
    if num_heads is None:
        known = [arch.num_heads for arch in ARCHS.values() if (arch.embed_dim, arch.depth) == (dim, depth)]
        if not known:
            raise CheckpointError(
                f'{opened.source} is a ViT of width {dim} with {depth} blocks, none of our named sizes: '
                'give its number of heads (--num-heads).'
            )
        num_heads = known[0]
    side = math.isqrt(weights['pos_embed'].shape[1])  # with or without [CLS]: 1 + n^2 and n^2 have the same root
    grid = opened.facts.grid or (side, side)
    model = MixedAEViT(
        arch=dict(embed_dim=dim, depth=depth, num_heads=num_heads),
        img_size=(grid[0] * patch_size, grid[1] * patch_size),
        patch_size=patch_size,
        out_indices=(depth - 1,),
        topk_ratio=topk_ratio,
        norm_eps=opened.facts.norm_eps or 1e-6,
    )
    load_backbone(model, opened.state_dict, source=opened.source, facts=opened.facts, log=False)
    return model


def _timm_model(name: str, weights: dict[str, Tensor], source: str | os.PathLike[str]) -> nn.Module:
    try:
        model = timm.create_model(name, pretrained=False, num_classes=0, dynamic_img_size=True)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f'timm has no ViT {name!r} that takes any image size ({error}).') from None
    if not hasattr(model, 'blocks') or not hasattr(model, 'patch_embed'):
        raise ValueError(f'{name} of timm is no plain vision transformer.')
    own = model.state_dict()
    if any(key not in weights or weights[key].shape != value.shape for key, value in own.items()):
        from timm.models.vision_transformer import checkpoint_filter_fn

        weights = checkpoint_filter_fn(weights, model)
    missing = [key for key in own if key not in weights]
    other = [key for key in own if key in weights and weights[key].shape != own[key].shape]
    if missing or other:
        raise CheckpointError(
            f'{source} does not fit {name} of timm: {len(missing)} weights are missing and {len(other)} of another '
            f'shape (first: {(missing + other)[0]}).'
        )
    model.load_state_dict({key: weights[key] for key in own})
    return model
