"""Lines to copy that load a converted checkpoint in the library that it was converted for."""

from __future__ import annotations

from mixedae.checkpoints.encoder_weights import EncoderWeights
from mixedae.checkpoints.formats.base import SHARED_TABLE

TIMM_NAMES = {
    (192, 12, 3): 'vit_tiny_patch16_224',
    (384, 12, 6): 'vit_small_patch16_224',
    (768, 12, 12): 'vit_base_patch16_224',
    (1024, 24, 16): 'vit_large_patch16_224',
    (1280, 32, 16): 'vit_huge_patch14_224',
}
MMPRETRAIN_NAMES = {
    (192, 12, 3): 'deit-tiny',
    (384, 12, 6): 'deit-small',
    (768, 12, 12): 'base',
    (1024, 24, 16): 'large',
    (1280, 32, 16): 'huge',
}


def usage(encoder: EncoderWeights, target: str, file: str) -> str:
    """Python lines; ``HEADS`` stands in them for a number of heads that nothing tells."""
    return {
        'timm': _timm,
        'mae': _mae,
        'hf': _huggingface,
        'hf-mae': _huggingface_mae,
        'mmpretrain': _mmpretrain,
        'mixedae': _mixedae,
    }[target](encoder, file)


def _sizes(encoder: EncoderWeights) -> tuple[int, int, int | None]:
    return (encoder.embed_dim, encoder.depth, encoder.num_heads)


def _mlp_ratio(encoder: EncoderWeights) -> float:
    return encoder.hidden_dim / encoder.embed_dim


def _call(name: str, arguments: dict[str, object]) -> str:
    """``name(key=value, ...)``, an argument a line; the values are code."""
    return '\n'.join([f'{name}(', *(f'    {key}={value},' for key, value in arguments.items()), ')'])


def _timm(encoder: EncoderWeights, file: str) -> str:
    sizes = _sizes(encoder)
    arguments: dict[str, object] = {'img_size': encoder.img_size, 'patch_size': encoder.patch_size[0], 'num_classes': 0}
    if sizes not in TIMM_NAMES:
        arguments |= {'embed_dim': sizes[0], 'depth': sizes[1], 'num_heads': sizes[2] or 'HEADS'}
    if _mlp_ratio(encoder) != 4:
        arguments['mlp_ratio'] = _mlp_ratio(encoder)
    if encoder.in_channels != 3:
        arguments['in_chans'] = encoder.in_channels
    name = TIMM_NAMES.get(sizes, 'vit_base_patch16_224')
    call = _call('timm.create_model', {'model_name': repr(name), **arguments, 'checkpoint_path': repr(file)})
    tokens = 'tokens = model.forward_features(images)  # (B, 1 + L, D), [CLS] first, after the final LayerNorm'
    return f'import timm\n\nmodel = {call}\n{tokens}'


def _mae(encoder: EncoderWeights, file: str) -> str:
    width, depth, heads = _sizes(encoder)
    return '\n'.join(
        [
            'import torch\n',
            f"weights = torch.load({file!r}, map_location='cpu', weights_only=True)['model']",
            'model.load_state_dict(weights, strict=False)  # a model of facebookresearch/mae\n',
            "# detectron2's ViTDet:",
            f'# train.init_checkpoint = {f"{file}?matching_heuristics=True"!r}',
            f'# model.backbone.net.embed_dim, .depth, .num_heads = {width}, {depth}, {heads or "HEADS"}',
            f'# model.backbone.net.pretrain_img_size = {encoder.img_size[0]}',
        ]
    )


def _huggingface(encoder: EncoderWeights, file: str) -> str:
    return (
        'from transformers import ViTModel\n\n'
        f'model = ViTModel.from_pretrained({file!r}, add_pooling_layer=False)\n'
        'tokens = model(pixel_values=images).last_hidden_state  # (B, 1 + L, D), [CLS] first'
    )


def _huggingface_mae(encoder: EncoderWeights, file: str) -> str:
    name = 'ViTMAEForPreTraining' if encoder.decoder else 'ViTMAEModel'
    return f'from transformers import {name}\n\nmodel = {name}.from_pretrained({file!r})'


def _mmpretrain(encoder: EncoderWeights, file: str) -> str:
    sizes = _sizes(encoder)
    arch = repr(MMPRETRAIN_NAMES.get(sizes))
    if sizes not in MMPRETRAIN_NAMES or _mlp_ratio(encoder) != 4:
        arch = (
            f'dict(embed_dims={sizes[0]}, num_layers={sizes[1]}, num_heads={sizes[2] or "HEADS"}, '
            f'feedforward_channels={encoder.hidden_dim})'
        )
    arguments = {
        'type': "'VisionTransformer'",
        'arch': arch,
        'img_size': encoder.img_size,
        'patch_size': encoder.patch_size[0],
    }
    if encoder.in_channels != 3:
        arguments['in_channels'] = encoder.in_channels
    if not encoder.has_norm:
        arguments['final_norm'] = False
    arguments['init_cfg'] = f"dict(type='Pretrained', checkpoint={file!r}, prefix='backbone.')"
    return f'backbone = {_call("dict", arguments)}'


def _mixedae(encoder: EncoderWeights, file: str) -> str:
    width, depth, heads = _sizes(encoder)
    arguments = {
        'type': "'mixedae.MixedAEViT'",
        'arch': f'dict(embed_dim={width}, depth={depth}, num_heads={heads or "HEADS"})',
        'img_size': encoder.img_size,
        'patch_size': encoder.patch_size[0],
        'out_indices': (depth - 1,),
    }
    optional = {
        'in_channels': (encoder.in_channels, encoder.in_channels != 3),
        'mlp_ratio': (_mlp_ratio(encoder), _mlp_ratio(encoder) != 4),
        'norm_eps': (encoder.norm_eps, encoder.norm_eps != 1e-6),
        'out_norm': ("'none'", not encoder.has_norm),
        'with_cls_token': (False, 'cls_token' not in encoder.weights),
        'abs_pos_embed': (False, 'pos_embed' not in encoder.weights),
        'init_values': (1.0, 'blocks.0.ls1.gamma' in encoder.weights),
        'rel_pos': (repr(_kind_of_positions(encoder)), bool(encoder.relative_positions)),
    }
    arguments |= {key: value for key, (value, needed) in optional.items() if needed}
    arguments['init_cfg'] = f"dict(type='Pretrained', checkpoint={file!r})"
    return f"custom_imports = dict(imports=['mixedae'])\nbackbone = {_call('dict', arguments)}"


def _kind_of_positions(encoder: EncoderWeights) -> str:
    if SHARED_TABLE in encoder.weights:
        return 'shared'
    return 'decomposed' if encoder.relative_positions[:1] and 'rel_pos_' in encoder.relative_positions[0] else 'table'
