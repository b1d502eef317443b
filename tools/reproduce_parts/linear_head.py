"""One linear layer on the patches as a decode head of mmseg, with a loss that is cheap where there are many classes."""

from __future__ import annotations

from typing import Any

from mmseg.models.decode_heads import FCNHead
from mmseg.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class LinearHead(FCNHead):
    """Classifies each patch; in training the scores are compared with every fourth label in both directions.

    With 150 classes a loss on all pixels costs several times what a ViT-Ti does. Tests are on all pixels.

    Args:
        in_channels: D of the map (N, D, h, w).
        label_stride: distance of the labels that count, in pixels.
        kwargs: of mmseg's decode heads (``num_classes``, ``ignore_index``, ``in_index``, ...).
    """

    def __init__(self, in_channels: int, label_stride: int = 4, **kwargs: Any) -> None:
        super().__init__(
            in_channels=in_channels, channels=in_channels, num_convs=0, concat_input=False, dropout_ratio=0.0, **kwargs
        )
        self.label_stride = label_stride

    def _stack_batch_gt(self, batch_data_samples: list) -> Tensor:
        """(N, 1, H / stride, W / stride) labels, each from the middle of its square."""
        first = self.label_stride // 2
        labels = super()._stack_batch_gt(batch_data_samples)
        return labels[..., first :: self.label_stride, first :: self.label_stride]
