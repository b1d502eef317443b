"""Mutual information of mixing, estimated on patches of photographs.

A Gaussian is fitted to pairs of crops (patches reduced by PCA, covariance shrunk) and Eq 5 is evaluated in it, for
pairs from different scenes and for pairs from one scene. What is measured is I(·; X1's hidden patches), the patches
that must be reconstructed: finite without noise. :data:`LIMITS` says what the numbers cannot tell.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy import ndarray

from mixedae.analysis.gaussian import mixing_information, pair_indices
from mixedae.functional import draw_mixing_mask
from object_aware.pixels import crop, open_image

PAIR_KINDS = ('different scenes', 'one scene, apart', 'one scene, overlapping')
"""How the two crops of a pair are related."""

LIMITS = (
    'A Gaussian sees linear dependence of PCA values only. What a network can use (objects, textures, classes) is not '
    'in these numbers; the true information may be larger.',
    'Patches are reduced to a few PCA values, mostly brightness, colour and coarse gradients; fine detail is left out.',
    'The plug-in value is too high: chance correlations of finite data count as information. The same estimate with '
    'the pairs shuffled, where the truth is 0, shows by how much.',
    'The held-out value is the gain in log-density on scenes that the Gaussian was not fitted to. A gain over 0 beyond '
    'its error means that the second crop helps; a model that fits badly gives less than the truth, or a loss.',
    'Crops of one scene are not independent samples; errors and folds go by scene for that reason.',
)


def pair_windows(
    size: tuple[int, int], rng: np.random.Generator, share: float = 0.4, shift: float = 0.25
) -> dict[str, ndarray]:
    """Three square windows of one side in a scene, each (4,) xyxy.

    ``first`` and ``apart`` do not meet; ``overlapping`` is ``first`` moved by at most ``shift`` of its side along each
    axis.

    Args:
        size: (width, height) of the scene.
        rng: source of randomness.
        share: side of the windows over the scene's shorter side, at most 1/2.
        shift: 0..1.
    """
    if not 0 < share <= 0.5:
        raise ValueError(f'share must lie in (0, 0.5], so that two windows fit side by side, not {share}.')
    side = share * min(size)
    axis = int(rng.integers(2))  # along this axis the two windows follow one another
    corners = np.empty((2, 2))  # (window, axis)
    free = size[axis] - 2 * side
    low, high = np.sort(rng.uniform(0, free, 2))
    corners[:, axis] = (low, high + side) if rng.random() < 0.5 else (high + side, low)
    corners[:, 1 - axis] = rng.uniform(0, size[1 - axis] - side, 2)
    moved = corners[0] + rng.uniform(-shift, shift, 2) * side
    moved = np.clip(moved, 0, np.array(size) - side)
    windows = {'first': corners[0], 'apart': corners[1], 'overlapping': moved}
    return {name: np.concatenate([corner, corner + side]) for name, corner in windows.items()}


def crop_pairs(
    paths: Sequence[str | os.PathLike],
    size: int = 32,
    per_scene: int = 2,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, ndarray]:
    """Cuts pairs of crops out of photographs.

    Args:
        paths: one file a scene; at least two.
        size: side of the crops in pixels.
        per_scene: first crops of each scene.
        seed: of the windows.
        progress: called with (done, total) scenes.

    Returns:
        ``first`` and, under each name of :data:`PAIR_KINDS`, its partners: ``(N, 3, size, size)`` uint8; ``scene``
        ``(N,)``. The first crops are the same for all kinds; the partner from a different scene is that scene's first
        crop.
    """
    if len(paths) < 2:
        raise ValueError(f'Pairs of different scenes need at least 2 images, not {len(paths)}.')
    cuts: dict[str, list[ndarray]] = {'first': [], 'apart': [], 'overlapping': []}
    for number, path in enumerate(paths):
        for draw in range(per_scene):
            rng = np.random.default_rng((seed, number, draw))
            for name, window in pair_windows(open_image(path).size, rng).items():
                cuts[name].append(crop(open_image(path), window, (size, size)))
        if progress is not None:
            progress(number + 1, len(paths))
    first = np.stack(cuts['first'])
    partners = (np.roll(first, per_scene, axis=0), np.stack(cuts['apart']), np.stack(cuts['overlapping']))
    return {'first': first, **dict(zip(PAIR_KINDS, partners)), 'scene': np.arange(len(first)) // per_scene}


def patch_features(crops: Sequence[ndarray], patch_size: int, components: int) -> tuple[list[ndarray], float]:
    """Patches reduced by one PCA that is shared by all crops and positions.

    Args:
        crops: arrays ``(N, 3, H, W)`` uint8; the PCA is fitted to the first.
        patch_size: P.
        components: c, values kept of each patch.

    Returns:
        Arrays ``(N, L, c)``, scaled to unit variance in the first; and the share of variance that the c values hold.
    """
    if not 1 <= components <= 3 * patch_size**2:
        raise ValueError(f'A patch of {patch_size} px has {3 * patch_size**2} values: {components} cannot be kept.')
    cut = []
    for array in crops:
        n, channels, height, width = array.shape
        x = array.reshape(n, channels, height // patch_size, patch_size, width // patch_size, patch_size)
        cut.append(x.transpose(0, 2, 4, 3, 5, 1).reshape(n, -1, patch_size**2 * channels) / 255.0)
    values = cut[0].reshape(-1, cut[0].shape[-1])
    mean = values.mean(0)
    variances, axes = np.linalg.eigh(np.cov(values - mean, rowvar=False))
    order = np.argsort(variances)[::-1][:components]
    scale = np.sqrt(variances[order])
    if not (scale > 1e-9).all():
        raise ValueError(f'The patches vary in fewer than {components} directions: keep fewer components.')
    return [(x - mean) @ axes[:, order] / scale for x in cut], float(variances[order].sum() / variances.sum())


def shrunk_covariance(samples: ndarray) -> tuple[ndarray, float]:
    """Ledoit-Wolf covariance (2004, towards a multiple of the identity, after scaling to unit variances).

    Args:
        samples: ``(n, p)``.

    Returns:
        ``(p, p)`` covariance, positive definite, and the shrinkage in 0..1.
    """
    scale = samples.std(0)
    if not (scale > 0).all():
        raise ValueError('A value does not vary over the samples.')
    x = (samples - samples.mean(0)) / scale
    n, p = x.shape
    cov = x.T @ x / n
    target = np.trace(cov) / p * np.eye(p)
    distance = ((cov - target) ** 2).sum()
    error = ((x**2).sum(1) ** 2).sum() / n**2 - (cov**2).sum() / n  # mean squared error of the sample covariance
    shrinkage = 1.0 if distance == 0 else float(np.clip(error / distance, 0, 1))
    return ((1 - shrinkage) * cov + shrinkage * target) * np.outer(scale, scale), shrinkage


def estimate_mixing(
    first: ndarray, second: ndarray, scenes: ndarray, *, masks: int = 8, folds: int = 2, seed: int = 0
) -> dict[str, float]:
    """What masked and mixed samples tell about the hidden patches, in Gaussians fitted to pairs.

    Args:
        first: ``(N, L, c)``, the images to be reconstructed.
        second: ``(N, L, c)``, their partners in the mix.
        scenes: ``(N,)``; pairs of one scene stay in one fold.
        masks: how many balanced masks (r = 1/2) to average over.
        folds: a Gaussian is fitted to all folds but one and tried on that one, in turn.
        seed: of masks and folds.

    Returns:
        In nats for each hidden patch: ``masked``, ``mixed``, ``gap`` (plug-in, fitted to all pairs),
        ``held_out_masked``, ``held_out_mixed``, ``held_out_gap`` and its standard error over scenes
        ``held_out_gap_error`` (of these Gaussians: it leaves out how they would differ with other scenes to fit);
        and ``shrinkage``.
    """
    count, length, channels = first.shape
    if first.shape != second.shape or scenes.shape != (count,):
        raise ValueError(f'first {first.shape}, second {second.shape} and scenes {scenes.shape} do not fit.')
    if len(np.unique(scenes)) < 2 * folds:
        raise ValueError(f'{folds} folds need at least {2 * folds} scenes, not {len(np.unique(scenes))}.')
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    drawn = draw_mixing_mask(masks, length, 2, generator=generator).numpy()
    samples = np.concatenate([first.reshape(count, -1), second.reshape(count, -1)], axis=1)  # (N, 2·L·c)
    hidden = length // 2
    cov, shrinkage = shrunk_covariance(samples)
    exact = [mixing_information(cov, mask, channels=channels, target='hidden') for mask in drawn]
    result = {key: float(np.mean([e[key] for e in exact])) / hidden for key in ('masked', 'mixed', 'gap')}
    order = {scene: i for i, scene in enumerate(rng.permutation(np.unique(scenes)))}
    fold_of = np.array([order[scene] for scene in scenes]) % folds
    gains = np.zeros((count, 2))
    for fold in range(folds):
        fitted, tried = samples[fold_of != fold], samples[fold_of == fold]
        mean, (cov, _) = fitted.mean(0), shrunk_covariance(fitted)
        for mask in drawn:
            gains[fold_of == fold] += _log_density_gains(tried - mean, cov, mask, channels) / masks / hidden
    by_scene = np.stack([gains[scenes == scene].mean(0) for scene in np.unique(scenes)])
    masked, mixed = by_scene.mean(0)
    gap = by_scene[:, 1] - by_scene[:, 0]
    return result | {
        'held_out_masked': float(masked),
        'held_out_mixed': float(mixed),
        'held_out_gap': float(gap.mean()),
        'held_out_gap_error': float(gap.std(ddof=1) / len(gap) ** 0.5),
        'shrinkage': shrinkage,
    }


def _log_density_gains(x: ndarray, cov: ndarray, mask: ndarray, channels: int) -> ndarray:
    """ln p(hidden | shown) - ln p(hidden) of samples ``(n, 2·L·c)``, shown by masking and by mixing: ``(n, 2)``."""
    parts = pair_indices(mask, channels)
    hidden, visible = parts['hidden'], parts['visible']
    both = np.concatenate([visible, parts['other']])
    alone = log_density(x[:, hidden], cov[np.ix_(hidden, hidden)])
    gains = []
    for shown in (visible, both):
        joint = np.concatenate([hidden, shown])
        together = log_density(x[:, joint], cov[np.ix_(joint, joint)])
        gains.append(together - log_density(x[:, shown], cov[np.ix_(shown, shown)]) - alone)
    return np.stack(gains, axis=1)


def log_density(x: ndarray, cov: ndarray) -> ndarray:
    """Log-density of a centred Gaussian at ``(n, p)`` points: ``(n,)``."""
    factor = np.linalg.cholesky(cov)
    z = np.linalg.solve(factor, x.T)
    return -0.5 * (z**2).sum(0) - np.log(np.diagonal(factor)).sum() - 0.5 * x.shape[1] * np.log(2 * np.pi)
