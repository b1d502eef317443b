"""MAE's decoder: ours has the same parts, so a pre-training checkpoint goes on in MAE's code and in ViTMAE."""

from __future__ import annotations

import inspect

from torch import Tensor

from mixedae.checkpoints.facts import Facts, parse_config
from mixedae.checkpoints.fitting import Grid
from mixedae.checkpoints.formats.base import StateDict, rename_all, unwrap_names
from mixedae.checkpoints.formats.huggingface import to_huggingface
from mixedae.layers import sincos_pos_embed

_TO_MAE = (
    (r'embed\.(.+)', r'decoder_embed.\1'),
    (r'(mask_token)', r'\1'),
    (r'blocks\.(.+)', r'decoder_blocks.\1'),
    (r'norm\.(.+)', r'decoder_norm.\1'),
    (r'pred\.(.+)', r'decoder_pred.\1'),
)


def decoder_of(state_dict: StateDict, facts: Facts) -> tuple[StateDict, int | None]:
    """The decoder of our pre-training under its own names, and its number of heads; empty for other checkpoints.

    A config that leaves the decoder or its heads out means the default of :class:`mixedae.models.decoder.Decoder`.
    """
    from mixedae.models.decoder import Decoder  # not at the top: models import checkpoints

    state_dict, _ = unwrap_names(state_dict)
    decoder = {
        name.removeprefix('decoder.'): weight.detach().float()
        for name, weight in state_dict.items()
        if name.startswith('decoder.') and 'decoder.pred.weight' in state_dict and 'encoder.norm.weight' in state_dict
    }
    model = parse_config(facts.config or '').get('model')
    if not decoder or not isinstance(model, dict):
        return decoder, None
    settings, kind = model.get('decoder'), str(model.get('type')).rpartition('.')[2]
    if settings is None and kind in ('MixedAE', 'MAE'):
        settings = {}
    use_cls = settings.get('use_cls') if kind == 'MAE' and isinstance(settings, dict) else model.get('decoder_cls')
    if use_cls is False:
        return {}, None  # the decoder of MAE's code always has [CLS]
    if not isinstance(settings, dict):
        return decoder, None
    heads = settings.get('num_heads', inspect.signature(Decoder).parameters['num_heads'].default)
    return decoder, heads if isinstance(heads, int) else None


def to_mae_decoder(decoder: StateDict, grid: Grid) -> StateDict:
    """Names of MAE's ``models_mae.py``; its fixed positions are written, ours are computed."""
    renamed = {'decoder_pos_embed': _positions(decoder, grid), **rename_all(decoder, _TO_MAE)}
    return {name: value.reshape(1, 1, -1) if name == 'mask_token' else value for name, value in renamed.items()}


def to_huggingface_decoder(decoder: StateDict, grid: Grid) -> StateDict:
    """Names of ``ViTMAEForPreTraining``."""
    renamed = {'decoder.decoder_pos_embed': _positions(decoder, grid)}
    blocks = {name: weight for name, weight in decoder.items() if name.startswith('blocks.')}
    for name, weight in to_huggingface(blocks).items():
        renamed[name.replace('encoder.layer.', 'decoder.decoder_layers.', 1)] = weight
    for name, weight in to_mae_decoder({n: w for n, w in decoder.items() if n not in blocks}, grid).items():
        renamed[f'decoder.{name}'] = weight
    return renamed


def _positions(decoder: StateDict, grid: Grid) -> Tensor:
    return sincos_pos_embed(decoder['embed.weight'].shape[0], grid, num_prefix_tokens=1)
