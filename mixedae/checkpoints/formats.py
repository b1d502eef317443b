"""Formats of checkpoints: one entry each, that says how to know it and how to name its weights as the backbone does.

The backbone's names are timm's (``patch_embed.proj``, ``blocks.0.attn.qkv``, ``norm``, ...). ``convert`` of a format
takes a state dict and returns the weights meant for the backbone under those names; what it does not return is reported
as left out. A new format is one more entry of ``FORMATS``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

StateDict = dict[str, Tensor]

BACKBONE_NAMES = ('cls_token', 'pos_embed', 'patch_embed.', 'blocks.', 'norm.', 'out_norms.')
"""How a name of the backbone begins."""


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        name: for reports.
        matches: says whether a state dict has this format.
        convert: gives ``{backbone name: (name in the file, weight)}``.
    """

    name: str
    matches: Callable[[StateDict], bool]
    convert: Callable[[StateDict], dict[str, tuple[str, Tensor]]]


def _has(prefix: str) -> Callable[[StateDict], bool]:
    return lambda state_dict: any(name.startswith(f'{prefix}blocks.') for name in state_dict)


def _take(prefix: str) -> Callable[[StateDict], dict[str, tuple[str, Tensor]]]:
    """Keeps the names under a prefix that the backbone has a place for."""

    def convert(state_dict: StateDict) -> dict[str, tuple[str, Tensor]]:
        kept = {}
        for name, weight in state_dict.items():
            new_name = name.removeprefix(prefix)
            if name.startswith(prefix) and new_name.startswith(BACKBONE_NAMES):
                kept[new_name] = (name, weight)
        return kept

    return convert


FORMATS: list[Format] = [
    # segment_embed, decoder.* and projector.* are the pretext task's and stay behind
    Format('mixedae pre-training', _has('encoder.'), _take('encoder.')),
    # a detector or segmentor that was trained with this backbone: neck and heads stay behind
    Format('mm model with this backbone', _has('backbone.'), _take('backbone.')),
    # facebookresearch MAE (mask_token, decoder_* stay behind) and timm's plain ViT (head.*, fc_norm.* stay behind)
    Format('MAE / timm ViT', _has(''), _take('')),
]
"""Tried in order; the first that matches is taken."""


def find_format(state_dict: StateDict) -> Format | None:
    """The first format that recognises the weights, None if none does."""
    return next((entry for entry in FORMATS if entry.matches(state_dict)), None)
