"""Regions of an image and what they look like, for selective search."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

COLOUR_SPACES = ('rgb', 'lab', 'hsv')
COLOUR_BINS, TEXTURE_BINS, DIRECTIONS = 25, 10, 8


@dataclass(frozen=True)
class Regions:
    """R regions that tile an image.

    Attributes:
        labels: (H, W) int64, 0..R-1.
        sizes: (R,) float64 pixels.
        boxes: (R, 4) float64 xyxy.
        colours: (R, 75) float64 histograms of the three channels, sum 1.
        textures: (R, 240) float64 histograms of the gradients of three channels in eight directions, sum 1.
        neighbours: (E, 2) int64 pairs of regions that touch, each once, first < second.
    """

    labels: np.ndarray
    sizes: np.ndarray
    boxes: np.ndarray
    colours: np.ndarray
    textures: np.ndarray
    neighbours: np.ndarray

    def __len__(self) -> int:
        return len(self.sizes)


def to_colour_space(pixels: np.ndarray, space: str) -> np.ndarray:
    """(H, W, 3) uint8 RGB to float64 channels, each scaled to 0..1."""
    from skimage import color

    if space == 'rgb':
        return pixels / 255.0
    if space == 'hsv':
        return color.rgb2hsv(pixels)
    if space == 'lab':
        return (color.rgb2lab(pixels) + [0.0, 128.0, 128.0]) / [100.0, 255.0, 255.0]
    raise ValueError(f'A colour space is one of {", ".join(COLOUR_SPACES)}, not {space!r}.')


def segment(channels: np.ndarray, scale: float = 100.0, sigma: float = 0.8, min_size: int = 20) -> np.ndarray:
    """(H, W) int64 labels of a graph-based over-segmentation (Felzenszwalb and Huttenlocher, 2004)."""
    from skimage.segmentation import felzenszwalb

    return felzenszwalb(channels, scale=scale, sigma=sigma, min_size=min_size).astype(np.int64)


def describe(labels: np.ndarray, channels: np.ndarray) -> Regions:
    """Sizes, boxes, histograms and neighbours of the regions of a label map.

    Args:
        labels: (H, W) whole numbers 0..R-1, each used.
        channels: (H, W, 3) float64 in 0..1.
    """
    width = labels.shape[1]
    flat = labels.ravel()
    count = int(flat.max()) + 1
    sizes = np.bincount(flat, minlength=count).astype(np.float64)
    rows, columns = np.divmod(np.arange(flat.size), width)
    boxes = np.empty((count, 4))
    boxes[:, :2], boxes[:, 2:] = np.inf, -np.inf
    np.minimum.at(boxes[:, 0], flat, columns)
    np.minimum.at(boxes[:, 1], flat, rows)
    np.maximum.at(boxes[:, 2], flat, columns + 1)
    np.maximum.at(boxes[:, 3], flat, rows + 1)
    return Regions(
        labels,
        sizes,
        boxes,
        _histograms(flat, channels.reshape(-1, 3), np.zeros(3), np.ones(3), COLOUR_BINS, count),
        _textures(flat, channels, count),
        _neighbours(labels),
    )


def _textures(flat: np.ndarray, channels: np.ndarray, count: int) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    responses = []
    for c in range(3):
        across = gaussian_filter(channels[..., c], 1.0, order=(0, 1)).ravel()
        down = gaussian_filter(channels[..., c], 1.0, order=(1, 0)).ravel()
        for k in range(DIRECTIONS):
            angle = 2 * np.pi * k / DIRECTIONS
            responses.append(np.maximum(np.cos(angle) * across + np.sin(angle) * down, 0.0))
    values = np.stack(responses, axis=1)
    return _histograms(flat, values, np.zeros(values.shape[1]), values.max(axis=0), TEXTURE_BINS, count)


def _histograms(
    flat: np.ndarray, values: np.ndarray, low: np.ndarray, high: np.ndarray, bins: int, count: int
) -> np.ndarray:
    """(R, C * bins): for each region the histograms of C values a pixel, side by side, sum 1."""
    spread = np.where(high > low, high - low, 1.0)
    binned = np.clip(((values - low) / spread * bins).astype(np.int64), 0, bins - 1)
    columns = values.shape[1]
    index = (flat[:, None] * columns + np.arange(columns)) * bins + binned
    counts = np.bincount(index.ravel(), minlength=count * columns * bins).reshape(count, columns * bins)
    return counts / counts.sum(axis=1, keepdims=True)


def _neighbours(labels: np.ndarray) -> np.ndarray:
    pairs = np.concatenate(
        [
            np.stack([labels[:, :-1].ravel(), labels[:, 1:].ravel()], axis=1),
            np.stack([labels[:-1].ravel(), labels[1:].ravel()], axis=1),
        ]
    )
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    return np.unique(np.sort(pairs, axis=1), axis=0)
