"""TopK accuracy by layer, measured on images, and along training, read from a run's log (the paper's Fig. 7)."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mixedae.analysis.inputs import normalise
from mixedae.functional import draw_mixing_mask, mix, own_image_attention, patchify, topk_accuracy
from mixedae.layers import Block
from mixedae.models.pretrainer import Pretrainer
from mixedae.visualization import read_scalars
from mixedae.visualization.curves import Curve


@dataclass(frozen=True)
class LayerAccuracy:
    """Measurements of N groups of images, each the mean over the mixes drawn of it.

    Attributes:
        topk_acc: ``(N, depth, H)``, TopK accuracy of each group, block and head.
        own_attention: ``(N, depth, H)``, share of patch attention that falls on the query's own image.
        topk: ``(depth,)`` kept keys K of each block; in global blocks the K best keys are *counted*, all are used.
        is_global: ``(depth,)`` whether the block is global.
        chance: r = 1/g.
    """

    topk_acc: np.ndarray
    own_attention: np.ndarray
    topk: list[int]
    is_global: list[bool]
    chance: float

    @property
    def by_layer(self) -> np.ndarray:
        """``(depth,)`` mean TopK accuracy."""
        return self.topk_acc.mean((0, 2))

    @property
    def error(self) -> np.ndarray:
        """``(depth,)`` standard error of :attr:`by_layer` over the groups (mixes of one group are not independent)."""
        per_group = self.topk_acc.mean(2)
        return per_group.std(0, ddof=1) / len(per_group) ** 0.5 if len(per_group) > 1 else 0 * self.by_layer


@torch.no_grad()
def layer_accuracy(
    model: Pretrainer,
    pixels: Tensor,
    *,
    group_size: int | None = None,
    topk: int | None = None,
    draws: int = 1,
    seed: int = 0,
    use_segments: bool = True,
    batch_groups: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> LayerAccuracy:
    """Mixes images and measures in every block how well patches find the patches of their own image.

    Works for MAE too: it then tells what an encoder does with mixes that it was never trained on (without segment
    embedding, K = r·L keys counted).

    Args:
        model: a pretext task.
        pixels: ``(B, 3, H, W)`` uint8; each g consecutive images are mixed.
        group_size: g; the model's own if None, 4 for MAE.
        topk: K that is counted in global blocks; r·L if None.
        draws: mixing masks for each group.
        seed: of the masks.
        use_segments: False leaves the segment embedding out. It tells every patch's image apart from the others', so
            only what remains without it was recognised from the pictures.
        batch_groups: groups at a time.
        progress: called with (done, total) groups.

    Raises:
        ValueError: B is no multiple of g, or the size is not the model's.
    """
    encoder = model.encoder
    group_size = group_size or getattr(model, 'group_size', 4)
    if not len(pixels) or len(pixels) % group_size:
        raise ValueError(f'{len(pixels)} images cannot be split into groups of {group_size}.')
    if tuple(pixels.shape[-2:]) != encoder.img_size:
        raise ValueError(f'The images have {tuple(pixels.shape[-2:])} px, the model takes {encoder.img_size}.')
    segments = encoder.segments() if use_segments and encoder.segment_embed is not None else None
    if segments is not None and len(segments) != group_size:
        raise ValueError(f'The model mixes {len(segments)} images and cannot be measured with groups of {group_size}.')
    counted = topk or encoder.num_patches // group_size
    generator = torch.Generator().manual_seed(seed)
    groups = pixels.unflatten(0, (-1, group_size))
    accuracy, attention = [], []
    for start in range(0, len(groups), batch_groups):
        part = groups[start : start + batch_groups]
        images = normalise(model, part.flatten(0, 1))
        patches = patchify(images, encoder.patch_size).unflatten(0, (-1, group_size))  # (G, g, L, P*P*C)
        mixes = []  # of each draw: TopK accuracy and own attention, (G, depth, H) both
        for _ in range(draws):
            mask = draw_mixing_mask(len(part), encoder.num_patches, group_size, generator=generator)
            mask = mask.to(images.device)
            tokens = encoder.embed(mix(patches, mask)) + encoder.pos_embed[:, 1:]
            if segments is not None:
                tokens = tokens + segments[mask]
            probe = _Probe(mask, counted)
            encoder(tokens, probe)
            mixes.append((torch.stack(probe.accuracy, 1), torch.stack(probe.attention, 1)))
        of_groups = [torch.stack(values).double().mean(0) for values in zip(*mixes, strict=True)]
        accuracy.append(of_groups[0])
        attention.append(of_groups[1])
        if progress is not None:
            progress(min(start + batch_groups, len(groups)), len(groups))
    kept = [block.attn.num_kept(1 + encoder.num_patches) for block in encoder.blocks]
    return LayerAccuracy(
        torch.cat(accuracy).cpu().numpy(),
        torch.cat(attention).cpu().numpy(),
        [k or counted for k in kept],
        [k is None for k in kept],
        1 / group_size,
    )


class _Probe:
    """Measures each block at its own input, sequence by sequence."""

    def __init__(self, mask: Tensor, counted: int) -> None:
        self.mask, self.counted = mask, counted
        self.accuracy: list[Tensor] = []
        self.attention: list[Tensor] = []

    def __call__(self, number: int, block: Block, x: Tensor) -> None:
        q, k, _ = block.attn.project_qkv(block.norm1(x))
        kept, cls = block.attn.num_kept(x.shape[1]), block.attn.cls
        rows = [(q[s : s + 1], k[s : s + 1], self.mask[s : s + 1]) for s in range(len(x))]
        self.accuracy.append(torch.stack([topk_accuracy(*row, kept or self.counted, cls=cls) for row in rows]))
        self.attention.append(torch.stack([own_image_attention(*row, kept, cls=cls) for row in rows]))


def accuracy_along_training(run_dir: str | os.PathLike) -> dict[int, Curve]:
    """Reads what the meter hook logged: block number -> (iterations, TopK accuracy).

    Args:
        run_dir: work directory of the run (with ``<timestamp>/vis_data/scalars.json``).

    Raises:
        FileNotFoundError: the run has no such log.
        ValueError: the log holds no TopK accuracy.
    """
    prefix = 'topk_acc/layer_'
    scalars = read_scalars(run_dir)
    layers = {int(name[len(prefix) :]): curve for name, curve in scalars.items() if name.startswith(prefix)}
    if not layers:
        raise ValueError(
            f'The log of {run_dir} holds no {prefix}..: only MixedAE runs with PretrainMeterHook write it.'
        )
    return dict(sorted(layers.items()))
