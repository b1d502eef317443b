"""What all verdicts are made of: windows of a curve, errors, and facts of the config."""

from __future__ import annotations

import math

import numpy as np

from tools.report_parts.run import Run

Verdict = tuple[str, str, str]  # kind (good, even, bad, note), headline, sentence

OURS = (
    'three pre-training runs of ViT-Ti/16 at 128 px on photographs, 4,000 iterations of 64 object crops each: as '
    'configured, without the contrastive loss, and with segment_embed=False; their figures are in docs/watching.md'
)
"""What the verdicts call "our runs": the known-good ranges that theory does not give."""

FEW = 8  # points of a curve below which its direction is not judged: a tenth of it would be no point at all


def accuracy_layers(run: Run) -> list[str]:
    """Names of the scalars with each layer's TopK accuracy, in order."""
    return sorted(name for name in run.scalars if name.startswith('topk_acc/layer_'))


def main_metrics(run: Run) -> list[str]:
    """Names of the validation's main figures that were logged."""
    ends = ('bbox_mAP', 'segm_mAP', 'mIoU', 'accuracy/top1')
    return [name for name in run.scalars if name.endswith(ends)]


def group_size_of(run: Run) -> int:
    return round(1 / run.model.get('mixing_ratio', 0.25))


def num_patches(run: Run) -> int | None:
    """L of a pre-training config."""
    encoder = run.model.get('encoder')
    if not encoder:
        return None
    size = encoder.get('img_size', 224)
    height, width = (size, size) if isinstance(size, int) else size
    return (height // encoder.get('patch_size', 16)) * (width // encoder.get('patch_size', 16))


def own_key_mark(run: Run) -> float:
    """TopK accuracy of patches that find nothing but themselves; chance where L is not known."""
    from mixedae.functional import own_key_accuracy

    patches, group_size = num_patches(run), group_size_of(run)
    if patches is None:
        return 1 / group_size
    return own_key_accuracy(patches, group_size, round((run.model.get('topk_ratio') or 1 / group_size) * patches))


def embed_dim(run: Run) -> int | None:
    from mixedae.models import get_arch

    encoder = run.model.get('encoder')
    return get_arch(encoder.get('arch', 'base')).embed_dim if encoder else None


def tail(values: np.ndarray) -> np.ndarray:
    """The last tenth of a curve, at least three points."""
    return values[-max(3, len(values) // 10) :]


def part(values: np.ndarray, place: float) -> float:
    """Mean of a tenth of a curve: the first (0), the last (1) or the one halfway (0.5)."""
    width = max(1, len(values) // 10)
    start = round(place * (len(values) - width))
    return float(values[start : start + width].mean())


def standard_error(values: np.ndarray) -> float:
    """Standard error of the mean."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0


def too_early(what: str, points: int) -> Verdict:
    return 'note', 'Too early to tell', f'The log has {count(points, "value")} of the {what}.'


def count(number: int, noun: str) -> str:
    return f'{number:,} {noun}{"" if number == 1 else "s"}'
