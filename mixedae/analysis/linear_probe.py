"""Linear probe on frozen features: multinomial logistic regression, solved to its optimum instead of trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mixedae.analysis.knn import check_labelled

L2_GRID = (1.0, 0.1, 0.01, 1e-3, 1e-4)
"""From strong to weak; features are standardised, so the values mean the same for every model."""


class LinearProbe(NamedTuple):
    """What a linear probe found.

    Attributes:
        accuracy: share of test features that are classified right.
        train_accuracy: the same of the training features that it was solved on.
        l2: the chosen weight decay.
        held_out: value of the grid -> accuracy on the held-out part, by which ``l2`` was chosen.
    """

    accuracy: float
    train_accuracy: float
    l2: float
    held_out: dict[float, float]


def linear_probe(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    l2_grid: Sequence[float] = L2_GRID,
    held_out_share: float = 0.2,
    max_iter: int = 100,
    seed: int = 0,
) -> LinearProbe:
    """Accuracy of the best linear classifier of frozen features.

    Features are standardised by the training part's mean and deviation. For each value of the grid the classifier is
    solved on the training part without a held-out share of each class; the value that is best on the held-out part
    (the stronger of equals) is solved on the whole training part and judged on the test part. Nothing is tuned on the
    test part, and nothing but the held-out split is drawn: same features, same result.

    Args:
        train_features: ``(N, D)``.
        train_labels: ``(N,)`` whole numbers from 0.
        test_features: ``(M, D)``.
        test_labels: ``(M,)``.
        l2_grid: weight decays to choose from, strong first; see :func:`solve_logistic`.
        held_out_share: part of each class's training features that chooses, at least one of a class with two.
        max_iter: steps of LBFGS for each solution.
        seed: of the held-out split.

    Raises:
        ValueError: shapes do not fit; fewer than two classes; or no class has two training features.
    """
    check_labelled(train_features, train_labels, 'training')
    check_labelled(test_features, test_labels, 'test')
    num_classes = int(torch.stack([train_labels.max(), test_labels.max()]).max()) + 1
    if num_classes < 2:
        raise ValueError('A linear probe needs at least two classes.')
    train, test = train_features.double(), test_features.double()
    mean, std = train.mean(0), train.std(0, correction=0)
    std = torch.where(std > 1e-6 * std.max(), std, torch.ones_like(std))  # a feature that never changes
    train, test = (train - mean) / std, (test - mean) / std

    held_out = held_out_mask(train_labels, held_out_share, seed)
    rest, rest_labels = train[~held_out], train_labels[~held_out]
    scores, start = {}, None
    if len(l2_grid) > 1:
        for l2 in l2_grid:  # each solution starts from the last one
            start = solve_logistic(rest, rest_labels, num_classes, l2, start=start, max_iter=max_iter)
            scores[l2] = _accuracy(start, train[held_out], train_labels[held_out])
    best = max(l2_grid, key=lambda l2: (scores.get(l2, 0.0), l2))
    solved = solve_logistic(train, train_labels, num_classes, best, max_iter=max_iter)
    return LinearProbe(_accuracy(solved, test, test_labels), _accuracy(solved, train, train_labels), best, scores)


def solve_logistic(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    l2: float,
    *,
    start: Tensor | None = None,
    max_iter: int = 100,
) -> Tensor:
    """Minimises mean cross entropy + l2 / 2 * sum of squared weights (biases are free) by full-batch LBFGS.

    Args:
        features: ``(N, D)`` float64.
        labels: ``(N,)``.
        num_classes: C.
        l2: weight decay, above 0.
        start: ``(D + 1, C)``, zeros if None; the problem is convex, so it changes the time and not the result.
        max_iter: LBFGS steps.

    Returns:
        ``(D + 1, C)``, the biases in the last row.
    """
    ones = features.new_ones(len(features), 1)
    inputs = torch.cat([features, ones], dim=1)
    if start is None:
        start = inputs.new_zeros(inputs.shape[1], num_classes)
    weights = start.clone().requires_grad_()
    solver = torch.optim.LBFGS(
        [weights], max_iter=max_iter, tolerance_grad=1e-6, tolerance_change=1e-10, line_search_fn='strong_wolfe'
    )

    def objective() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(inputs @ weights, labels) + l2 / 2 * weights[:-1].square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        solver.step(objective)
    return weights.detach()


def held_out_mask(labels: Tensor, share: float, seed: int) -> Tensor:
    """``(N,)`` bool: ``share`` of each class drawn at random, at least one of a class with two, none of one alone."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique().tolist():
        members = (labels.cpu() == label).nonzero().flatten()
        count = max(1, round(share * len(members))) if len(members) > 1 else 0
        mask[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    if not mask.any():
        raise ValueError('A linear probe needs at least two training images of some class.')
    return mask.to(labels.device)


def _accuracy(weights: Tensor, features: Tensor, labels: Tensor) -> float:
    logits = features @ weights[:-1] + weights[-1]
    return (logits.argmax(1) == labels).double().mean().item()
