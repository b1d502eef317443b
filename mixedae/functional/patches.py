"""Images to patches and back."""

from __future__ import annotations

from torch import Tensor


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """Cuts images into flat patches.

    Args:
        images: ``(..., C, H, W)``; H and W are multiples of ``patch_size``. Leading dimensions are kept.
        patch_size: P, in pixels.

    Returns:
        ``(..., L, P*P*C)`` with L = H/P · W/P patches in row-major order; inside a patch the order is
        row, column, channel, as in MAE.
    """
    if images.dim() < 3 or patch_size < 1:
        raise ValueError(
            f'patchify takes images (..., C, H, W) and a patch size of 1 or more, not '
            f'{tuple(images.shape)} and {patch_size}.'
        )
    *lead, channels, height, width = images.shape
    if height % patch_size or width % patch_size:
        raise ValueError(
            f'An image of {height} x {width} px cannot be cut into {patch_size} px patches: choose a size whose sides '
            f'are multiples of {patch_size}.'
        )
    h, w = height // patch_size, width // patch_size
    x = images.reshape(-1, channels, h, patch_size, w, patch_size)
    x = x.permute(0, 2, 4, 3, 5, 1)  # (B, h, w, P, P, C)
    return x.reshape(*lead, h * w, patch_size * patch_size * channels)


def unpatchify(patches: Tensor, patch_size: int, grid: tuple[int, int]) -> Tensor:
    """The inverse of :func:`patchify`.

    Args:
        patches: ``(..., L, P*P*C)``.
        patch_size: P, in pixels.
        grid: ``(h, w)``, patches per column and per row; h·w = L.

    Returns:
        ``(..., C, h*P, w*P)``.
    """
    *lead, num_patches, dim = patches.shape
    h, w = grid
    channels, rest = divmod(dim, patch_size * patch_size)
    if h * w != num_patches or rest:
        raise ValueError(
            f'{num_patches} patches of {dim} values do not make a grid of {h} x {w} patches of {patch_size} px.'
        )
    x = patches.reshape(-1, h, w, patch_size, patch_size, channels)
    x = x.permute(0, 5, 1, 3, 2, 4)  # (B, C, h, P, w, P)
    return x.reshape(*lead, channels, h * patch_size, w * patch_size)
