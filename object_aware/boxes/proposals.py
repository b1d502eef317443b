"""What every proposer gives: boxes of one image with scores, and masks where it has some."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Proposals:
    """K boxes of one image, best first.

    Attributes:
        boxes: (K, 4) float64 xyxy, pixels of the image, inside it.
        scores: (K,) float64, 0..1, falling.
        masks: K masks as counts of COCO's compressed RLE at the image's size, or None.
    """

    boxes: np.ndarray
    scores: np.ndarray
    masks: list[bytes] | None = None

    def __len__(self) -> int:
        return len(self.boxes)
