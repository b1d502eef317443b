"""Names of Hugging Face's ViT and ViTMAE (also BEiT and DINOv2): q, k and v of their own.

Files hold the names of transformers 4 (``encoder.layer.0.attention.attention.query``), also those that transformers 5
writes; a state dict in memory of transformers 5 has ``layers.0.attention.q_proj``. Both are read, the first is written.
"""

from __future__ import annotations

import re

from mixedae.checkpoints.formats.base import Converted, Format, StateDict, has_name, rename, rename_all

_PREFIX = r'(?:(?:vit|beit|deit|dinov2)\.)?'
_OLD, _NEW = r'encoder\.layer\.(\d+)\.', r'layers\.(\d+)\.'
_LETTERS = {'query': 'q', 'key': 'k', 'value': 'v'}
_RULES = (
    (r'embeddings\.cls_token', 'cls_token'),
    (r'embeddings\.position_embeddings', 'pos_embed'),
    (r'embeddings\.patch_embeddings\.projection\.(weight|bias)', r'patch_embed.proj.\1'),
    (r'layernorm\.(weight|bias)', r'norm.\1'),
    *(
        (_OLD + rf'attention\.attention\.{word}\.(weight|bias)', rf'blocks.\1.attn.{letter}.\2')
        for word, letter in _LETTERS.items()
    ),
    *((_NEW + rf'attention\.{letter}_proj\.(weight|bias)', rf'blocks.\1.attn.{letter}.\2') for letter in 'qkv'),
    (_OLD + r'attention\.output\.dense\.(weight|bias)', r'blocks.\1.attn.proj.\2'),
    (_NEW + r'attention\.o_proj\.(weight|bias)', r'blocks.\1.attn.proj.\2'),
    (_OLD + r'intermediate\.dense\.(weight|bias)', r'blocks.\1.mlp.fc1.\2'),
    (_OLD + r'output\.dense\.(weight|bias)', r'blocks.\1.mlp.fc2.\2'),
    (_NEW + r'mlp\.(fc[12])\.(weight|bias)', r'blocks.\1.mlp.\2.\3'),
    *(
        (part + rf'layernorm_{place}\.(weight|bias)', rf'blocks.\1.norm{number}.\2')
        for part in (_OLD, _NEW)
        for place, number in (('before', 1), ('after', 2))
    ),
    (_OLD + r'lambda_([12])', r'blocks.\1.ls\2.gamma'),  # BEiT
    (_OLD + r'layer_scale([12])\.lambda1', r'blocks.\1.ls\2.gamma'),  # DINOv2
    (
        _OLD + r'attention\.attention\.relative_position_bias\.(relative_position_bias_table)',
        r'blocks.\1.attn.\2',
    ),
    (_OLD + r'(.+)', r'blocks.\1.\2'),  # a part that the backbone has no place for: it must not be lost in silence
    (_NEW + r'(.+)', r'blocks.\1.\2'),
)


def _convert(state_dict: StateDict) -> Converted:
    return rename(state_dict, _PREFIX, _RULES)


_is_vit = has_name(_PREFIX + r'(?:encoder\.layer\.\d+\.attention\.attention\.query|layers\.\d+\.attention\.q_proj)\.')

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
