"""Loading a state dict of any known format into ``MixedAEViT``, with a report of every name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mixedae.checkpoints.checking import check_blockers, check_facts, check_weights
from mixedae.checkpoints.facts import Facts
from mixedae.checkpoints.fitting import (
    Grid,
    check_source_grid,
    fit_axis_table,
    fit_bias_table,
    fit_patch_embed,
    fit_pos_embed,
)
from mixedae.checkpoints.formats import FORMATS, Converted, find_format, fold_layer_scale, unwrap_names
from mixedae.checkpoints.formats.base import BIAS_TABLE, SHARED_TABLE, block_numbers, share_out_table
from mixedae.checkpoints.reading import CheckpointError
from mixedae.checkpoints.report import LoadReport, summary
from mixedae.checkpoints.selecting import Weights, open_weights


def load_pretrained(
    backbone: nn.Module,
    checkpoint: str | Path,
    *,
    prefix: str | None = None,
    weights: str = 'auto',
    log: bool = True,
    **options: object,
) -> LoadReport:
    """Loads a checkpoint file of any known format into a ``MixedAEViT``.

    Args:
        backbone: see :func:`load_backbone`.
        checkpoint: a local file, or a folder of Hugging Face.
        prefix: take the names under it alone; needed only where a file holds several encoders.
        weights: which set of weights, see :func:`mixedae.checkpoints.open_weights`.
        log: write the report to the current MMEngine logger.
        options: ``adapt_patch_embed``, ``partial``, ``source_grid`` of :func:`load_backbone`.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it cannot be read or does not fit.
    """
    unknown = set(options) - {'adapt_patch_embed', 'partial', 'source_grid'}
    if unknown:
        raise ValueError(
            f"init_cfg=dict(type='Pretrained', ...) has no setting {sorted(unknown)[0]!r}: it takes checkpoint, "
            'prefix, weights, adapt_patch_embed, partial and source_grid.'
        )
    opened = open_weights(checkpoint, weights)
    state_dict = opened.state_dict
    if prefix:
        prefix = prefix.rstrip('.') + '.'
        state_dict = {name[len(prefix) :]: value for name, value in state_dict.items() if name.startswith(prefix)}
        if not state_dict:
            raise CheckpointError(f'{checkpoint} has no weight under the prefix {prefix!r}.')
    report = load_backbone(backbone, state_dict, source=str(checkpoint), facts=opened.facts, log=False, **options)
    report.notes[:0] = choice_notes(opened)
    if log:
        print_log(str(report), logger='current')
    return report


def choice_notes(opened: Weights) -> list[str]:
    """Which of several sets of weights was taken."""
    if not opened.others:
        return []
    text = f'its weights {opened.key!r} were taken; it also has {", ".join(opened.others)}'
    if opened.key == 'state_dict' and 'ema_state_dict' in opened.others:
        text += " (MMEngine's EMA hook: 'state_dict' holds the averaged weights)"
    return [text]


def load_backbone(
    backbone: nn.Module,
    state_dict: dict[str, Tensor],
    *,
    source: str = 'state dict',
    adapt_patch_embed: bool = False,
    partial: bool = False,
    source_grid: Grid | None = None,
    facts: Facts | None = None,
    log: bool = True,
) -> LoadReport:
    """Loads weights of a known format (see :mod:`mixedae.checkpoints.formats`) into a ``MixedAEViT``.

    Positions of another grid are resampled (:mod:`mixedae.checkpoints.fitting`). Layer scale for which the backbone has
    no place is multiplied into the projection before it, which is the same. Weights are cast to the backbone's type.

    Args:
        backbone: has timm's parameter names and the attributes ``grid`` (h, w) and ``num_prefix_tokens``.
        state_dict: as :func:`mixedae.checkpoints.read_checkpoint` returns it.
        source: file name for messages.
        adapt_patch_embed: resample the patch embedding to another patch size, and sum or repeat its channels for
            another number of them; an error otherwise.
        partial: leave out also what the features of the file's model depend on and the backbone has no place for
            (relative positions, further tokens); an error otherwise.
        source_grid: ``(h, w)`` in patches that the file was trained with, where it is neither square nor told by the
            file.
        facts: what the file says of itself.
        log: write the report to the current MMEngine logger.

    Raises:
        CheckpointError: no format matches, a weight has another shape than the backbone's (another width, another
            patch size, fewer blocks), or is not finite; the backbone is then as it was.
    """
    facts = facts or Facts()
    target = backbone.state_dict()
    converted, report = convert(state_dict, source)
    check_blockers(converted, report, partial)
    _place(converted, target, report)
    table = converted.weights.get('pos_embed')
    grid = check_source_grid(table if table is not None and table.ndim > 1 else None, source_grid, source) or facts.grid
    new_weights = _fit(converted, backbone, target, report, adapt_patch_embed, grid)
    check_weights(new_weights, converted, target, report, partial)
    check_facts(backbone, facts, report)
    zeros = [
        name
        for name in target
        if name.endswith(('qkv.bias', 'proj.bias')) and name[:-4] + 'weight' in new_weights and name not in new_weights
    ]
    if zeros:
        report.notes.append(f'biases that it does not have were set to zero: {summary(zeros)}')
    if 'pos_embed' in target and 'pos_embed' not in new_weights and _has_relative_positions(new_weights):
        zeros.append('pos_embed')
        report.notes.append(
            'it has relative positions alone: the table of absolute positions was set to zero '
            '(abs_pos_embed=False leaves it out)'
        )
    with torch.no_grad():
        for name, weight in new_weights.items():
            target[name].copy_(weight)
        for name in zeros:
            target[name].zero_()
    if hasattr(backbone, 'forget_pos_embed'):
        backbone.forget_pos_embed()
    report.loaded = {name: converted.sources[name] for name in new_weights}
    report.missing = [name for name in target if name not in new_weights and name not in zeros]
    if 'norm.weight' in report.missing:
        report.notes.append("it has no LayerNorm after the last block: out_norm='none' gives equal features")
    if 'pos_embed' in report.missing:
        report.notes.append('it has no absolute positions: abs_pos_embed=False gives equal features')
    if log:
        print_log(str(report), logger='current')
    return report


def convert(state_dict: dict[str, Tensor], source: str) -> tuple[Converted, LoadReport]:
    """Recognises a state dict and gives its weights under the backbone's names, with a report begun.

    Raises:
        CheckpointError: no format matches.
    """
    try:
        unwrapped, names = unwrap_names(state_dict)
        entry = find_format(unwrapped)
        if entry is None:
            known = ', '.join(known.name for known in FORMATS)
            raise CheckpointError(
                f'{source} holds no weights of a plain vision transformer: none of its {len(state_dict)} names '
                f'({summary(list(state_dict))}) matches a known format ({known}).'
            )
        converted = entry.convert(unwrapped)
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f'{source} cannot be loaded: {error}.') from None
    converted.sources = {name: tuple(names[n] for n in sources) for name, sources in converted.sources.items()}
    converted.left_out = {names[name]: reason for name, reason in converted.left_out.items()}
    converted.blockers = {names[name]: reason for name, reason in converted.blockers.items()}
    return converted, LoadReport(source, entry.name, left_out=dict(converted.left_out))


def _place(converted: Converted, target: dict[str, Tensor], report: LoadReport) -> None:
    """Folds layer scale and shares out BEiT's common table where the backbone has no place for them."""
    blocks = block_numbers(target)
    without = [i for i in blocks if f'blocks.{i}.ls1.gamma' not in target]
    folded = fold_layer_scale(converted, without)
    if folded:
        report.notes.append(
            f'layer scale of {len(folded) // 2} blocks multiplied into the projections before it, which is the same'
        )
    if SHARED_TABLE in converted.weights and SHARED_TABLE not in target:
        share_out_table(converted, blocks)


