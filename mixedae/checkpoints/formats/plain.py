"""timm's names: facebookresearch MAE, timm, DINO, iBOT, BEiT, and our own checkpoints, under one prefix or none."""

from __future__ import annotations

import re

from mixedae.checkpoints.formats.base import BACKBONE_NAMES, Converted, Format, StateDict, has_name, rename


def under(prefix: str):
    """Conversion of the names under a prefix."""
    return lambda state_dict: rename(state_dict, re.escape(prefix), [(f'({BACKBONE_NAMES})', r'\1')])


def prefixes(state_dict: StateDict) -> list[str]:
    """Prefixes under which a whole encoder stands, e.g. ``['model.']``."""
    found = (re.fullmatch(r'(.*\.)?patch_embed\.proj\.weight', name) for name in state_dict)
    candidates = [match[1] or '' for match in found if match]
    return [prefix for prefix in candidates if f'{prefix}blocks.0.norm1.weight' in state_dict]


def _under_one_prefix(state_dict: StateDict) -> Converted:
    found = prefixes(state_dict)
    if len(found) > 1:
        raise ValueError(f'it holds {len(found)} encoders: choose one by prefix={found[0]!r} (or {found[1:]})')
    return under(found[0])(state_dict)


_bare = has_name(r'blocks\.')

OWN_PRETRAINING = Format('mixedae pre-training', has_name(r'encoder\.blocks\.'), under('encoder.'))
SELF_DISTILLATION = Format(
    'DINO / iBOT training',
    lambda names: has_name(r'backbone\.blocks\.')(names) and has_name(r'head\.(?:mlp|last_layer)')(names),
    under('backbone.'),
)
OWN_BACKBONE = Format('mm model with this backbone', has_name(r'backbone\.blocks\.'), under('backbone.'))
MAE = Format('MAE pre-training', lambda names: _bare(names) and 'decoder_pos_embed' in names, under(''))
BEIT = Format(
    'BEiT',
    lambda names: _bare(names) and has_name(r'(?:blocks\.\d+\.attn|rel_pos_bias)\.relative_position_bias_table')(names),
    under(''),
)
PLAIN = Format('MAE / timm ViT', _bare, under(''))
PREFIXED = Format('ViT under a prefix', lambda names: bool(prefixes(names)), _under_one_prefix)


def to_mae(weights: StateDict) -> StateDict:
    """Names of MAE's encoder and of timm's ViT: the backbone's own."""
    return dict(weights)
