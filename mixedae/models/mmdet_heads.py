"""Heads of mmdet made safe for half precision.

Needs mmdet, so configs ask for it: ``custom_imports = dict(imports=['mixedae', 'mixedae.models.mmdet_heads'])``.
"""

from __future__ import annotations

from mmdet.models.dense_heads import RPNHead
from torch import Tensor

from mixedae.layers.precision import at_least_float32
from mixedae.registry import MODELS


@MODELS.register_module()
class Float32RPNHead(RPNHead):
    """mmdet's ``RPNHead`` with scores and deltas in float32 under autocast; its convolutions stay in half precision.

    mmdet makes the anchors of proposals in the type of the scores: in bfloat16, with 8 bits, a coordinate beyond 256
    is rounded to 2 pixels, beyond 1024 to 8. Same weights; same results without autocast.
    """

    def forward_single(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, C, h, w)`` to scores ``(B, A, h, w)`` and deltas ``(B, 4A, h, w)``, A anchors a place."""
        scores, deltas = super().forward_single(x)
        return at_least_float32(scores), at_least_float32(deltas)
