"""RankMe: how many dimensions the features really use."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def rankme(features: Tensor, eps: float = 1e-7) -> float:
    r"""Effective rank of a feature matrix (Garrido et al., arXiv 2210.02885, Eq. 1 there).

    With the singular values :math:`\sigma_k` of ``features`` (not centred),

    .. math:: p_k = \sigma_k / \lVert\sigma\rVert_1 + \epsilon, \qquad
              \mathrm{RankMe} = \exp\Big(-\sum_k p_k \log p_k\Big),

    between 1 (all features are multiples of one vector: collapsed) and min(N, D) (all directions used alike). It needs
    no labels. Compare values of the same N and D only; the paper takes N = 25,600.

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
