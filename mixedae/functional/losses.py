"""The two losses of MixedAE: homologous contrastive (Eq 7) and reconstruction (Eq 4)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mixedae.functional.mixing import check_index, own_positions
from mixedae.functional.patches import patchify


def homologous_contrastive_loss(
    features: Tensor, mask: Tensor, temperature: float = 0.25, positives: str = 'separate'
) -> Tensor:
    r"""Contrastive loss between the patches of one mixed sequence (Eq 7).

    For anchor l with cosine similarities s, positives :math:`P_l = \{j \ne l: M_j = M_l\}`:

    .. math:: -\frac{1}{|P_l|} \sum_{p \in P_l} \log \frac{e^{s_{lp}/\tau}}{\sum_{j \ne l} e^{s_{lj}/\tau}}

    averaged over anchors and samples. There is no other view, no queue and no other sample. It starts near ln(L-1) with
    random features and cannot fall below about ln(r·L), so its value says little: watch the TopK accuracy.

    Args:
        features: ``(G, L, D)``; L2-normalised here.
        mask: ``(G, L)`` int64, the mixing mask; every image must own at least two patches.
        temperature: τ.
        positives: ``'separate'`` as above (the paper's); ``'averaged'`` averages the positives' probabilities inside
            the logarithm (ours, for the ablation).

    Returns:
        A scalar, float32 at least.
    """
    if positives not in ('separate', 'averaged'):
        raise ValueError(f"positives must be 'separate' or 'averaged', not '{positives}'.")
    if features.dim() != 3 or mask.shape != features.shape[:2]:
        raise ValueError(
            f'features must be (G, L, D) and mask (G, L), not {tuple(features.shape)} and {tuple(mask.shape)}.'
        )
    check_index(mask)
    if not temperature > 0:
        raise ValueError(f'temperature must be above 0, not {temperature}.')
    dtype = torch.promote_types(features.dtype, torch.float32)
    with torch.autocast(features.device.type, enabled=False):
        z = F.normalize(features.to(dtype), dim=-1)
        logits = z @ z.transpose(-2, -1) / temperature  # (G, L, L)
        itself = torch.eye(logits.shape[-1], dtype=torch.bool, device=logits.device)
        log_prob = logits.masked_fill(itself, float('-inf')).log_softmax(-1)
        positive = (mask.unsqueeze(-1) == mask.unsqueeze(-2)) & ~itself
        count = positive.sum(-1)
        if not count.is_cuda and not count.all():  # on a GPU the look would stop the queue; the models check g and L
            raise ValueError(
                'An image owns only one patch of the mix, so it has no positive: use fewer images a group.'
            )
        if positives == 'separate':
            per_anchor = -log_prob.masked_fill(~positive, 0).sum(-1) / count
        else:
            per_anchor = count.to(dtype).log() - log_prob.masked_fill(~positive, float('-inf')).logsumexp(-1)
        return per_anchor.mean()


def patch_statistics(patches: Tensor, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Mean and (unbiased) deviation of each patch over its values, each ``(..., 1)``."""
    var, mean = torch.var_mean(patches, -1, keepdim=True)
    return mean, (var + eps).sqrt()


def normalize_patches(patches: Tensor, eps: float = 1e-6) -> Tensor:
    """Each patch to zero mean and unit variance over its values, as MAE's targets: ``(..., P*P*3)``."""
    count = patches.shape[-1]
    # a LayerNorm is one pass; it divides by the biased deviation, count / (count - 1) of the variance aside
    shrink = (count - 1) / count if count > 1 else math.nan
    return F.layer_norm(patches, (count,), patches.new_full((count,), shrink**0.5), eps=eps * shrink)


def reconstruction_loss(
    pred: Tensor, target: Tensor, mask: Tensor, normalize: bool = True, patch_size: int | None = None
) -> Tensor:
    """Mean squared error on the patches of each image that are *not* in the mix (Eq 4).

    Args:
        pred: ``(G, g, L, P*P*3)``.
        target: patches of the same shape, or images ``(G, g, 3, H, W)``.
        mask: ``(G, L)`` int64, the mixing mask.
        normalize: normalise the targets per patch, as MAE does.
        patch_size: P; needed only where the patches are not P·P·3 values (other than three channels).

    Returns:
        A scalar, float32 at least. Patches in the mix carry no gradient.
    """
    if target.dim() == 5:
        side = patch_size or round((pred.shape[-1] / target.shape[2]) ** 0.5)
        target = patchify(target, side)
    if pred.shape != target.shape or pred.dim() != 4:
        raise ValueError(f'pred and target patches differ: {tuple(pred.shape)} and {tuple(target.shape)}.')
    if mask.shape != (pred.shape[0], pred.shape[2]):
        raise ValueError(f'mask must be (G, L) = {(pred.shape[0], pred.shape[2])}, not {tuple(mask.shape)}.')
    unseen = ~own_positions(mask, pred.shape[1])  # (G, g, L)
    return masked_patch_error(pred, target, unseen, normalize)


def masked_patch_error(pred: Tensor, target: Tensor, chosen: Tensor, normalize: bool = True) -> Tensor:
    """Squared error averaged over each patch, then over the chosen patches.

    Args:
        pred: ``(..., L, P*P*3)``.
        target: patches, the same shape.
        chosen: ``(..., L)`` bool, at least one True.
        normalize: see :func:`reconstruction_loss`.
    """
    return patch_errors(pred, target, normalize).masked_fill(~chosen, 0).sum() / chosen.sum()


def patch_errors(pred: Tensor, target: Tensor, normalize: bool = True) -> Tensor:
    """Squared error averaged over the values of each patch: ``(..., P*P*3)`` twice to ``(...,)``, float32 at least."""
    dtype = torch.promote_types(pred.dtype, torch.float32)
    target = target.to(dtype)
    if normalize:
        target = normalize_patches(target)
    return (pred.to(dtype) - target).square().mean(-1)
