"""OpenMMLab's names: ``layers.I.ln1``, ``attn.qkv``, ``ffn.layers.0.0``; mmpretrain and mmseg differ in attention.

mmpretrain's ViT and MAE and mmseg's BEiT and MAE keep q, k and v in ``attn.qkv``; mmseg's VisionTransformer wraps
``torch.nn.MultiheadAttention`` (``attn.attn.in_proj_weight``), whose rows are q, k, v as well.
"""

from __future__ import annotations

import re

from mixedae.checkpoints.formats.base import Converted, Format, StateDict, has_name, rename, rename_all

_LAYER = r'layers\.(\d+)\.'
_RULES = (
    (r'(cls_token|pos_embed)', r'\1'),
    (r'patch_embed\.projection\.(weight|bias)', r'patch_embed.proj.\1'),
    (r'ln1\.(weight|bias)', r'norm.\1'),  # the final LayerNorm; ln2 normalises pooled features
    (_LAYER + r'ln([12])\.(weight|bias)', r'blocks.\1.norm\2.\3'),
    (_LAYER + r'attn\.attn\.in_proj_(weight|bias)', r'blocks.\1.attn.qkv.\2'),
    (_LAYER + r'attn\.attn\.out_proj\.(weight|bias)', r'blocks.\1.attn.proj.\2'),
    (_LAYER + r'attn\.gamma1\.weight', r'blocks.\1.ls1.gamma'),
    (_LAYER + r'ffn\.gamma2\.weight', r'blocks.\1.ls2.gamma'),
    (_LAYER + r'ffn\.layers\.0\.0\.(weight|bias)', r'blocks.\1.mlp.fc1.\2'),
    (_LAYER + r'ffn\.layers\.1\.(weight|bias)', r'blocks.\1.mlp.fc2.\2'),
    (_LAYER + r'(.+)', r'blocks.\1.\2'),  # attn.qkv, attn.proj, gamma_1, relative_position_bias_table, ...
    (r'(rel_pos_bias\.relative_position_bias_table)', r'\1'),
)
_REASONS = ((r'ln2\.(weight|bias)', 'normalises pooled features, not the tokens'),)


def _convert(state_dict: StateDict) -> Converted:
    prefix = 'backbone.' if has_name(r'backbone\.layers\.')(state_dict) else ''
    return rename(state_dict, re.escape(prefix), _RULES, _REASONS)


def _mmseg(state_dict: StateDict) -> bool:
    return has_name(r'(?:backbone\.)?layers\.\d+\.attn\.attn\.in_proj_weight')(state_dict)


MMSEG_VIT = Format('mmseg VisionTransformer', _mmseg, _convert)
OPENMMLAB_BEIT = Format(
    'mmpretrain / mmseg BEiT or mmseg MAE',
    lambda names: (
        has_name(r'(?:backbone\.)?(?:layers\.\d+\.attn|rel_pos_bias)\.relative_position_bias_table')(names)
        and has_name(r'(?:backbone\.)?layers\.\d+\.ln1\.')(names)
    ),
    _convert,
)
MMPRETRAIN = Format('mmpretrain ViT / MAE', has_name(r'(?:backbone\.)?layers\.\d+\.ln1\.'), _convert)

_BACK = (
    (r'(cls_token|pos_embed)', r'\1'),
    (r'patch_embed\.proj\.(.+)', r'patch_embed.projection.\1'),
    (r'norm\.(.+)', r'ln1.\1'),
    (r'blocks\.(\d+)\.norm([12])\.(.+)', r'layers.\1.ln\2.\3'),
    (r'blocks\.(\d+)\.mlp\.fc1\.(.+)', r'layers.\1.ffn.layers.0.0.\2'),
    (r'blocks\.(\d+)\.mlp\.fc2\.(.+)', r'layers.\1.ffn.layers.1.\2'),
    (r'blocks\.(\d+)\.attn\.(.+)', r'layers.\1.attn.\2'),
)


def to_mmpretrain(weights: StateDict) -> StateDict:
    """Names of mmpretrain's ``VisionTransformer`` as a backbone."""
    return {f'backbone.{name}': weight for name, weight in rename_all(weights, _BACK).items()}
