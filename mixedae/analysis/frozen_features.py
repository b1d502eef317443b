"""Frozen features of images: [CLS] and the mean of the patches, from a pretext task or from the plain backbone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from mixedae.analysis.cls_attention import all_global
from mixedae.models.backbone import MixedAEViT
from mixedae.models.pretrainer import Pretrainer

KINDS = ('cls', 'mean')


class FrozenFeatures(NamedTuple):
    """Features of N images, on CPU.

    Attributes:
        features: kind -> ``(N, D)`` float32; kinds are ``'cls'`` and ``'mean'`` (of the patches).
        labels: ``(N,)`` int64; -1 where the data has none.
    """

    features: dict[str, Tensor]
    labels: Tensor


@torch.no_grad()
def frozen_features(
    model: Pretrainer | MixedAEViT,
    batches: Iterable[Mapping[str, Any]],
    *,
    preprocessor: nn.Module | None = None,
    global_attention: bool = True,
    kinds: Sequence[str] = KINDS,
    progress: Callable[[int], None] | None = None,
) -> FrozenFeatures:
    """Runs whole, unmixed images through the encoder, after its final LayerNorm.

    The model is in evaluation mode meanwhile and afterwards as it was; no random number is drawn and no gradient kept.

    Args:
        model: MixedAE, MAE or the plain backbone (which returns maps, so it has no ``'cls'``).
        batches: of ``dict(inputs=(B, 3, H, W) in 0..255, data_samples=dict(label=(B,)))``; labels may be missing.
        preprocessor: scales the pixels; a pretext task has its own, the backbone needs one.
        global_attention: every block attends globally, as after transfer; False: TopK attention as in pre-training.
            The plain backbone is taken as it was built.
        kinds: of the features.
        progress: called with the number of images done.

    Raises:
        ValueError: the plain backbone without a preprocessor or asked for ``'cls'``; no batches.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise ValueError(f"A kind of features is 'cls' or 'mean', not '{unknown[0]}'.")
    is_backbone = not isinstance(model, Pretrainer)
    if is_backbone and (preprocessor is None or 'cls' in kinds):
        raise ValueError("The plain backbone needs a preprocessor, and kinds=('mean',): it returns maps without [CLS].")
    preprocessor = preprocessor or model.data_preprocessor
    device = next(model.parameters()).device
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    parts: dict[str, list[Tensor]] = {kind: [] for kind in kinds}
    labels: list[Tensor] = []
    done = 0
    try:
        for batch in batches:
            pixels = batch['inputs'].to(device)
            images = preprocessor({'inputs': pixels}, False)['inputs'].float()
            if is_backbone:
                parts['mean'].append(model(images)[-1].flatten(2).mean(2).float().cpu())
            else:
                with all_global(model.encoder, global_attention):
                    tokens = model.extract(images).float()  # (B, 1 + L, D)
                for kind in kinds:
                    parts[kind].append((tokens[:, 0] if kind == 'cls' else tokens[:, 1:].mean(1)).cpu())
            known = (batch.get('data_samples') or {}).get('label')
            labels.append(torch.full((len(pixels),), -1) if known is None else torch.as_tensor(known).long().cpu())
            done += len(pixels)
            if progress is not None:
                progress(done)
    finally:
        for module, mode in modes:
            module.training = mode
    if not labels:
        raise ValueError('There are no images to take features of.')
    return FrozenFeatures({kind: torch.cat(part) for kind, part in parts.items()}, torch.cat(labels))


def labelled_batches(
    dataset: Dataset, *, batch_size: int = 64, count: int | None = None, num_workers: int = 0
) -> Iterable[dict[str, Any]]:
    """Batches of a dataset in its order, for :func:`frozen_features`; reading draws from no global generator.

    Args:
        dataset: gives ``dict(inputs=(3, H, W), data_samples=dict(label=int))``, as ``mixedae.LabelledImages`` does.
        batch_size: images at a time.
        count: take only so many, evenly spaced (of a folder of classes: about as many of each); None: all.
        num_workers: loader processes; 0 reads in this one.
    """
    if count is not None and count < len(dataset):
        dataset = Subset(dataset, spaced(count, len(dataset)))
    generator = torch.Generator().manual_seed(0)  # without it a loader takes its seed from the global generator
    return DataLoader(
        dataset,
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=default_collate,
        generator=generator,
        multiprocessing_context='fork' if num_workers else None,
    )


def spaced(count: int, total: int) -> list[int]:
    """``count`` numbers evenly spaced in 0..total-1; all if there are fewer."""
    count = min(count, total)
    return [i * total // count for i in range(count)]
