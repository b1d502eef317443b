"""Taking the encoder out of a checkpoint of any known format, with all its sizes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mixedae.checkpoints.decoders import decoder_of
from mixedae.checkpoints.fitting import Grid, check_source_grid, table_grid
from mixedae.checkpoints.formats import StateDict
from mixedae.checkpoints.formats.base import BIAS_TABLE, block_numbers
from mixedae.checkpoints.loading import choice_notes, convert
from mixedae.checkpoints.reading import CheckpointError
from mixedae.checkpoints.report import summary
from mixedae.checkpoints.selecting import Weights

HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
"""Heads by width, of ViT-Ti to ViT-H; the weights themselves do not tell."""


@dataclass(frozen=True)
class EncoderWeights:
    """A plain ViT encoder: weights under the backbone's names, float32, and all sizes.

    Attributes:
        weights: by name.
        embed_dim: D.
        depth: number of blocks.
        num_heads: H, None if neither the file nor the width tells.
        hidden_dim: width inside the MLPs.
        patch_size: ``(height, width)`` of a patch in pixels.
        in_channels: channels of an image.
        grid: ``(h, w)`` of the position table, in patches.
        norm_eps: epsilon of the LayerNorms.
        decoder: weights of MAE's decoder under the names of our pre-training, without ``decoder.``; empty for none.
        decoder_heads: heads of the decoder, None if the file does not tell.
        format: format of the file.
        notes: what was done to the weights.
        left_out: name in the file to the reason why it stayed behind.
    """

    weights: StateDict
    embed_dim: int
    depth: int
    num_heads: int | None
    hidden_dim: int
    patch_size: tuple[int, int]
    in_channels: int
    grid: Grid
    norm_eps: float
    decoder: StateDict = field(default_factory=dict)
    decoder_heads: int | None = None
    format: str = ''
    notes: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def img_size(self) -> tuple[int, int]:
        """``(height, width)`` in pixels that the position table is for."""
        return (self.grid[0] * self.patch_size[0], self.grid[1] * self.patch_size[1])

    @property
    def has_norm(self) -> bool:
        """Whether there is a LayerNorm after the last block."""
        return 'norm.weight' in self.weights

    @property
    def relative_positions(self) -> list[str]:
        """Names of relative positions."""
        return [name for name in self.weights if name.endswith((BIAS_TABLE, '.rel_pos_h', '.rel_pos_w'))]


def extract(
    opened: Weights, *, num_heads: int | None = None, source_grid: Grid | None = None, partial: bool = False
) -> EncoderWeights:
    """The encoder of a checkpoint.

    Args:
        opened: weights of a file, see :func:`mixedae.checkpoints.open_weights`.
        num_heads: overrides what the file tells.
        source_grid: ``(h, w)`` of its position table, where it is neither square nor told by the file.
        partial: leave out what no backbone has a place for; an error otherwise.

    Raises:
        CheckpointError: no encoder is in it, or it is incomplete.
    """
    facts = opened.facts
    converted, report = convert(opened.state_dict, opened.source)
    if converted.blockers and not partial:
        name, what = next(iter(converted.blockers.items()))
        raise CheckpointError(
            f'{opened.source} has {what} ({summary(list(converted.blockers))}), which a plain ViT does not have: '
            'converted weights would give other features.'
        )
    left_out = {**report.left_out, **converted.blockers}
    weights = {name: _as_float(name, weight, opened.source) for name, weight in converted.weights.items()}
    for name in [name for name in weights if name.startswith('out_norms.')]:
        del weights[name]
        left_out[converted.sources[name][0]] = 'a LayerNorm of the outputs of a detector or segmentor'
    sizes = _sizes(weights, opened.source)
    dim, patches = sizes['embed_dim'], sizes['patch_size']
    notes = choice_notes(opened)
    if 'pos_embed' in weights:
        table = weights['pos_embed']
        if table.ndim not in (2, 3) or table.shape[-1] != dim or table.numel() % dim or not table.numel():
            raise CheckpointError(f'{opened.source}: pos_embed is {tuple(table.shape)}, the width is {dim}.')
        table = weights['pos_embed'] = table.reshape(1, -1, dim)
        source_grid = check_source_grid(table, source_grid, opened.source)
        grid, prefix = table_grid(table.shape[1], None, source_grid or facts.grid, opened.source)
        if 'cls_token' in weights and not prefix:
            weights['pos_embed'] = torch.cat([table.new_zeros(1, 1, dim), table], dim=1)
            notes.append('a row of zeros put before the position table for [CLS]')
    else:
        grid = source_grid or facts.grid or (224 // patches[0], 224 // patches[1])
    heads = num_heads or facts.num_heads or HEADS.get(dim)
    if heads and not num_heads and not facts.num_heads:
        notes.append(f'{heads} heads, as usual for width {dim}: the file does not tell')
    if facts.norm_eps is None:
        notes.append('epsilon 1e-6 of the LayerNorms, as usual: the file does not tell')
    if heads and dim % heads:
        raise CheckpointError(f'{opened.source} has width {dim}, which {heads} heads cannot share.')
    decoder, decoder_heads = decoder_of(opened.state_dict, facts)
    return EncoderWeights(
        weights=weights,
        num_heads=heads,
        grid=grid,
        norm_eps=facts.norm_eps or 1e-6,
        decoder=decoder,
        decoder_heads=decoder_heads,
        format=report.format,
        notes=tuple(notes),
        left_out=left_out,
        **sizes,
    )


def _as_float(name: str, weight: Tensor, source: str) -> Tensor:
    if not weight.is_floating_point() or not weight.isfinite().all():
        raise CheckpointError(f'{source}: {name} holds values that are not finite numbers.')
    return weight.detach().float().contiguous()


def _sizes(weights: StateDict, source: str) -> dict[str, Any]:
    """Sizes that the shapes tell; refuses incomplete encoders."""
    blocks = block_numbers(weights)
    depth = len(blocks)
    if blocks != list(range(depth)):
        raise CheckpointError(f'{source} lacks blocks: it has {blocks}; is the file complete?')
    core = ['patch_embed.proj.weight']
    for i in range(depth):
        core += [
            f'blocks.{i}.{part}.weight' for part in ('norm1', 'attn.qkv', 'attn.proj', 'norm2', 'mlp.fc1', 'mlp.fc2')
        ]
        core += [f'blocks.{i}.{part}.bias' for part in ('norm1', 'attn.proj', 'norm2', 'mlp.fc1', 'mlp.fc2')]
    absent = [name for name in core if name not in weights]
    if absent or not depth:
        missing = f'lacks {len(absent)} weights that every ViT has: {summary(absent)}' if absent else 'has no blocks'
        raise CheckpointError(f'{source} {missing}; is the file complete?')
    patch, fc1 = weights['patch_embed.proj.weight'], weights['blocks.0.mlp.fc1.weight']
    if patch.ndim != 4 or fc1.ndim != 2 or not patch.numel() or not fc1.numel():
        raise CheckpointError(
            f'{source} is no plain ViT: patch_embed.proj.weight is {tuple(patch.shape)}, blocks.0.mlp.fc1.weight '
            f'{tuple(fc1.shape)}.'
        )
    dim, hidden = patch.shape[0], fc1.shape[0]
    shapes = {
        'attn.qkv.weight': (3 * dim, dim),
        'attn.qkv.bias': (3 * dim,),
        'attn.proj.weight': (dim, dim),
        'mlp.fc1.weight': (hidden, dim),
        'mlp.fc1.bias': (hidden,),
        'mlp.fc2.weight': (dim, hidden),
        **{f'{part}.weight': (dim,) for part in ('norm1', 'norm2')},
        **{f'{part}.bias': (dim,) for part in ('norm1', 'norm2', 'attn.proj', 'mlp.fc2')},
        **{f'{part}.gamma': (dim,) for part in ('ls1', 'ls2')},
    }
    wanted = {f'blocks.{i}.{part}': shape for i in blocks for part, shape in shapes.items()}
    wanted |= {'patch_embed.proj.bias': (dim,), 'norm.weight': (dim,), 'norm.bias': (dim,), 'cls_token': (1, 1, dim)}
    for name, shape in wanted.items():
        found = tuple(weights[name].shape) if name in weights else shape
        if found != shape:
            raise CheckpointError(f'{source} is no plain ViT of width {dim}: {name} is {found}, not {shape}.')
    return dict(
        embed_dim=dim, depth=depth, hidden_dim=hidden, patch_size=tuple(patch.shape[2:]), in_channels=patch.shape[1]
    )
