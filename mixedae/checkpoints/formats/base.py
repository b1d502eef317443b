"""What all formats share: renaming by rules, joining split projections, unwrapping, folding layer scale.

The backbone's names are timm's: ``cls_token``, ``pos_embed``, ``patch_embed.proj.*``, ``blocks.I.{norm1, attn.qkv,
attn.proj, ls1, norm2, mlp.fc1, mlp.fc2, ls2}.*``, ``norm.*``; relative positions are BEiT's
``blocks.I.attn.relative_position_bias_table`` and ViTDet's ``blocks.I.attn.rel_pos_h``, ``rel_pos_w``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

StateDict = dict[str, Tensor]
Rules = Iterable[tuple[str, str]]

WRAPPERS = ('module', '_orig_mod', '_fsdp_wrapped_module', '_checkpoint_wrapped_module')
"""Parts that DistributedDataParallel, torch.compile, FSDP and activation checkpointing put into names."""

BACKBONE_NAMES = r'(?:cls_token|pos_embed|(?:patch_embed\.proj|blocks|norm|out_norms|rel_pos_bias)\..+)'
"""A name of the backbone, as a regular expression."""

BIAS_TABLE = 'relative_position_bias_table'
SHARED_TABLE = f'rel_pos_bias.{BIAS_TABLE}'

REASONS = (
    (r'(?:.*\.)?relative_position_index', 'an index that is computed anew'),
    (r'(?:.*\.)?(?:mask_token|masked_embed)', "the pretext task's mask token"),
    (r'(?:neck\.)?decoder[._].+|.*\.decoder_.+', "the pretext task's decoder"),
    (r'fc_norm\..+|.*\.fc_norm\..+', 'normalises pooled features, not the tokens'),
    (r'(?:.*\.)?(?:pooler|attn_pool)\..+', 'pools tokens for a classifier'),
    (
        r'fc\..+|(?:.*\.)?(?:head|heads|head_dist|pre_logits|\w*classifier|lm_head|cls_head|predictor)\..+',
        'a classifier or projection head',
    ),
    (r'projector\..+', 'the projector of the contrastive loss'),
    (r'(?:.*\.)?(?:logit_scale|logit_bias|temperature)', 'scales a loss'),
    (r'(?:.*\.)?segment_embed', 'the segment embedding of pre-training'),
    (r'(?:neck|rpn_head|roi_head|bbox_head|mask_head|decode_head|auxiliary_head)\..+', 'neck, head'),
    (r'(?:backbone\.simfp_\d+|proposal_generator|roi_heads|fpn\d?)\..+', 'neck, head'),
    (r'(?:data_preprocessor|pixel_mean|pixel_std)\b.*', 'normalises pixels'),
    (r'initted|steps', 'a counter'),
    (r'(?:optimizer|scheduler|scaler|criterion|queue|queue_ptr)\b.*', 'a state of training'),
    (r'(?:text|text_model|text_encoder|language_model|teacher\w*|momentum\w*)\..+', 'another model of the file'),
)
"""Why a name stays behind; the first pattern that matches the whole name counts."""

BLOCKERS = (
    (r'(?:embeddings\.)?(?:reg_token|register_tokens|dist_token|distillation_token)', 'tokens besides [CLS]'),
    (r'(?:norm_pre|pre_norm|ln_pre)\..+', 'a LayerNorm before the first block'),
    (r'(?:rope|rope_embed|pos_conv|patch_embed\.(?:backbone|norm|stem))\..+', 'another kind of stem or positions'),
)
"""Parts of other vision transformers that MixedAEViT does not have; without them its features would be wrong."""

UNKNOWN = 'weights of a part that is not known'
"""Blocks too: what stands with the encoder's names, has no rule and is not among the reasons."""


