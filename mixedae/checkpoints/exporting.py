"""Naming an encoder as other libraries do, in a form that their models can be equal to.

checkpoint -> ``extract`` -> :class:`EncoderWeights` -> ``prepare`` -> ``name_for`` -> ``writing``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from mixedae.checkpoints.decoders import to_huggingface_decoder, to_mae_decoder
from mixedae.checkpoints.encoder_weights import EncoderWeights
from mixedae.checkpoints.facts import Facts, parse_config
from mixedae.checkpoints.formats import Converted, StateDict, fold_layer_scale
from mixedae.checkpoints.formats.huggingface import to_huggingface
from mixedae.checkpoints.formats.openmmlab import to_mmpretrain
from mixedae.checkpoints.formats.plain import to_mae
from mixedae.checkpoints.reading import CheckpointError
from mixedae.checkpoints.report import summary


@dataclass(frozen=True)
class Target:
    """A library's layout.

    Attributes:
        name: as the command line calls it.
        title: for people.
        rename: gives the library's names.
        folder: whether it is a folder (``config.json`` beside the weights) rather than a file.
        key: under which key a ``.pth`` file holds the weights.
        needs_heads: whether its configuration states the number of heads.
        needs_norm: whether its model always has the final LayerNorm.
        any_vit: whether it has a place for relative positions and layer scale and does without [CLS].
    """

    name: str
    title: str
    rename: Callable[[StateDict], StateDict]
    folder: bool = False
    key: str = 'state_dict'
    needs_heads: bool = False
    needs_norm: bool = True
    any_vit: bool = False


TARGETS = {
    target.name: target
    for target in (
        Target('timm', 'timm VisionTransformer', to_mae),
        Target('mae', 'facebookresearch MAE', to_mae, key='model', needs_norm=False),
        Target('hf', 'Hugging Face ViTModel', to_huggingface, folder=True, needs_heads=True),
        Target('hf-mae', 'Hugging Face ViTMAE', to_huggingface, folder=True, needs_heads=True),
        Target('mmpretrain', 'mmpretrain VisionTransformer', to_mmpretrain, needs_norm=False),
        Target('mixedae', 'mixedae.MixedAEViT', to_mae, needs_norm=False, any_vit=True),
    )
}


def prepare(encoder: EncoderWeights, target: Target, with_decoder: bool = False) -> EncoderWeights:
    """Brings an encoder into the form that a library's model has; ``prepare`` changes no output.

    Raises:
        CheckpointError: the library's model cannot be equal to it.
    """
    if with_decoder and not encoder.decoder:
        raise CheckpointError('There is no decoder to convert: give a checkpoint of pre-training.')
    if with_decoder and target.name not in ('mae', 'hf-mae'):
        raise CheckpointError(f'{target.title} has no decoder: use --to mae or --to hf-mae, or leave it out.')
    if not with_decoder:
        encoder = replace(encoder, decoder={}, decoder_heads=None)
    title = target.title
    extra = {*encoder.relative_positions, *(name for name in encoder.weights if name.endswith('.gamma'))}
    unknown = [name for name in encoder.weights if name not in extra and not _is_plain(name)]
    if unknown:
        raise CheckpointError(
            f'A plain ViT has no place for {summary(unknown)}, which the features of this encoder depend on.'
        )
    if target.any_vit:
        return encoder
    if encoder.relative_positions:
        raise CheckpointError(
            f'{title} has no relative positions, so it cannot be equal to this encoder '
            f'({summary(encoder.relative_positions)}): use --to mixedae.'
        )
    for name in ('cls_token', 'pos_embed'):
        if name not in encoder.weights:
            raise CheckpointError(f'{title} needs {name}, which this encoder does not have: use --to mixedae.')
    if target.needs_norm and not encoder.has_norm:
        raise CheckpointError(
            f'{title} has a LayerNorm after the last block, which this encoder lacks (it was fine-tuned without it, or '
            'with one for pooled features): use --to mae, mmpretrain or mixedae.'
        )
    if target.needs_heads and encoder.num_heads is None:
        raise CheckpointError(
            f'The number of heads of an encoder of width {encoder.embed_dim} is not known: give it with --heads.'
        )
    weights, notes = dict(encoder.weights), list(encoder.notes)
    folded = _fold(weights)
    if folded:
        notes.append(f'layer scale of {folded} blocks multiplied into the projections before it, which is the same')
    added = []
    for i in range(encoder.depth):
        if f'blocks.{i}.attn.qkv.bias' not in weights:
            weights[f'blocks.{i}.attn.qkv.bias'] = torch.zeros(3 * encoder.embed_dim)
            added.append(i)
    if 'patch_embed.proj.bias' not in weights:
        weights['patch_embed.proj.bias'] = torch.zeros(encoder.embed_dim)
        added.append('patch embedding')
    if added:
        notes.append(f'zeros written for biases that the file does not have ({len(added)})')
    return replace(encoder, weights=weights, notes=tuple(notes))


def _fold(weights: StateDict) -> int:
    """Folds layer scale in place; gives the number of blocks."""
    converted = Converted(weights, dict.fromkeys(weights, ()))
    return len(fold_layer_scale(converted)) // 2


def _is_plain(name: str) -> bool:
    if name in ('cls_token', 'pos_embed'):
        return True
    part = name.split('.', 2)[2] if name.startswith('blocks.') else name
    kinds = ('patch_embed.proj', 'norm', 'norm1', 'attn.qkv', 'attn.proj', 'norm2', 'mlp.fc1', 'mlp.fc2')
    return part.rpartition('.')[0] in kinds and part.rpartition('.')[2] in ('weight', 'bias')


def name_for(encoder: EncoderWeights, target: Target) -> StateDict:
    """The weights under the library's names."""
    renamed = target.rename(encoder.weights)
    if encoder.decoder:
        if target.name == 'hf-mae':
            renamed = {f'vit.{name}': weight for name, weight in renamed.items()}
            renamed.update(to_huggingface_decoder(encoder.decoder, encoder.grid))
        else:
            renamed.update(to_mae_decoder(encoder.decoder, encoder.grid))
    return renamed


def pretext(facts: Facts) -> str | None:
    """A sentence on what of the pretext task does not come along, for the model card."""
    model = parse_config(facts.config or '').get('model')
    if not isinstance(model, dict):
        return None
    kind = str(model.get('type')).rpartition('.')[2]
    if kind == 'MixedAE':
        topk = model.get('topk_ratio', 0.25)
        attention = f'TopK attention (K/L = {topk}) in all blocks but the first' if topk else 'plain attention'
        group = round(1 / (model.get('mixing_ratio') or 0.25))
        return (
            f'Pre-trained with MixedAE: mixes of {group} images, segment embeddings, {attention}. The converted '
            'encoder is a plain ViT: one image, no segment embedding (their mean over the group is zero), global '
            'attention in every block, as it is used in transfer.'
        )
    if kind == 'MAE':
        return 'Pre-trained as a masked autoencoder (MAE).'
    return None
