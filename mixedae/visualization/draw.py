"""Drawing on images: masks coloured by source image, windows, objects, label maps. uint8 RGB arrays in and out."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

# One colour for each image of a group; far apart in lightness too, so that they differ without colour vision.
SOURCE_COLOURS: tuple[Colour, ...] = ((0, 92, 175), (245, 160, 10), (15, 150, 110), (214, 70, 130))


def palette(count: int) -> list[Colour]:
    """`count` distinct class colours, always the same ones: hues a golden angle apart, three lightnesses in turn."""
    colours = []
    for i in range(count):
        hue = (0.58 + i * 0.6180339887) % 1.0
        value, saturation = ((0.95, 0.72), (0.72, 0.85), (0.85, 0.45))[i % 3]
        red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
        colours.append((round(red * 255), round(green * 255), round(blue * 255)))
    return colours


def to_image(pixels: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Normalised (3, H, W) pixels back to a uint8 RGB image: `pixels * std + mean`, mean and std in 0..255."""
    scale = np.asarray(std, dtype=np.float64).reshape(3, 1, 1)
    shift = np.asarray(mean, dtype=np.float64).reshape(3, 1, 1)
    image = np.asarray(pixels, dtype=np.float64) * scale + shift
    return np.clip(np.rint(image), 0, 255).astype(np.uint8).transpose(1, 2, 0)


def fit(image: np.ndarray, side: int, *, nearest: bool = False) -> np.ndarray:
    """Resize so that the longer side is `side` pixels; the shape of the picture stays."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    method = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize(size, method))


def mask_colours(
    mask: np.ndarray, grid: tuple[int, int], patch_size: int = 8, colours: Sequence[Colour] = ()
) -> np.ndarray:
    """A mixing mask as flat colours: one square of `patch_size` pixels a patch, coloured by the image it comes from.

    Args:
        mask: (L,) whole numbers 0..g-1, row-major over the patches.
        grid: patches down and across, h * w = L.
    Returns:
        (h * patch_size, w * patch_size, 3) uint8.
    """
    mask = np.asarray(mask)
    if mask.shape != (grid[0] * grid[1],):
        raise ValueError(f'a mask of shape {mask.shape} does not fill a grid of {grid[0]} x {grid[1]} patches')
    table = np.array(colours or source_colours(int(mask.max()) + 1), dtype=np.uint8)
    cells = table[mask.reshape(grid)]
    return cells.repeat(patch_size, axis=0).repeat(patch_size, axis=1)


def draw_windows(
    scene: np.ndarray,
    windows: np.ndarray,
    boxes: np.ndarray | None = None,
    colours: Sequence[Colour] | None = None,
    width: int = 2,
) -> np.ndarray:
    """Crop windows, and the boxes they were made for, over their scene.

    Args:
        windows: (n, 4) x1, y1, x2, y2 in scene pixels, drawn solid.
        boxes: (n, 4) the objects, drawn thin in white.
    """
    windows = np.asarray(windows, dtype=np.float64).reshape(-1, 4)
    colours = colours or palette(len(windows))
    picture = Image.fromarray(np.ascontiguousarray(scene))
    pen = ImageDraw.Draw(picture)
    for i, window in enumerate(windows):
        if boxes is not None:
            pen.rectangle(_inside(boxes[i], scene), outline=(255, 255, 255), width=1)
        pen.rectangle(_inside(window, scene), outline=colours[i % len(colours)], width=width)
    return np.asarray(picture)


def draw_objects(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[int],
    names: Sequence[str],
    *,
    scores: Sequence[float] | None = None,
    masks: np.ndarray | None = None,
    alpha: float = 0.45,
) -> np.ndarray:
    """Objects over their image, truth and prediction alike: mask veil, box, name and score.

    Args:
        boxes: (n, 4) x1, y1, x2, y2 in pixels.
        labels: (n,) positions in `names`.
        masks: (n, H, W) bool.
    """
    colours = palette(len(names))
    canvas = np.array(image)
    for i in reversed(range(len(boxes))):  # the first object, the surest one, ends on top
        if masks is not None:
            inside = np.asarray(masks[i], dtype=bool)
            veil = np.array(colours[labels[i]], dtype=np.float64)
            canvas[inside] = np.rint((1 - alpha) * canvas[inside] + alpha * veil).astype(np.uint8)
    picture = Image.fromarray(canvas)
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=max(10, image.shape[0] // 20))
    for i in reversed(range(len(boxes))):
        colour = colours[labels[i]]
        x1, y1, x2, y2 = _inside(boxes[i], image)
        pen.rectangle((x1, y1, x2, y2), outline=colour, width=max(1, image.shape[0] // 160))
        text = names[labels[i]] if scores is None else f'{names[labels[i]]} {scores[i]:.2f}'
        place = pen.textbbox((x1 + 2, max(0, y1)), text, font=font)
        pen.rectangle((place[0] - 2, place[1] - 1, place[2] + 2, place[3] + 1), fill=colour)
        pen.text((x1 + 2, max(0, y1)), text, font=font, fill=_ink_on(colour))
    return np.asarray(picture)


def colour_labels(
    label_map: np.ndarray, num_classes: int, image: np.ndarray | None = None, alpha: float = 0.6, ignore: int = 255
) -> np.ndarray:
    """A label map (H, W) as class colours, over the image if given; pixels of value `ignore` show it (or grey)."""
    label_map = np.asarray(label_map)
    known = label_map != ignore
    if known.any() and int(label_map[known].max()) >= num_classes:
        raise ValueError(f'label {int(label_map[known].max())} in a map of {num_classes} classes')
    table = np.array(palette(num_classes), dtype=np.uint8)
    flat = np.full((*label_map.shape, 3), 128, dtype=np.uint8)
    flat[known] = table[label_map[known]]
    if image is None:
        return flat
    blended = _blend(image, flat, alpha)
    blended[~known] = image[~known]
    return blended


def _blend(image: np.ndarray, veil: np.ndarray, alpha: float) -> np.ndarray:
    return np.rint((1 - alpha) * image.astype(np.float64) + alpha * veil).astype(np.uint8)


def source_colours(count: int) -> list[Colour]:
    """One colour for each of `count` images of a group."""
    return list(SOURCE_COLOURS[:count]) if count <= len(SOURCE_COLOURS) else palette(count)


def _inside(box: Sequence[float] | np.ndarray, image: np.ndarray) -> tuple[int, int, int, int]:
    height, width = image.shape[:2]
    x1, y1, x2, y2 = (float(v) for v in box)
    x1, y1 = min(max(round(x1), 0), width - 1), min(max(round(y1), 0), height - 1)
    return x1, y1, max(x1, min(round(x2), width - 1)), max(y1, min(round(y2), height - 1))


def _ink_on(colour: Colour) -> Colour:
    red, green, blue = colour
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)