@dataclass
class Converted:
    """Weights of a file under the backbone's names.

    Attributes:
        weights: by the backbone's names.
        sources: for each of them the names in the file that it was made of.
        left_out: name in the file to the reason why it has no place in any backbone.
        blockers: name in the file to what it is, for parts that the features (may) depend on and no backbone has.
    """

    weights: StateDict = field(default_factory=dict)
    sources: dict[str, tuple[str, ...]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    blockers: dict[str, str] = field(default_factory=dict)

    def put(self, name: str, weight: Tensor, *sources: str) -> None:
        """Enters a weight with the names in the file that it was made of."""
        if name in self.weights:
            raise ValueError(f'both {", ".join(sources)} and {", ".join(self.sources[name])} would become {name}')
        self.weights[name] = weight
        self.sources[name] = sources

    def take(self, name: str) -> tuple[Tensor, tuple[str, ...]]:
        """Takes a weight out again, to put it back under another name."""
        return self.weights.pop(name), self.sources.pop(name)


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        name: for reports.
        matches: says whether a state dict, its names unwrapped, has this format.
        convert: gives its weights under the backbone's names.
    """

    name: str
    matches: Callable[[StateDict], bool]
    convert: Callable[[StateDict], Converted]


def unwrap_names(state_dict: StateDict) -> tuple[StateDict, dict[str, str]]:
    """Takes the parts that wrappers add out of the names; also gives ``{new name: name in the file}``.

    Raises:
        ValueError: two names become the same.
    """
    unwrapped, names = {}, {}
    for name, weight in state_dict.items():
        parts = name.split('.')
        while parts[0] in WRAPPERS and len(parts) > 1:
            parts = parts[1:]
        new_name = '.'.join(part for part in parts if part not in WRAPPERS[1:])
        if new_name in unwrapped:
            raise ValueError(f'{names[new_name]} and {name} are the same weight without what wrappers add to names.')
        unwrapped[new_name], names[new_name] = weight, name
    return unwrapped, names


def has_name(pattern: str) -> Callable[[StateDict], bool]:
    """A test whether any name begins as the pattern says."""
    compiled = re.compile(pattern)
    return lambda state_dict: any(compiled.match(name) for name in state_dict)


def rename(state_dict: StateDict, prefix: str, rules: Rules, reasons: Rules = ()) -> Converted:
    """Renames the weights of the encoder and says why the rest stays behind.

    Args:
        state_dict: names unwrapped.
        prefix: regular expression of what stands before the encoder's names.
        rules: regular expressions of whole names after the prefix, and their replacements; the first that fits counts.
        reasons: regular expressions of whole names after the prefix that stay behind, and why; beside ``REASONS``.
    """
    compiled = [(re.compile(prefix + pattern), replacement) for pattern, replacement in rules]
    blockers = [(prefix + pattern, text) for pattern, text in BLOCKERS]
    reasons = [*((prefix + pattern, text) for pattern, text in reasons), *REASONS]
    converted = Converted()
    for name, weight in state_dict.items():
        reason = first_match(name, blockers)
        if reason:
            converted.blockers[name] = reason
            continue
        reason = first_match(name, REASONS[:1])
        new = new_name(name, compiled) if not reason else None
        if new is not None:
            converted.put(new, weight, name)
            continue
        reason = reason or first_match(name, reasons)
        if reason is None and re.match(prefix, name):
            converted.blockers[name] = UNKNOWN
        else:
            converted.left_out[name] = reason or 'no part of a ViT encoder'
    return finish(converted)


def rename_all(weights: StateDict, rules: Rules) -> StateDict:
    """Renames weights of which every one has a rule.

    Raises:
        KeyError: one has none.
    """
    renamed = {}
    for name, weight in weights.items():
        new = new_name(name, rules)
        if new is None:
            raise KeyError(f'no rule for the weight {name}')
        renamed[new] = weight
    return renamed


def new_name(name: str, rules: Iterable[tuple[str | re.Pattern[str], str]]) -> str | None:
    """The name that the first rule makes of it whose pattern is the whole name; None where there is none."""
    for pattern, replacement in rules:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(replacement)
    return None


def first_match(name: str, table: Iterable[tuple[str, str]]) -> str | None:
    """The text of the first pattern that matches the whole name."""
    return next((text for pattern, text in table if re.fullmatch(pattern, name)), None)


def finish(converted: Converted) -> Converted:
    """Brings what formats write in several ways to one: layer scale; q, k and v."""
    for name in list(converted.weights):
        match = re.fullmatch(r'(blocks\.\d+)\.gamma_([12])', name)
        if match:
            weight, sources = converted.take(name)
            converted.put(f'{match[1]}.ls{match[2]}.gamma', weight, *sources)
    for block in block_numbers(converted.weights):
        _join_qkv(converted, f'blocks.{block}.attn.')
    return converted


def _join_qkv(converted: Converted, prefix: str) -> None:
    """q, k, v of their own, or BEiT's biases for q and v alone, become ``qkv``: rows of q, then k, then v."""
    for kind in ('weight', 'bias'):
        names = [f'{prefix}{letter}.{kind}' for letter in 'qkv']
        found = [name for name in names if name in converted.weights]
        if not found:
            continue
        if kind == 'weight' and len(found) < 3:
            raise ValueError(f'of q, k and v of {prefix.rstrip(".")} only {len(found)} are there')
        like = converted.weights[found[0]]
        parts, sources = [], []
        for name in names:  # BEiT's keys have no bias: zero
            weight, source = converted.take(name) if name in found else (torch.zeros_like(like), ())
            parts.append(weight)
            sources.extend(source)
        converted.put(f'{prefix}qkv.{kind}', torch.cat(parts), *sources)
    biases = [f'{prefix}q_bias', f'{prefix}v_bias']
    if all(name in converted.weights for name in biases):
        (q, q_source), (v, v_source) = (converted.take(name) for name in biases)
        converted.put(f'{prefix}qkv.bias', torch.cat([q, torch.zeros_like(q), v]), *q_source, *v_source)


def fold_layer_scale(converted: Converted, blocks: Iterable[int] | None = None) -> list[str]:
    """Multiplies layer scale into the projection before it, which changes no output; gives the folded names."""
    folded = []
    for block in block_numbers(converted.weights) if blocks is None else blocks:
        for scale, projection in (('ls1', 'attn.proj'), ('ls2', 'mlp.fc2')):
            name = f'blocks.{block}.{scale}.gamma'
            if name not in converted.weights:
                continue
            gamma, gamma_sources = converted.take(name)
            gamma = gamma.float().flatten()
            for kind in ('weight', 'bias'):
                target = f'blocks.{block}.{projection}.{kind}'
                if target in converted.weights:
                    weight, sources = converted.take(target)
                    scaled = weight.float() * (gamma[:, None] if kind == 'weight' else gamma)
                    converted.put(target, scaled, *sources, *gamma_sources)
            folded.append(name)
    return folded


def share_out_table(converted: Converted, blocks: Iterable[int]) -> None:
    """Gives each block its copy of the one table of relative positions of BEiT's pre-training."""
    if SHARED_TABLE in converted.weights:
        weight, sources = converted.take(SHARED_TABLE)
        for block in blocks:
            converted.put(f'blocks.{block}.attn.{BIAS_TABLE}', weight, *sources)


def block_numbers(names: Iterable[str]) -> list[int]:
    """Numbers of the blocks that the names speak of, rising."""
    found = (re.match(r'blocks\.(\d+)\.', name) for name in names)
    return sorted({int(match[1]) for match in found if match})
