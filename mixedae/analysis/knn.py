"""Weighted k-nearest-neighbour classification on frozen features: quick, and nothing to tune."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def knn_accuracy(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    k: int = 20,
    temperature: float = 0.07,
    chunk: int = 1024,
) -> float:
    """Share of test features whose class the nearest training features name.

    As in DINO (arXiv 2104.14294) after Wu et al. (arXiv 1805.01978): features are L2-normalised, the k training
    features of the highest cosine similarity s vote for their class with weight exp(s / temperature). Of classes with
    equally many votes the lower number wins.

    Args:
        train_features: ``(N, D)``.
        train_labels: ``(N,)`` whole numbers from 0.
        test_features: ``(M, D)``.
        test_labels: ``(M,)``.
        k: neighbours; all N if there are fewer.
        temperature: of the votes.
        chunk: test features at a time; memory is chunk * N similarities.

    Returns:
        Share in 0..1.

    Raises:
        ValueError: shapes do not fit, or there are no features.
    """
    check_labelled(train_features, train_labels, 'training')
    check_labelled(test_features, test_labels, 'test')
    train = F.normalize(train_features.float(), dim=1)
    test = F.normalize(test_features.float(), dim=1)
    num_classes = int(torch.stack([train_labels.max(), test_labels.max()]).max()) + 1
    right = 0
    for start in range(0, len(test), chunk):
        with torch.autocast(train.device.type, enabled=False):  # in 16 bits near neighbours would be equally near
            similarities = test[start : start + chunk] @ train.T  # (m, N)
        similarity, nearest = similarities.topk(min(k, len(train)), dim=1)  # (m, k)
        # Less the row's highest similarity: the same winner, and no overflow at a low temperature.
        weights = ((similarity - similarity[:, :1]) / temperature).double().exp()
        votes = weights.new_zeros(len(weights), num_classes).scatter_add_(1, train_labels[nearest], weights)
        right += int((votes.argmax(1) == test_labels[start : start + chunk]).sum())
    return right / len(test)


def check_labelled(features: Tensor, labels: Tensor, name: str) -> None:
    """One row of finite numbers for each label, and at least one."""
    if features.ndim != 2 or labels.shape != features.shape[:1] or not len(labels):
        raise ValueError(
            f'{name} features must be (N, D) with labels (N,), N at least 1, not {tuple(features.shape)} and '
            f'{tuple(labels.shape)}.'
        )
    if not torch.isfinite(features).all():
        raise ValueError(f'{name} features are not all finite: the model gives inf or nan.')
