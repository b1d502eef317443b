"""Mix and unmix: g images into one sequence and back (Eq 1 to 4 of the MixedAE paper).

Shapes use METHOD's letters: G groups, g images in a group, L patches an image, C or D values a patch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mixedae.functional.positions import take


def draw_mixing_mask(
    num_groups: int,
    num_patches: int,
    group_size: int,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draws mixing masks uniformly among the balanced assignments (M of Eq 1).

    In each mask every image of the group owns exactly L/g positions.

    Args:
        num_groups: G, how many independent masks.
        num_patches: L.
        group_size: g = 1/r.
        generator: source of randomness; it draws on its own device, so that one seed gives the same masks everywhere.
        device: where the masks are returned (default: where they are drawn).

    Returns:
        ``(G, L)`` int64 with values in 0..g-1.

    Raises:
        ValueError: L is not a multiple of g.
    """
    check_mixing(num_patches, group_size)
    source = generator.device if generator is not None else device
    # Ranking L independent uniform numbers gives a uniform permutation; float64 makes ties practically impossible.
    order = torch.rand(num_groups, num_patches, generator=generator, device=source, dtype=torch.float64).argsort(dim=1)
    mask = order % group_size  # each residue occurs L/g times
    return mask if device is None else mask.to(device, non_blocking=True)


def check_mixing(num_patches: int, group_size: int) -> None:
    """Raises ``ValueError`` unless every image of a group can own the same number of patches (r·L an integer)."""
    if group_size < 2:
        raise ValueError(f'A group of {group_size} images mixes nothing: the mixing ratio must be 1/2, 1/3, 1/4, ...')
    if num_patches % group_size:
        raise ValueError(
            f'{num_patches} patches cannot be shared equally by {group_size} images: choose an image size, patch size '
            f'or mixing ratio with (patches x mixing ratio) an integer.'
        )


def mix(patches: Tensor, mask: Tensor) -> Tensor:
    """Mixes the images of each group: position l of the mix is patch l of image ``M_l`` (Eq 1, 2).

    Patches never move. Several masks may be applied to the same group at once (full mode).

    Args:
        patches: ``(G, g, L, C)``, raw patches or embedded ones.
        mask: ``(G, L)`` or ``(G, V, L)`` int64, V masks for each group.

    Returns:
        ``(G, L, C)`` or ``(G, V, L, C)``.
    """
    if patches.dim() != 4 or mask.dim() not in (2, 3) or mask.shape[0] != patches.shape[0]:
        raise ValueError(f'mix takes patches (G, g, L, C) and mask (G, L), not {_shape(patches)} and {_shape(mask)}.')
    if mask.shape[-1] != patches.shape[2]:
        raise ValueError(f'The mask has {mask.shape[-1]} positions, the images have {patches.shape[2]} patches.')
    check_index(mask)
    index = mask if mask.dim() == 3 else mask.unsqueeze(1)  # (G, V, L)
    length = mask.shape[-1]
    numbers = index * length + torch.arange(length, device=mask.device)  # of the patches of a group
    mixed = take(patches.flatten(1, 2), numbers.flatten(1)).unflatten(1, index.shape[1:])  # (G, V, L, C)
    return mixed if mask.dim() == 3 else mixed.squeeze(1)


def unmix(tokens: Tensor, mask: Tensor, group_size: int, mask_token: Tensor) -> Tensor:
    """Gives each image of a group its own sequence back, with ``mask_token`` where it was not in the mix (Eq 3).

    Args:
        tokens: ``(G, L, D)``, the tokens of the mixed sequences.
        mask: ``(G, L)`` int64.
        group_size: g.
        mask_token: ``(D,)``.

    Returns:
        ``(G, g, L, D)``: ``tokens[:, l]`` where ``M_l = i``, else ``mask_token``.
    """
    if tokens.dim() != 3 or mask.shape != tokens.shape[:2]:
        raise ValueError(f'unmix takes tokens (G, L, D) and mask (G, L), not {_shape(tokens)} and {_shape(mask)}.')
    if mask_token.shape != tokens.shape[-1:]:
        raise ValueError(f'mask_token must be ({tokens.shape[-1]},) like a token, not {_shape(mask_token)}.')
    own = own_positions(mask, group_size)  # (G, g, L)
    return torch.where(own.unsqueeze(-1), tokens.unsqueeze(1), mask_token.to(tokens.dtype))


def own_positions(mask: Tensor, group_size: int) -> Tensor:
    """``(G, L)`` mask to ``(G, g, L)`` bool: True where position l of the mix belongs to image i."""
    check_index(mask)
    images = torch.arange(group_size, device=mask.device)
    return mask.unsqueeze(1) == images[:, None]


def check_index(mask: Tensor) -> None:
    """Raises ``ValueError`` unless the mask is int64."""
    if mask.dtype != torch.int64:
        raise ValueError(f'A mixing mask holds int64 image numbers, not {mask.dtype}.')


def _shape(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape)
