"""The pre-trainings that are compared, and how long each may be so that all cost the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tools.reproduce_parts.budgets import Budget

OBJECTS, MOVED, SCENES = 'object crops', 'random crops', 'whole scenes'


@dataclass(frozen=True)
class Variant:
    """One way to pre-train.

    Attributes:
        title: as it stands in the tables.
        model: overrides of MixedAE's config; `type` other than MixedAE replaces it.
        windows: what is cut from the scenes.
        trained: False: random weights, no pre-training.
        share: source images of a step as a share of the budget's batch.
    """

    title: str
    model: Mapping[str, Any] = field(default_factory=dict)
    windows: str = OBJECTS
    trained: bool = True
    share: float = 1.0


VARIANTS = {
    'scratch': Variant('from scratch', trained=False),
    'mae': Variant('MAE', dict(type='mixedae.MAE')),
    'naive': Variant('naive mixing', dict(segment_embed=False, topk_ratio=None, contrastive_weight=0.0)),
    'mixedae': Variant('MixedAE'),
    'attention': Variant('attention only', dict(contrastive_weight=0.0)),
    'contrastive': Variant('contrastive only', dict(topk_ratio=None)),
    'scenes': Variant('MixedAE on whole scenes', windows=SCENES),
    'moved': Variant('MixedAE on random crops', windows=MOVED),
    'no_segment': Variant('MixedAE without segment embedding', dict(segment_embed=False)),
    # g mixes of each group: a quarter of the source images gives as many sequences in a step, as the paper's batches of
    # 1024 (full) and 4096 (compose).
    'full': Variant('MixedAE, full mode', dict(mode='full'), share=0.25),
    'wide': Variant('MixedAE, K = 0.5 L', dict(topk_ratio=0.5)),
    'no_cls': Variant('MixedAE, decoder without [CLS]', dict(decoder_cls=False)),
}

ORDER = tuple(VARIANTS)
ON_REQUEST = ('wide', 'no_cls')
"""Choices that are tried where a claim does not hold; left out unless they are named."""


def model_config(variant: Variant, budget: Budget) -> dict[str, Any]:
    """The whole `model` of a variant's config."""
    width, depth, heads = budget.light_decoder if variant.model.get('mode') == 'full' else budget.decoder
    common = dict(
        data_preprocessor=dict(
            type='mmengine.ImgDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]
        ),
        encoder=dict(arch=budget.arch, img_size=budget.crop, patch_size=16),
        decoder=dict(embed_dim=width, depth=depth, num_heads=heads),
    )
    if variant.model.get('type') == 'mixedae.MAE':
        return dict(type='mixedae.MAE', **common, mask_ratio=0.75)
    return dict(type='mixedae.MixedAE', **common, **{k: v for k, v in variant.model.items() if k != 'type'})


def topk_ratio(variant: Variant) -> float:
    """K / L for an encoder that is to attend by TopK after transfer: as it was pre-trained, 0.25 where it was not."""
    return variant.model.get('topk_ratio') or 0.25


def batch_size(variant: Variant, budget: Budget) -> int:
    """Source images of a step."""
    return round(budget.batch * variant.share)


def operations(variant: Variant, budget: Budget) -> float:
    """Multiply-adds of forward for one source image, as tools/get_flops.py counts them."""
    import mixedae  # noqa: F401  (registers the models)
    from mixedae.analysis.operations import count_operations
    from mixedae.registry import MODELS

    return count_operations(MODELS.build(model_config(variant, budget))).total


def equal_iterations(reference: tuple[int, float], step: float) -> int:
    """Iterations that cost as much as the reference.

    Args:
        reference: (iterations, operations of a step) of the reference.
        step: operations of a step of the other.

    Raises:
        ValueError: a step that costs nothing, or more than the whole reference.
    """
    iterations, cost = reference
    if not step > 0 or not cost > 0:
        raise ValueError(f'Operations of a step must be above 0, not {cost} and {step}.')
    count = round(iterations * cost / step)
    if count < 1:
        raise ValueError(f'One step of {step:.3g} operations is more than all {iterations} of {cost:.3g}.')
    return count


def schedule(names: list[str], budget: Budget) -> dict[str, dict[str, float]]:
    """For each variant: iterations, source images, operations of an image and in all (multiply-adds of forward)."""
    base = operations(VARIANTS['mixedae'], budget) * batch_size(VARIANTS['mixedae'], budget)
    plan = {}
    for name in names:
        variant = VARIANTS[name]
        if not variant.trained:
            plan[name] = dict(iterations=0, images=0, batch=0, operations_per_image=0.0, operations=0.0)
            continue
        per_image, batch = operations(variant, budget), batch_size(variant, budget)
        count = equal_iterations((budget.iterations, base), per_image * batch)
        plan[name] = dict(
            iterations=count,
            images=count * batch,
            batch=batch,
            operations_per_image=per_image,
            operations=count * batch * per_image,
        )
    return plan
