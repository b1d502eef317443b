"""Refusals of weights that do not make the backbone what the file's model was."""

from __future__ import annotations

import re

from torch import Tensor, nn

from mixedae.checkpoints.facts import Facts
from mixedae.checkpoints.formats import Converted
from mixedae.checkpoints.formats.base import BIAS_TABLE, SHARED_TABLE, UNKNOWN, block_numbers
from mixedae.checkpoints.reading import CheckpointError
from mixedae.checkpoints.report import LoadReport, summary


def check_blockers(converted: Converted, report: LoadReport, partial: bool) -> None:
    known = {name: what for name, what in converted.blockers.items() if what != UNKNOWN}
    if known and not partial:
        raise CheckpointError(
            f'{report.source} has {next(iter(known.values()))} ({summary(list(known))}), which this backbone does not '
            'have: its features would be others than that model has. partial=True loads the rest nevertheless.'
        )
    if converted.blockers and not partial:
        raise CheckpointError(
            f'{report.source} has {UNKNOWN} ({summary(list(converted.blockers))}): the features of its model may '
            'depend on them. partial=True loads the rest nevertheless.'
        )
    for name, what in converted.blockers.items():
        change = ', which this backbone does not have (its features change)' if name in known else ''
        report.left_out[name] = f'{what}{change}'


def check_weights(
    new_weights: dict[str, Tensor], converted: Converted, target: dict[str, Tensor], report: LoadReport, partial: bool
) -> None:
    """Enough blocks, nothing lost that the features depend on, finite values; completes ``report.left_out``."""
    if not block_numbers(new_weights):
        raise CheckpointError(
            f'{report.source} was taken for {report.format}, but no weight of its blocks fits the backbone.'
        )
    found, wanted = block_numbers(new_weights), block_numbers(target)
    if len(found) < len(wanted):
        gaps = [i for i in wanted if i not in found]
        detail = '' if gaps[0] == len(found) else f' (block {gaps[0]} is missing)'
        raise CheckpointError(
            f'{report.source} has {len(found)} blocks, the backbone {len(wanted)}{detail}; set the same arch in the '
            'config.'
        )
    in_file = block_numbers(converted.weights)
    if 'norm.weight' in target and 'norm.weight' in new_weights and in_file[-1] > wanted[-1]:
        raise CheckpointError(
            f'{report.source} has {len(in_file)} blocks, the backbone {len(wanted)}: its final LayerNorm does not '
            f"belong after block {wanted[-1]}; set the same arch in the config, or out_norm='none'."
        )
    lost = []
    for name in converted.weights:
        if name in new_weights:
            continue
        reason = _reason(name, wanted)
        if reason is None:
            lost.append(name)
            reason = 'no place in the backbone (its features change)'
        for file_name in converted.sources[name]:
            report.left_out.setdefault(file_name, reason)
    if lost and not partial:
        raise CheckpointError(
            f'{report.source} has weights that its features depend on and that the backbone has no place for: '
            f'{summary(lost)}. {_remedy(lost[0])}partial=True loads the rest nevertheless.'
        )
    core = [n for n in target if re.fullmatch(r'blocks\.\d+\.(norm[12]|attn\.(qkv|proj)|mlp\.fc[12])\.weight', n)]
    core += ['patch_embed.proj.weight']
    absent = [name for name in core if name not in new_weights]
    if absent and not partial:
        raise CheckpointError(
            f'{report.source} lacks {len(absent)} weights that every ViT has: {summary(absent)}; is the file complete? '
            'partial=True loads the rest nevertheless.'
        )
    broken = [name for name, weight in new_weights.items() if not weight.is_floating_point()]
    broken += [name for name, weight in new_weights.items() if name not in broken and not weight.isfinite().all()]
    if broken:
        raise CheckpointError(
            f'{report.source} holds {len(broken)} weights with values that are not finite numbers (first: {broken[0]}).'
        )


def _reason(name: str, blocks: list[int]) -> str | None:
    """Why a weight with a backbone's name may stay behind; None if the features would change."""
    match = re.match(r'blocks\.(\d+)\.', name)
    if match and int(match[1]) not in blocks:
        return 'a block after the last output'
    if name.startswith(('norm.', 'out_norms.')):
        return 'a LayerNorm that this out_norm does not use'
    if name == 'cls_token':
        return 'this backbone has no [CLS]'
    return None


def _remedy(name: str) -> str:
    """The backbone's setting that has a place for the weight."""
    if name == SHARED_TABLE or name.endswith(BIAS_TABLE):
        return "Set rel_pos='table' in the backbone, or "
    if name.endswith(('.rel_pos_h', '.rel_pos_w')):
        return "Set rel_pos='decomposed' in the backbone, or "
    if name == 'pos_embed':
        return 'Set abs_pos_embed=True in the backbone, or '
    return ''


def check_facts(backbone: nn.Module, facts: Facts, report: LoadReport) -> None:
    """Heads and epsilon leave no trace in the weights, so what the file says of them is compared."""
    heads = getattr(backbone.blocks[0].attn, 'num_heads', None)
    if facts.num_heads and heads and facts.num_heads != heads:
        raise CheckpointError(
            f'{report.source} was trained with {facts.num_heads} attention heads and the backbone has {heads}: the '
            'weights would fit and mean something else; set the same arch in the config.'
        )
    eps = getattr(backbone.blocks[0].norm1, 'eps', None)
    if facts.norm_eps is not None and eps is not None and abs(facts.norm_eps - eps) > 1e-3 * max(eps, facts.norm_eps):
        report.notes.append(
            f'its LayerNorms have epsilon {facts.norm_eps:g}, the backbone has {eps:g}; norm_eps={facts.norm_eps:g} '
            'gives equal features'
        )
