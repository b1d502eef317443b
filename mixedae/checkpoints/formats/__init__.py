"""Formats of checkpoints, one file for each family: how to know it, and how to name its weights as the backbone does.

``convert`` of a format takes a state dict and returns the weights meant for the backbone; what it does not return is
reported as left out, with the reason. A new format is one more entry of ``FORMATS``.
"""

from __future__ import annotations

from mixedae.checkpoints.formats import detectron2, huggingface, openmmlab, plain
from mixedae.checkpoints.formats.base import Converted, Format, StateDict, fold_layer_scale, unwrap_names

FORMATS: list[Format] = [
    plain.OWN_PRETRAINING,
    detectron2.VITDET,
    plain.SELF_DISTILLATION,
    plain.OWN_BACKBONE,
    openmmlab.MMSEG_VIT,
    openmmlab.OPENMMLAB_BEIT,
    openmmlab.MMPRETRAIN,
    huggingface.VIT_MAE,
    huggingface.VIT,
    plain.MAE,
    plain.BEIT,
    plain.PLAIN,
    plain.PREFIXED,
]
"""Tried in order; the first that matches is taken."""


def find_format(state_dict: StateDict) -> Format | None:
    """The first format that recognises the weights, None if none does."""
    return next((entry for entry in FORMATS if entry.matches(state_dict)), None)


__all__ = ['FORMATS', 'Converted', 'Format', 'StateDict', 'find_format', 'fold_layer_scale', 'unwrap_names']
