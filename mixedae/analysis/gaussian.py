"""Mutual information in Gaussian models, exact by log-determinants (Eq 5 of the paper, r = 1/2).

Two images X1, X2 of L patches. A mask M says which half of X1's positions is visible. *Masking* shows X1 there and
nothing elsewhere; *mixing* shows X2 at the other positions. By the chain rule

    I(mix; X1) - I(mask; X1) = I(X2 at X1's hidden positions; X1 | X1's visible positions) >= 0,

with equality if the images are independent of each other. All values are in nats, M is known.
"""

from __future__ import annotations

import numpy as np
from numpy import ndarray


def log_det(cov: ndarray) -> float:
    """Log-determinant of a covariance ``(n, n)``; 0 for n = 0.

    Raises:
        ValueError: it is not positive definite.
    """
    if not len(cov):
        return 0.0
    try:
        return 2.0 * float(np.log(np.diagonal(np.linalg.cholesky(cov))).sum())
    except np.linalg.LinAlgError:
        raise ValueError(
            'The covariance is not positive definite: one variable is a function of others, and the information is '
            'infinite. Add observation noise.'
        ) from None


def information(cov: ndarray, a: ndarray, b: ndarray) -> float:
    """I(a; b) of jointly Gaussian variables.

    Args:
        cov: ``(n, n)`` covariance.
        a: indices of the first variables.
        b: indices of the second.
    """
    return conditional_information(cov, a, b, np.arange(0))


def conditional_information(cov: ndarray, a: ndarray, b: ndarray, given: ndarray) -> float:
    """I(a; b | given): ½ ln [ |Σ_ac| |Σ_bc| / (|Σ_c| |Σ_abc|) ]."""
    a, b, c = (np.asarray(indices, dtype=np.int64) for indices in (a, b, given))

    def part(*indices: ndarray) -> float:
        chosen = np.concatenate(indices)
        return log_det(cov[np.ix_(chosen, chosen)])

    return 0.5 * (part(a, c) + part(b, c) - part(c) - part(a, b, c))


def pair_covariance(grid: tuple[int, int], within: float = 2.0, between: float = 0.0) -> ndarray:
    """Covariance of two images of one value a patch: ``(2L, 2L)``, X1 first.

    Inside an image, patches correlate by exp(-distance / ``within``); the images have correlation ``between`` patch by
    patch: cov(X1, X2) = between · cov(X1).

    Args:
        grid: ``(h, w)``.
        within: correlation length in patches; 0 makes patches independent.
        between: -1 < correlation < 1.
    """
    if not -1 < between < 1:
        raise ValueError(f'The correlation between the images must lie between -1 and 1, not {between}.')
    if within < 0:
        raise ValueError(f'The correlation length must not be below 0, not {within}.')
    rows, columns = np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing='ij')
    points = np.stack([rows.ravel(), columns.ravel()], 1).astype(np.float64)
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    one = np.exp(-distance / within) if within else np.eye(len(points))
    return np.kron(np.array([[1.0, between], [between, 1.0]]), one)


def pair_indices(mask: ndarray, channels: int = 1) -> dict[str, ndarray]:
    """Which variables of a pair a mask shows.

    Args:
        mask: ``(L,)``, 0 where the mix shows X1 and 1 where it shows X2.
        channels: values of a patch; variable (image i, patch l, value c) is number ``(i·L + l)·channels + c``.

    Returns:
        ``visible`` and ``hidden`` of X1, ``other``: X2 at the hidden positions, ``image``: all of X1.
    """
    mask = np.asarray(mask)
    if mask.ndim != 1 or not np.isin(mask, (0, 1)).all():
        raise ValueError('The mask of a pair is one row of 0 (first image) and 1 (second image).')

    def values(positions: ndarray) -> ndarray:
        return (positions[:, None] * channels + np.arange(channels)).ravel()

    own, foreign = np.flatnonzero(mask == 0), np.flatnonzero(mask == 1)
    return {
        'visible': values(own),
        'hidden': values(foreign),
        'other': values(len(mask) + foreign),
        'image': values(np.arange(len(mask))),
    }


def mixing_information(
    cov: ndarray, mask: ndarray, *, channels: int = 1, noise: float = 0.0, target: str = 'image'
) -> dict[str, float]:
    """What a masked and a mixed sample tell about the first image, exactly.

    Args:
        cov: ``(2·L·channels, 2·L·channels)`` covariance of the pair.
        mask: ``(L,)`` of 0 and 1.
        channels: values of a patch.
        noise: variance of the noise on what is observed. Without noise a visible patch tells infinitely much about
            itself, so ``target='image'`` needs some.
        target: ``'image'``, all of X1 (Eq 5); ``'hidden'``, only the patches that must be reconstructed.

    Returns:
        ``masked``, ``mixed``, ``gap`` (their difference) and ``full``: the whole of X1 observed (None for
        ``target='hidden'`` without noise, where it is infinite).
    """
    if target not in ('image', 'hidden'):
        raise ValueError(f"target must be 'image' or 'hidden', not '{target}'.")
    if noise < 0 or (not noise and target == 'image'):
        raise ValueError(f"noise must be above 0 for target='image' and never below 0, not {noise}.")
    parts = pair_indices(mask, channels)
    if cov.shape != (2 * len(mask) * channels,) * 2:
        raise ValueError(f'{len(mask)} patches of {channels} values need a covariance of {2 * len(mask) * channels}.')
    n = len(cov)
    # Variables 0..n-1 are the images, n..2n-1 what is observed of them.
    joint = np.block([[cov, cov], [cov, cov + noise * np.eye(n)]])
    about = parts[target]

    def told(*shown: ndarray) -> float:
        return information(joint, about, n + np.concatenate(shown))

    masked, mixed = told(parts['visible']), told(parts['visible'], parts['other'])
    full = told(parts['image']) if noise else None
    return {'masked': masked, 'mixed': mixed, 'gap': mixed - masked, 'full': full}
