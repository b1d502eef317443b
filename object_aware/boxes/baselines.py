"""Boxes that need neither labels nor a look at the image: what proposals must be better than."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

Boxes = dict[str, tuple[np.ndarray, np.ndarray]]


def random_boxes(
    proposals: Mapping[str, tuple[np.ndarray, np.ndarray]],
    sizes: Mapping[str, tuple[int, int]],
    seed: int = 0,
    count: int | None = None,
) -> Boxes:
    """Boxes of the proposals' own sizes, anywhere.

    Each box gets the share of width and of height of a proposal drawn from all images, and a uniform place. No object
    is looked at; what is left is how well the proposals' places and shapes fit their images.

    Args:
        proposals: for each image (K, 4) boxes xyxy and (K,) scores.
        sizes: (width, height) of each image.
        seed: of the drawing.
        count: boxes an image; None: as many as its proposals.
    """
    rng = np.random.default_rng(seed)
    shares = [
        (boxes[:, 2:] - boxes[:, :2]) / np.array(sizes[name]) for name, (boxes, _) in proposals.items() if len(boxes)
    ]
    if not shares:
        raise ValueError('No proposals: sizes of random boxes cannot be drawn from them.')
    pool = np.concatenate(shares)
    result = {}
    for name, size in sizes.items():
        number = len(proposals[name][0]) if count is None and name in proposals else count or 0
        side = pool[rng.integers(len(pool), size=number)]
        corner = rng.uniform(size=(number, 2)) * (1 - side)
        result[name] = np.concatenate([corner, corner + side], axis=1) * np.array([*size, *size]), np.ones(number)
    return result


def centre_box(sizes: Mapping[str, tuple[int, int]], share: float = 0.5) -> Boxes:
    """One box in the middle of each image, of the image's aspect and this share of its area; 1 is the whole image."""
    side = math.sqrt(share)
    low, high = (1 - side) / 2, (1 + side) / 2
    unit = np.array([[low, low, high, high]])
    return {name: (unit * np.array([*size, *size]), np.ones(1)) for name, size in sizes.items()}
