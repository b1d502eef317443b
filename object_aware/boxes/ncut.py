"""Normalised cuts of patch graphs, batched, written from the equations of TokenCut and MaskCut.

An image is a graph: patches are nodes, the weight of an edge says whether two patches look alike,

    W_ij = 1 if cos(f_i, f_j) > tau, else eps.

The normalised cut (Shi and Malik, 2000) relaxed to real numbers is the second smallest solution of

    (D - W) y = lambda D y,    D = diag(sum_j W_ij),

and the side of y that stands out most is the object (TokenCut, CVPR 2022). More objects are found by taking the nodes
of an object away and cutting again (MaskCut of CutLER, CVPR 2023; it weakens their edges to eps instead, which leaves
them in the sums of all others; here the cut of what remains is exact).

All functions take a batch, any device, and know nothing about images.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def affinity(features: Tensor, tau: float = 0.2, eps: float = 1e-5) -> Tensor:
    """Edge weights of patch graphs: 1 where the cosine similarity is above ``tau``, else ``eps``.

    Args:
        features: (B, L, C).
        tau: threshold, -1..1.
        eps: weight of the weak edges, above 0 so that the graph stays connected.

    Returns:
        (B, L, L) float64, symmetric.
    """
    if features.dim() != 3:
        raise ValueError(f'features must be (B, L, C), not {tuple(features.shape)}.')
    if not 0 < eps <= 1:
        raise ValueError(f'eps must be above 0 and at most 1, not {eps}.')
    unit = F.normalize(features.float(), dim=-1)
    cosine = unit @ unit.transpose(1, 2)
    cosine = (cosine + cosine.transpose(1, 2)) / 2  # a matrix product may differ from its transpose in the last digit
    return (cosine > tau).double().clamp_min(eps)


def second_eigenvector(
    weights: Tensor, active: Tensor | None = None, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Second smallest solution of (D - W) y = lambda D y, of each graph restricted to its active nodes.

    With z = D^(1/2) y it is the second largest eigenvector of N = D^(-1/2) W D^(-1/2), whose largest one is known
    (D^(1/2) 1, eigenvalue 1) and taken out, so that rounding cannot mix the two where lambda is almost 0.

    Args:
        weights: (B, L, L) symmetric, above 0.
        active: (B, L) bool; the others do not belong to the graph. At least two per graph.
        dtype: float64, or float32, which is about twice as fast.

    Returns:
        y (B, L) with y^T D y = 1, 0 at inactive nodes, positive where its magnitude is largest; lambda (B,), 0..2.
    """
    batch, length, _ = weights.shape
    if active is None:
        active = weights.new_ones(batch, length, dtype=torch.bool)
    kept = active.to(weights.dtype)
    weights = weights * kept[:, :, None] * kept[:, None, :]
    degree = weights.sum(-1)  # (B, L)
    scale = torch.where(active, degree.clamp_min(1e-300).rsqrt(), 0.0)
    matrix = scale[:, :, None] * weights * scale[:, None, :]  # N
    first = F.normalize(degree.sqrt(), dim=-1)
    matrix = matrix - 2 * first[:, :, None] * first[:, None, :]  # its eigenvalue goes from 1 to -1, the lowest there is
    matrix = matrix - 2 * torch.diag_embed(1 - kept)  # inactive nodes: below all others
    values, vectors = torch.linalg.eigh(matrix.to(dtype))
    y = vectors[..., -1].to(weights.dtype) * scale
    top = y.gather(1, y.abs().argmax(1, keepdim=True))
    return torch.where(top < 0, -y, y), 1 - values[:, -1].to(weights.dtype)


class Cut(NamedTuple):
    """One cut of each graph.

    Attributes:
        field: (B, L) float64: y minus its mean over the active nodes, positive on the object's side.
        foreground: (B, L) bool: active nodes with a positive field.
        seed: (B,) int64: the node of the foreground that stands out most.
        value: (B,) float64: lambda; near 0 where the graph falls into two parts by itself.
    """

    field: Tensor
    foreground: Tensor
    seed: Tensor
    value: Tensor


def cut(
    weights: Tensor,
    grid: tuple[int, int],
    active: Tensor | None = None,
    *,
    corner_rule: bool = True,
    dtype: torch.dtype = torch.float64,
) -> Cut:
    """Cut each graph in two at the mean of its second eigenvector and decide which side is the object.

    Args:
        weights: (B, L, L) as :func:`affinity` gives them.
        grid: (h, w) patches, h * w = L.
        active: (B, L) bool, nodes that still belong to the graph.
        corner_rule: the object's side is the one with the largest magnitude of y (TokenCut), but not if it holds three
            or four of the image's corners (MaskCut): then it is the other one.
        dtype: of the eigenvalue problem.
    """
    batch, length, _ = weights.shape
    height, width = grid
    if height * width != length:
        raise ValueError(f'A grid of {height} x {width} patches does not have {length} nodes.')
    if active is None:
        active = weights.new_ones(batch, length, dtype=torch.bool)
    y, value = second_eigenvector(weights, active, dtype)
    mean = y.sum(1, keepdim=True) / active.sum(1, keepdim=True)
    field = torch.where(active, y - mean, 0.0)
    seed = y.abs().argmax(1, keepdim=True)
    flip = field.gather(1, seed) <= 0
    if corner_rule:
        corners = torch.tensor([0, width - 1, length - width, length - 1], device=weights.device)
        side = torch.where(flip, -field, field) > 0
        flip = flip ^ (side[:, corners].sum(1, keepdim=True) >= 3)
    field = torch.where(flip, -field, field)
    return Cut(field, field > 0, field.argmax(1), value)


def label_components(mask: Tensor) -> Tensor:
    """Connected components (four neighbours) of each mask.

    Args:
        mask: (B, h, w) bool.

    Returns:
        (B, h, w) int64: 0 outside, else 1 + the number of the component's first patch, row by row.
    """
    batch, height, width = mask.shape
    outside = height * width + 1
    numbers = torch.arange(1, outside, device=mask.device).view(1, height, width).expand(batch, -1, -1)
    labels = torch.where(mask, numbers, outside)
    while True:  # the smallest number spreads by one patch a step
        padded = F.pad(labels, (1, 1, 1, 1), value=outside)
        smallest = torch.stack(
            [labels, padded[:, :-2, 1:-1], padded[:, 2:, 1:-1], padded[:, 1:-1, :-2], padded[:, 1:-1, 2:]]
        ).amin(0)
        spread = torch.where(mask, smallest, outside)
        if torch.equal(spread, labels):
            return torch.where(mask, labels, 0)
        labels = spread
