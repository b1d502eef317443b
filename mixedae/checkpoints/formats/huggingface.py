"""Names of Hugging Face's ViT and ViTMAE (also BEiT, Data2VecVision and DINOv2): q, k and v of their own.

Files hold the names of transformers 4 (``encoder.layer.0.attention.attention.query``), also those that transformers 5
writes; a state dict in memory of transformers 5 has ``layers.0.attention.q_proj``, DINOv2's
``encoder.layer.0.attention.q_proj``. All are read, the first is written.
"""

from __future__ import annotations

import re

from mixedae.checkpoints.formats.base import (
    BIAS_TABLE,
    SHARED_TABLE,
    Converted,
    Format,
    StateDict,
    has_name,
    rename,
    rename_all,
)

_PREFIX = r'(?:(?:vit|beit|data2vec_vision|deit|dinov2|dinov2_with_registers)\.)?'
_LAYER = r'(?:encoder\.layer|layers)\.(\d+)\.'
_LETTERS = {'query': 'q', 'key': 'k', 'value': 'v'}
_RULES = (
    (r'embeddings\.cls_token', 'cls_token'),
    (r'embeddings\.position_embeddings', 'pos_embed'),
    (r'embeddings\.patch_embeddings\.projection\.(weight|bias)', r'patch_embed.proj.\1'),
    (r'layernorm\.(weight|bias)', r'norm.\1'),
    *(
        (_LAYER + rf'attention\.(?:attention\.{word}|{letter}_proj)\.(weight|bias)', rf'blocks.\1.attn.{letter}.\2')
        for word, letter in _LETTERS.items()
    ),
    (_LAYER + r'attention\.(?:output\.dense|o_proj)\.(weight|bias)', r'blocks.\1.attn.proj.\2'),
    (_LAYER + r'intermediate\.dense\.(weight|bias)', r'blocks.\1.mlp.fc1.\2'),
    (_LAYER + r'output\.dense\.(weight|bias)', r'blocks.\1.mlp.fc2.\2'),
    (_LAYER + r'layernorm_before\.(weight|bias)', r'blocks.\1.norm1.\2'),
    (_LAYER + r'layernorm_after\.(weight|bias)', r'blocks.\1.norm2.\2'),
    (_LAYER + r'lambda_([12])', r'blocks.\1.ls\2.gamma'),  # BEiT
    (_LAYER + r'layer_scale([12])\.lambda1', r'blocks.\1.ls\2.gamma'),  # DINOv2
    (_LAYER + rf'(?:attention\.attention\.)?relative_position_bias\.({BIAS_TABLE})', r'blocks.\1.attn.\2'),
    (rf'(?:encoder\.relative_position_bias|shared_position_bias)\.{BIAS_TABLE}', SHARED_TABLE),
    (_LAYER + r'(.+)', r'blocks.\1.\2'),  # mlp.fc1, norm1, and what the backbone has no place for: not lost in silence
)


def _convert(state_dict: StateDict) -> Converted:
    return rename(state_dict, _PREFIX, _RULES)


_is_vit = has_name(_PREFIX + _LAYER + r'attention\.(?:attention\.query|q_proj)\.')

VIT_MAE = Format(
    'Hugging Face ViTMAE', lambda names: _is_vit(names) and has_name(r'decoder\.decoder_embed\.')(names), _convert
)
VIT = Format('Hugging Face ViT', _is_vit, _convert)

_BACK = (
    (r'cls_token', 'embeddings.cls_token'),
    (r'pos_embed', 'embeddings.position_embeddings'),
    (r'patch_embed\.proj\.(.+)', r'embeddings.patch_embeddings.projection.\1'),
    (r'norm\.(.+)', r'layernorm.\1'),
    (r'blocks\.(\d+)\.attn\.(query|key|value)\.(.+)', r'encoder.layer.\1.attention.attention.\2.\3'),
    (r'blocks\.(\d+)\.attn\.proj\.(.+)', r'encoder.layer.\1.attention.output.dense.\2'),
    (r'blocks\.(\d+)\.mlp\.fc1\.(.+)', r'encoder.layer.\1.intermediate.dense.\2'),
    (r'blocks\.(\d+)\.mlp\.fc2\.(.+)', r'encoder.layer.\1.output.dense.\2'),
    (r'blocks\.(\d+)\.norm1\.(.+)', r'encoder.layer.\1.layernorm_before.\2'),
    (r'blocks\.(\d+)\.norm2\.(.+)', r'encoder.layer.\1.layernorm_after.\2'),
)


def to_huggingface(weights: StateDict) -> StateDict:
    """Names of ``ViTModel`` and of ``ViTMAEModel``, which are the same."""
    split = {}
    for name, weight in weights.items():
        match = re.fullmatch(r'(blocks\.\d+\.attn)\.qkv\.(weight|bias)', name)
        if match:
            split |= {
                f'{match[1]}.{word}.{match[2]}': part.contiguous() for word, part in zip(_LETTERS, weight.chunk(3))
            }
        else:
            split[name] = weight
    return rename_all(split, _BACK)