def _fit(
    converted: Converted,
    backbone: nn.Module,
    target: dict[str, Tensor],
    report: LoadReport,
    adapt_patch_embed: bool,
    source_grid: Grid | None,
) -> dict[str, Tensor]:
    """The weights that have a place in the backbone, resampled where they must be."""
    fitted, dtypes = {}, set()
    prefix = backbone.num_prefix_tokens
    for name, weight in converted.weights.items():
        if name not in target:
            continue
        wanted = target[name]
        dtypes.add(str(weight.dtype).removeprefix('torch.'))
        weight = weight.float() if weight.is_floating_point() else weight
        change = f'{_size(weight)} -> {_size(wanted)}'
        if name == 'pos_embed':
            weight, change = fit_pos_embed(weight, wanted, tuple(backbone.grid), prefix, source_grid, report.source)
        elif name.endswith(BIAS_TABLE):  # rows alone do not tell 3 x 5 from 5 x 3
            place = backbone if name == SHARED_TABLE else backbone.blocks[int(name.split('.')[1])].attn
            old, weight = weight, fit_bias_table(weight, wanted, tuple(place.rel_pos_grid), prefix, source_grid)
            change = '' if torch.equal(old, weight) else change
        elif weight.shape == wanted.shape:
            change = ''
        elif name.endswith(('.rel_pos_h', '.rel_pos_w')):
            weight = fit_axis_table(weight, wanted)
        elif name == 'patch_embed.proj.weight' and adapt_patch_embed:
            weight = fit_patch_embed(weight, wanted)
        if weight.shape != wanted.shape:
            raise CheckpointError(_misfit(report.source, name, weight, wanted))
        if change:
            report.resampled[name] = change
        fitted[name] = weight
    if dtypes - {'float32'}:
        report.notes.append(f'stored as {", ".join(sorted(dtypes))}')
    return fitted


def _misfit(source: str, name: str, weight: Tensor, wanted: Tensor) -> str:
    shapes = f'{tuple(weight.shape)} in the file and {tuple(wanted.shape)} in the backbone'
    what = f'{source} does not fit the backbone: {name} is {shapes}'
    if name == 'patch_embed.proj.weight' and weight.ndim == 4 and weight.shape[0] == wanted.shape[0]:
        return (
            f'{what}; set the same patch_size and in_channels in the config, or adapt_patch_embed=True in init_cfg, '
            'which resamples it.'
        )
    if name.endswith((BIAS_TABLE, '.rel_pos_h', '.rel_pos_w')):
        return f'{what}; set the same number of heads, or give source_grid=(rows, columns) if it is not square.'
    return f'{what}; set the same arch and patch_size in the config.'


def _has_relative_positions(names: Iterable[str]) -> bool:
    return any(name.endswith((BIAS_TABLE, '.rel_pos_h')) for name in names)


def _size(weight: Tensor) -> str:
    return ' x '.join(map(str, weight.shape))
