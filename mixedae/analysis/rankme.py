"""RankMe: how many dimensions the features really use."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def rankme(features: Tensor, eps: float = 1e-7) -> float:
    """Effective rank of a feature matrix (Garrido et al., arXiv 2210.02885).

    With the singular values σ of ``features``, which are not centred: ``p = σ / sum(σ) + eps`` and
    ``RankMe = exp(-sum(p * ln p))``. It lies between 1 (all features are multiples of one vector: collapsed) and
    min(N, D) (all directions used alike) and needs no labels. Compare values of the same N and D only; the paper takes
    N = 25,600.

    Args:
        features: ``(N, D)``.
        eps: of the formula, for a logarithm that is finite.

    Raises:
        ValueError: not a matrix, all zero, or not finite.
    """
    if features.ndim != 2 or not features.numel():
        raise ValueError(f'RankMe needs features (N, D), not {tuple(features.shape)}.')
    if not torch.isfinite(features).all():
        raise ValueError('RankMe needs finite features: the model gives inf or nan.')
    sigma = torch.linalg.svdvals(features.double())
    if not sigma.sum() > 0:
        raise ValueError('RankMe is not defined for features that are all zero.')
    p = sigma / sigma.sum() + eps
    return (-(p * p.log()).sum()).exp().item()
