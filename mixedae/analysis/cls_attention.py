"""[CLS] attention of the last block: where the encoder looks in a whole, unmixed image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from mixedae.analysis.inputs import normalise
from mixedae.analysis.patch_attention import block_attention
from mixedae.layers import Block
from mixedae.models.encoder import Encoder
from mixedae.models.pretrainer import Pretrainer


@torch.no_grad()
def cls_attention(
    model: Pretrainer,
    pixels: Tensor,
    *,
    global_attention: bool = False,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Attention of the [CLS] query to the patches in the last block, mean over heads.

    Args:
        model: a pretext task.
        pixels: ``(B, 3, H, W)`` uint8, whole images; nothing is mixed and no segment embedding is added.
        global_attention: let every block attend globally, as after transfer; otherwise as in pre-training.
        batch_size: images at a time.
        progress: called with (done, total) images.

    Returns:
        ``(B, h, w)`` float32 on CPU. A map sums to 1 minus the attention that [CLS] pays to itself.
    """
    encoder, maps = model.encoder, []
    last = len(encoder.blocks) - 1

    def probe(number: int, block: Block, x: Tensor) -> None:
        if number == last:
            row = block_attention(block, x)[:, :, 0]  # (B, H, N)
            maps.append(row[..., block.attn.num_prefix_tokens :].mean(1).cpu())

    with all_global(encoder, global_attention):
        for start in range(0, len(pixels), batch_size):
            images = normalise(model, pixels[start : start + batch_size])
            tokens = encoder.embed(model.cut(images)) + encoder.pos_embed[:, 1:]
            encoder(tokens, probe)
            if progress is not None:
                progress(min(start + batch_size, len(pixels)), len(pixels))
    return torch.cat(maps).unflatten(1, encoder.grid)


@contextmanager
def all_global(encoder: Encoder, on: bool = True) -> Iterator[None]:
    """Every block attends globally inside, as after transfer; ``on=False`` leaves TopK attention as it is."""
    ratios = [block.attn.topk_ratio for block in encoder.blocks]
    try:
        for block in encoder.blocks:
            block.attn.topk_ratio = None if on else block.attn.topk_ratio
        yield
    finally:
        for block, ratio in zip(encoder.blocks, ratios):
            block.attn.topk_ratio = ratio


def concentration(maps: Tensor) -> Tensor:
    """How many patches a map spreads over, as a share of all: exp(entropy) / L, ``(B,)`` in (0, 1].

    1 is a flat map, 1/L a single patch.
    """
    share = maps.flatten(1).double()
    share = share / share.sum(1, keepdim=True)
    entropy = -(share * share.clamp_min(1e-300).log()).sum(1)
    return (entropy.exp() / share.shape[1]).float()


def box_shares(maps: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """How much of each map falls into the object's box.

    Args:
        maps: ``(B, h, w)``, not negative.
        boxes: ``(B, 4)`` x1, y1, x2, y2 in shares of width and height.

    Returns:
        Share of the map's sum inside the box, ``(B,)``, patches on the border counted by their covered part; and the
        box's share of the image, ``(B,)``, which a flat map would give.
    """
    height, width = maps.shape[1:]
    rows = _covered(boxes[:, 1], boxes[:, 3], height)  # (B, h)
    columns = _covered(boxes[:, 0], boxes[:, 2], width)  # (B, w)
    inside = torch.einsum('bhw,bh,bw->b', maps, rows, columns) / maps.sum((1, 2))
    return inside, (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _covered(low: Tensor, high: Tensor, cells: int) -> Tensor:
    """Part of each of ``cells`` equal cells of 0..1 that lies between low and high: ``(B, cells)``."""
    edges = torch.arange(cells + 1, dtype=low.dtype) / cells
    part = torch.minimum(high[:, None], edges[1:]) - torch.maximum(low[:, None], edges[:-1])
    return part.clamp_min(0) * cells
