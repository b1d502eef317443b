"""Loading a state dict of any known format into ``MixedAEViT``, with a report of every name."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mixedae.checkpoints.formats import FORMATS, find_format
from mixedae.checkpoints.reading import CheckpointError
from mixedae.layers import resample_pos_embed


@dataclass
class LoadReport:
    """What happened to every name of the checkpoint and of the backbone.

    Attributes:
        source: where the weights came from.
        format: name of the recognised format.
        loaded: names in the backbone that got their weight from the checkpoint, resampled ones included.
        resampled: of those, the names whose weight was resampled, with old and new size.
        left_out: names in the checkpoint that have no place in the backbone.
        missing: names in the backbone that the checkpoint does not have; they keep their initial weight.
    """

    source: str
    format: str
    loaded: list[str] = field(default_factory=list)
    resampled: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f'{self.source}: {self.format}, {len(self.loaded)} weights loaded into the backbone']
        lines += [f'  resampled: {name} {change}' for name, change in self.resampled.items()]
        if self.left_out:
            lines.append(f'  left out, no place in the backbone: {_summary(self.left_out)}')
        if self.missing:
            lines.append(f'  missing, keep their initial values: {_summary(self.missing)}')
        return '\n'.join(lines)


def load_backbone(
    backbone: nn.Module, state_dict: dict[str, Tensor], *, source: str = 'state dict', log: bool = True
) -> LoadReport:
    """Loads weights of a known format (see :mod:`mixedae.checkpoints.formats`) into a ``MixedAEViT``.

    Position embeddings of another grid are resampled bicubically, the row of [CLS] is kept.

    Args:
        backbone: has timm's parameter names and the attributes ``grid`` (h, w) and ``num_prefix_tokens``.
        state_dict: as :func:`mixedae.checkpoints.read_checkpoint` returns it.
        source: file name for messages.
        log: write the report to the current MMEngine logger.

    Raises:
        CheckpointError: no format matches, or a weight has another shape than the backbone's (another width, another
            patch size, fewer blocks).
    """
    entry = find_format(state_dict)
    if entry is None:
        known = ', '.join(known.name for known in FORMATS)
        raise CheckpointError(
            f'{source} holds no weights of a plain vision transformer: none of its {len(state_dict)} names '
            f'({_summary(list(state_dict))}) matches a known format ({known}).'
        )
    report = LoadReport(source, entry.name)
    target = backbone.state_dict()
    converted = entry.convert(state_dict)
    new_weights: dict[str, Tensor] = {}
    for name, (_, weight) in converted.items():
        if name not in target:
            continue
        if name == 'pos_embed' and weight.shape != target[name].shape:
            weight, change = _fit_pos_embed(weight, backbone, 'cls_token' in converted, source)
            report.resampled[name] = change
        if weight.shape != target[name].shape:
            raise CheckpointError(
                f'{source} does not fit the backbone: {name} is {tuple(weight.shape)} in the file and '
                f'{tuple(target[name].shape)} in the backbone; set the same arch and patch_size in the config.'
            )
        new_weights[name] = weight
    if not any(name.startswith('blocks.') for name in new_weights):
        raise CheckpointError(f'{source} was taken for {entry.name}, but no weight of its blocks fits the backbone.')
    found, wanted = _count_blocks(new_weights), _count_blocks(target)
    if found < wanted:
        raise CheckpointError(f'{source} has {found} blocks, the backbone {wanted}; set the same arch in the config.')
    with torch.no_grad():
        for name, weight in new_weights.items():
            target[name].copy_(weight)
    if hasattr(backbone, 'forget_pos_embed'):
        backbone.forget_pos_embed()
    report.loaded = list(new_weights)
    used = {converted[name][0] for name in new_weights}
    report.left_out = [name for name in state_dict if name not in used]
    report.missing = [name for name in target if name not in new_weights]
    if log:
        print_log(str(report), logger='current')
    return report


def _fit_pos_embed(pos_embed: Tensor, backbone: nn.Module, has_cls: bool, source: str) -> tuple[Tensor, str]:
    """Resamples ``(1, prefix + L, D)`` from its (square) grid to the backbone's."""
    prefix = int(has_cls)
    num_patches = pos_embed.shape[1] - prefix
    side = math.isqrt(max(num_patches, 0))
    grid: tuple[int, int] = tuple(backbone.grid)
    if side == 0 or side * side != num_patches:
        raise CheckpointError(
            f'The position embedding of {source} has {num_patches} patches, which is no square grid, so it cannot be '
            f'resampled to {grid[0]} x {grid[1]}; set img_size of the backbone to the size it was trained with.'
        )
    resampled = resample_pos_embed(pos_embed, (side, side), grid, num_prefix_tokens=prefix)
    wanted = backbone.num_prefix_tokens
    if prefix < wanted:  # a table without a row for [CLS]: that row is zero, as in MAE's table
        resampled = torch.cat([resampled.new_zeros(1, wanted - prefix, resampled.shape[2]), resampled], dim=1)
    elif prefix > wanted:
        resampled = resampled[:, prefix - wanted :]
    return resampled, f'{side} x {side} -> {grid[0]} x {grid[1]} patches'


def _count_blocks(names: Iterable[str]) -> int:
    return len({name.split('.')[1] for name in names if name.startswith('blocks.')})


def _summary(names: list[str], most: int = 8) -> str:
    """Names by their first part, with counts: ``encoder.segment_embed, decoder.* (99)``."""
    counts = Counter(name.split('.')[0] for name in names)
    whole = {name.split('.')[0]: name for name in names}
    parts = [whole[part] if count == 1 else f'{part}.* ({count})' for part, count in counts.items()]
    return ', '.join(parts[:most]) + (f' and {len(parts) - most} more' if len(parts) > most else '')
