"""Necks that turn a plain ViT's stride-16 maps into the pyramid that dense heads expect. No mmcv needed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mixedae.layers.precision import at_least_float32
from mixedae.registry import MODELS


@MODELS.register_module()
class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of ``(B, C, H, W)``, each place by itself.

    In the heads of mm configs: ``norm_cfg=dict(type='mixedae.LayerNorm2d', eps=1e-6)``.
    """

    def __init__(self, num_channels: int, eps: float = 1e-6) -> None:
        super().__init__(num_channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def build_norm2d(norm: str, channels: int) -> nn.Module:
    """``'BN'``, ``'SyncBN'``, ``'GN'`` (32 groups) or ``'LN'`` for maps of so many channels."""
    if norm == 'GN':
        return nn.GroupNorm(32, channels)
    kinds = {'BN': nn.BatchNorm2d, 'SyncBN': nn.SyncBatchNorm, 'LN': LayerNorm2d}
    if norm not in kinds:
        raise ValueError(f"norm must be 'BN', 'SyncBN', 'GN' or 'LN', not '{norm}'.")
    return kinds[norm](channels)


def _deconv(in_channels: int, out_channels: int) -> nn.Module:
    return nn.ConvTranspose2d(in_channels, out_channels, kernel_size=2, stride=2)


def _halve() -> nn.Module:
    # equal to floor mode for even sizes; keeps the last row or column of odd ones, and a 1 x 1 map alive
    return nn.MaxPool2d(kernel_size=2, stride=2, ceil_mode=True)


def for_roi_align(x: Tensor) -> Tensor:
    """A map ``(B, C, H, W)`` as mmcv's RoIAlign needs it: float32, and row by row in memory.

    The kernel does not ask how its input lies in memory: given a permuted or channels-last map, it reads other values
    without a word. mmcv has no bfloat16 kernel.
    """
    return at_least_float32(x).contiguous()


@MODELS.register_module()
class MultiBlockPyramid(BaseModule):
    """BEiT's and MAE's pyramid: the maps of four blocks, each to a stride of its own.

    | input | operation | stride (P = 16) | size |
    |---|---|---|---|
    | 0 | deconv 2x2, norm, GELU, deconv 2x2 | 4 | 4h x 4w |
    | 1 | deconv 2x2 | 8 | 2h x 2w |
    | 2 | none | 16 | h x w |
    | 3 | max-pool 2x2 | 32 | ceil(h/2) x ceil(w/2) |

    Source: BEiT (arXiv 2106.08254), semantic segmentation code.

    Args:
        in_channels: D of the backbone; a list (of equal values) is accepted as heads and necks of mm have one.
        norm: norm between the two deconvolutions, see :func:`build_norm2d`; ``'SyncBN'`` is BEiT's.
        init_cfg: MMEngine's.
    """

    def __init__(self, in_channels: int | Sequence[int], norm: str = 'SyncBN', init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg=init_cfg)
        if not isinstance(in_channels, int):
            if len(set(in_channels)) != 1:
                raise ValueError(f'All maps of a plain ViT have the same width, not {list(in_channels)}.')
            in_channels = in_channels[0]
        dim = in_channels
        self.up4 = nn.Sequential(_deconv(dim, dim), build_norm2d(norm, dim), nn.GELU(), _deconv(dim, dim))
        self.up2 = _deconv(dim, dim)
        self.same = nn.Identity()
        self.down2 = _halve()

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Four maps ``(B, D, h, w)`` to maps at strides P/4, P/2, P, 2P."""
        if len(inputs) != 4:
            raise ValueError(f'MultiBlockPyramid takes four maps, got {len(inputs)}: set four out_indices.')
        return tuple(op(x).contiguous() for op, x in zip((self.up4, self.up2, self.same, self.down2), inputs))


@MODELS.register_module()
class SimpleFeaturePyramid(BaseModule):
    """ViTDet's pyramid: every level from the backbone's last map.

    Strides 4, 8, 16, 32 (for P = 16): two deconvolutions to ``D/2`` and ``D/4`` channels with norm and GELU between,
    one to ``D/2``, nothing, max-pool; then conv 1x1, norm, conv 3x3, norm, without bias. Further levels are every
    second place of the level before, as RPN's stride 64 in detectron2 and mmdet. ``start_level`` leaves fine ones out:
    1 for heads that begin at stride 8 (RetinaNet, FCOS, DINO). The maps are float32 under autocast too, and
    contiguous: see :func:`for_roi_align`.

    Source: ViTDet (arXiv 2203.16527), section 3 and its detectron2 code.

    Args:
        in_channels: D of the backbone, a multiple of 4; a list counts by its last entry.
        out_channels: channels of every level.
        num_outs: number of levels that come out, at least those of strides up to 32.
        start_level: the first level that comes out: 0 stride 4, 1 stride 8, 2 stride 16, 3 stride 32.
        norm: see :func:`build_norm2d`; ViTDet's is ``'LN'``.
        init_cfg: MMEngine's.
    """

    def __init__(
        self,
        in_channels: int | Sequence[int],
        out_channels: int = 256,
        num_outs: int = 5,
        start_level: int = 0,
        norm: str = 'LN',
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        dim = in_channels if isinstance(in_channels, int) else in_channels[-1]
        if dim % 4:
            raise ValueError(f'The width {dim} must be a multiple of 4: the finest level has a quarter of it.')
        if not 0 <= start_level <= 3:
            raise ValueError(f'start_level must be 0 (stride 4) .. 3 (stride 32), not {start_level}.')
        least = 4 - start_level
        if num_outs < least:
            raise ValueError(
                f'SimpleFeaturePyramid has {least} levels from level {start_level} on at least, not {num_outs}.'
            )
        self.num_outs = num_outs
        to_level = [
            nn.Sequential(_deconv(dim, dim // 2), build_norm2d(norm, dim // 2), nn.GELU(), _deconv(dim // 2, dim // 4)),
            _deconv(dim, dim // 2),
            nn.Identity(),
            _halve(),
        ]
        widths = [dim // 4, dim // 2, dim, dim]
        self.levels = nn.ModuleList(
            nn.Sequential(
                op,
                nn.Conv2d(width, out_channels, kernel_size=1, bias=False),
                build_norm2d(norm, out_channels),
                nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False),
                build_norm2d(norm, out_channels),
            )
            for op, width in list(zip(to_level, widths))[start_level:]
        )

    def forward(self, inputs: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The last map ``(B, D, h, w)`` to ``num_outs`` maps ``(B, out_channels, ...)`` of falling size."""
        x = inputs if isinstance(inputs, torch.Tensor) else inputs[-1]
        outs = [for_roi_align(level(x)) for level in self.levels]
        while len(outs) < self.num_outs:
            outs.append(F.max_pool2d(outs[-1], kernel_size=1, stride=2))
        return tuple(outs)


@MODELS.register_module()
class Float32Maps(BaseModule):
    """Maps in float32 and contiguous, the last of a detector's necks where that is mmdet's ``FPN``.

    See :func:`for_roi_align`. mmdet also gives RoIAlign its boxes in the type of the maps: in float16 a coordinate
    beyond 1024 is rounded to a whole pixel. Convolutions of the heads go on in half precision under autocast.
    """

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps ``(B, C, H, W)`` to the same values in float32, in memory row by row."""
        return tuple(for_roi_align(x) for x in inputs)


@MODELS.register_module()
class MapNorm(BaseModule):
    """Batch norm on every map, without scale and shift: what a linear head on frozen features needs and no more.

    Most of a pre-trained ViT's last map is alike in all patches; this takes it off.

    Args:
        in_channels: D of the backbone.
        init_cfg: MMEngine's.
    """

    def __init__(self, in_channels: int, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg=init_cfg)
        self.norm = nn.SyncBatchNorm(in_channels, affine=False)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps ``(B, D, h, w)`` to maps of the same sizes, each channel with mean 0 and variance 1 over the batch."""
        return tuple(self.norm(x) for x in inputs)
