"""What a pretext task sees, makes and looks at, as rows of pictures."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mixedae.analysis.cls_attention import cls_attention
from mixedae.analysis.figures import heat_overlay
from mixedae.analysis.inputs import normalise
from mixedae.analysis.patch_attention import patch_attention
from mixedae.functional import mix
from mixedae.models.mixedae import MixedAE
from mixedae.models.pretrainer import Pretrainer
from mixedae.visualization import mask_colours, outline, to_image
from mixedae.visualization.draw import source_colours

HIDDEN = np.uint8(205)  # grey of a patch that the encoder does not see
QUERY = (255, 255, 255)


@torch.no_grad()
def pretraining_rows(model: Pretrainer, pixels: Tensor, seed: int = 0) -> tuple[list[str], list[list[np.ndarray]]]:
    """One row of pictures for each image: what the pretext task does with it, and attention maps of the last block.

    MixedAE: source, mixing mask (its own patches in full colour), the mix, its part of it, reconstruction, attention of
    [CLS] in the whole image, and attention of one of its patches (white frame) in the mix, with frames around the K
    patches that this query attends to most, in the colours of the images that they come from. Without a decoder there
    is no reconstruction. MAE: source, visible part, reconstruction, attention of [CLS] and of one patch in the whole
    image.

    Args:
        model: a pretext task in evaluation mode.
        pixels: ``(B, 3, H, W)`` uint8; for MixedAE each g consecutive ones are a group.
        seed: of the masks.

    Returns:
        Column titles and the rows, uint8 ``(H, W, 3)``.
    """
    images = normalise(model, pixels)
    generator = torch.Generator().manual_seed(seed)
    result = {name: value.float() for name, value in model.reconstruct(images, generator).items()}
    grid, patch = model.encoder.grid, model.encoder.patch_size
    sources = [image.permute(1, 2, 0).numpy() for image in pixels]
    maps = cls_attention(model, pixels).numpy()
    mean, std = (getattr(model.data_preprocessor, name).flatten().tolist() for name in ('mean', 'std'))
    decoded = None
    if 'predicted' in result:
        decoded = [to_image(image.cpu().numpy(), mean, std) for image in result['predicted']]
    query = (grid[0] // 2) * grid[1] + grid[1] // 2
    rows: list[list[np.ndarray]] = []

    if not isinstance(model, MixedAE):
        masked = result['masked'].bool().cpu().numpy()
        tokens = model.encoder.embed(model.cut(images)) + model.encoder.pos_embed[:, 1:]
        attention = patch_attention(model.encoder, tokens)[:, query].cpu().numpy()  # (B, L)
        for i, source in enumerate(sources):
            seen = np.where(_pixels(masked[i], grid, patch), HIDDEN, source)
            looked = outline(heat_overlay(source, attention[i].reshape(grid)), [query], grid, QUERY, 2)
            rows.append([source, seen, decoded[i], heat_overlay(source, maps[i]), looked])
        return ['source', 'visible', 'reconstruction', '[CLS] attention', 'attention\nof one patch'], rows

    mask = result['mask'].long()
    patches = mix(model.group(images), mask.to(images.device))
    tokens = model.encoder.embed(patches) + model.encoder.pos_embed[:, 1:]
    if model.encoder.segment_embed is not None:
        tokens = tokens + model.encoder.segments()[mask.to(images.device)]
    attention = patch_attention(model.encoder, tokens).cpu().numpy()  # (G, L, L)
    kept = model.encoder.blocks[-1].attn.num_kept(1 + model.encoder.num_patches)
    kept = kept or model.encoder.num_patches // model.group_size  # K; r·L where the block is global
    colours = source_colours(model.group_size)
    for i, source in enumerate(sources):
        group, own = divmod(i, model.group_size)
        owner = mask[group].cpu().numpy()
        flat = mask_colours(owner, grid, patch)
        mine = _pixels(owner == own, grid, patch)
        mixed = to_image(result['mixed'][group].cpu().numpy(), mean, std)
        number = nearest(owner == own, query, grid)
        looked = heat_overlay(mixed, attention[group, number].reshape(grid))
        best = np.argsort(-attention[group, number], kind='stable')[:kept]
        for k, colour in enumerate(colours):
            looked = outline(looked, [b for b in best if owner[b] == k], grid, colour)
        looked = outline(looked, [number], grid, QUERY, 2)
        row = [source, np.where(mine, flat, 192 + flat // 4), mixed, np.where(mine, source, HIDDEN)]
        rows.append([*row, *([decoded[i]] if decoded else []), heat_overlay(source, maps[i]), looked])
    columns = [
        'source',
        'mixing mask',
        'mix',
        'unmixed',
        'reconstruction',
        '[CLS] attention',
        'attention of\none patch',
    ]
    if decoded is None:
        columns.remove('reconstruction')
    return columns, rows


def nearest(own: np.ndarray, wanted: int, grid: tuple[int, int]) -> int:
    """Of the patches that are True in ``own (L,)``, the one nearest to patch ``wanted``; the first of equals."""
    numbers = np.flatnonzero(own)
    down, across = numbers // grid[1] - wanted // grid[1], numbers % grid[1] - wanted % grid[1]
    return int(numbers[np.argmin(down**2 + across**2)])


def _pixels(flags: np.ndarray, grid: tuple[int, int], patch: int) -> np.ndarray:
    """Flags of patches ``(L,)`` as flags of pixels ``(H, W, 1)``."""
    return flags.reshape(grid).repeat(patch, axis=0).repeat(patch, axis=1)[..., None]
