"""The embedded demo data: drawn scenes with boxes, instance masks and label maps, so that nothing need be downloaded.

A scene is a sky over a ground of grass and sand, with three to seven objects on it. The six object classes differ in
shape *and* in texture (striped disc, checked box, dotted triangle, plain star, spoked ring, wavy cross); colour, size,
aspect, rotation, light and occlusion are random for every object and have the same distribution in all classes, so a
colour never gives a class away. Everything is drawn from signed distance functions with NumPy, so edges and textures
are antialiased, and a scene is a function of (seed, split, number) alone.

The folder written by :func:`write_demo_data` has the layout that ``tools/demo.py`` reads::

    DIR/det/images/*.jpg
    DIR/det/annotations/{train,val}.json       COCO: visible boxes, polygons and RLE masks
    DIR/seg/images/{train,val}/*.jpg           the same scenes
    DIR/seg/annotations/{train,val}/*.png      0 unlabelled, 1..n in the order of classes.txt
    DIR/seg/classes.txt
"""

from __future__ import annotations

import colorsys
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

OBJECT_CLASSES = ('disc', 'box', 'triangle', 'star', 'ring', 'cross')
STUFF_CLASSES = ('sky', 'grass', 'sand')
CLASSES = OBJECT_CLASSES + STUFF_CLASSES  # label k + 1 in the label maps; 0 is 'unlabelled'

_SPLITS = ('train', 'val')
_MIN_VISIBLE = 0.45  # each object keeps at least this share of its area visible
_EDGE_SOFTNESS = 0.5  # pixels on either side of an edge that are blended
_STAR_INNER = 0.5  # inner radius of the star over its outer radius
_CROSS_ARM = 0.38  # half width of the cross's arms over its half length
_RING_WIDTH = 0.24  # half width of the ring's band; its middle line has radius 1 - _RING_WIDTH


@dataclass(frozen=True)
class SyntheticScene:
    """One drawn scene.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) uint8 label map, 0 = unlabelled, k + 1 = ``CLASSES[k]``.
        instances: (H, W) int16, -1 where no object is visible, else the object's number.
        classes: (N,) index into ``OBJECT_CLASSES`` of each object.
        outlines: for each object its (V, 2) polygon in pixels where that polygon *is* the visible part (nothing hides
            or cuts the object and it has no hole), else None.
    """

    image: np.ndarray
    labels: np.ndarray
    instances: np.ndarray
    classes: np.ndarray
    outlines: tuple[np.ndarray | None, ...]


def _smooth(value: np.ndarray) -> np.ndarray:
    """0..1 from a signed distance in pixels (positive = inside): a one-pixel antialiased step."""
    return np.clip(value / (2 * _EDGE_SOFTNESS) + 0.5, 0.0, 1.0)


def _regular_polygon(corners: int, radius: float = 1.0) -> np.ndarray:
    angle = -np.pi / 2 + 2 * np.pi * np.arange(corners) / corners
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _outline(name: str, stretch: float) -> np.ndarray | None:
    """(V, 2) corners of a class's outline in its own unit coordinates; None for the ring, which has a hole."""
    if name == 'disc':
        return _regular_polygon(48)
    if name == 'box':
        return np.array([[-1, -stretch], [1, -stretch], [1, stretch], [-1, stretch]], dtype=float)
    if name == 'triangle':
        return _regular_polygon(3)
    if name == 'star':
        outer, inner = _regular_polygon(5), _regular_polygon(10, _STAR_INNER)[1::2]
        return np.stack([outer, inner], axis=1).reshape(-1, 2)
    if name == 'cross':
        a = _CROSS_ARM
        quarter = np.array([[a, -1], [a, -a], [1, -a]])
        turns = [np.array([[0, -1], [1, 0]]), -np.eye(2), np.array([[0, 1], [-1, 0]])]
        return np.concatenate([quarter, *(quarter @ turn.T for turn in turns)])
    return None


def _signed_distance(name: str, u: np.ndarray, v: np.ndarray, stretch: float) -> np.ndarray:
    """Distance to the outline in unit coordinates, positive inside (exact near edges, a bound near corners)."""
    if name == 'disc':
        return 1.0 - np.hypot(u, v)
    if name == 'box':
        return np.minimum(1.0 - np.abs(u), stretch - np.abs(v))
    if name == 'ring':
        return _RING_WIDTH - np.abs(np.hypot(u, v) - (1.0 - _RING_WIDTH))
    if name == 'triangle':
        return np.minimum.reduce(
            [0.5 - (np.cos(a) * u + np.sin(a) * v) for a in (np.pi / 2, np.pi * 7 / 6, np.pi * 11 / 6)]
        )
    if name == 'cross':
        a, b = np.abs(u), np.abs(v)
        return np.maximum(np.minimum(1.0 - a, _CROSS_ARM - b), np.minimum(1.0 - b, _CROSS_ARM - a))
    if name == 'star':
        radius, angle = np.hypot(u, v), np.arctan2(v, u) + np.pi / 2
        angle = np.abs(np.mod(angle + np.pi / 5, 2 * np.pi / 5) - np.pi / 5)  # folded on one half of one ray
        p, q = radius * np.cos(angle), radius * np.sin(angle)
        inner = _STAR_INNER * np.array([np.cos(np.pi / 5), np.sin(np.pi / 5)])
        edge = inner - np.array([1.0, 0.0])
        normal = np.array([edge[1], -edge[0]]) / np.hypot(*edge)  # points outwards
        return -((p - 1.0) * normal[0] + q * normal[1])
    raise ValueError(f'unknown object class {name!r}; the classes are {", ".join(OBJECT_CLASSES)}.')


def _texture(name: str, u: np.ndarray, v: np.ndarray, pixels: float, phase: float, density: float) -> np.ndarray:
    """Blend of an object's two colours, 0..1, in its own coordinates; ``pixels`` per unit keep edges one pixel wide."""
    if name == 'star':  # plain: a soft fade from the middle
        return np.clip(1.15 - 1.1 * np.hypot(u, v), 0, 1)
    if name == 'ring':  # spokes
        spokes = np.round(5 + 3 * density)
        wave, slope = np.sin(spokes * (np.arctan2(v, u) + phase)), spokes
    elif name == 'disc':  # stripes
        slope = 6.0 + 5.0 * density
        wave = np.sin(slope * u + phase)
    elif name == 'box':  # checks
        slope = 4.5 + 3.0 * density
        wave = np.sin(slope * u + phase) * np.sin(slope * v + phase)
    elif name == 'triangle':  # dots on a grid
        slope = 7.0 + 4.0 * density
        wave = np.sin(slope * u + phase) + np.sin(slope * v + phase) - 0.75
    else:  # cross: wavy bands
        slope = 8.0 + 4.0 * density
        wave = np.sin(slope * v + 1.6 * np.sin(5.0 * u + phase))
    return _smooth(wave * pixels / slope)


def _noise(
    rng: np.random.Generator, width: int, height: int, cells: tuple[float, float], octaves: int = 3
) -> np.ndarray:
    """(height, width) smooth noise of mean 0 and deviation 1; ``cells`` = across and down in the coarsest octave."""
    total = np.zeros((height, width), dtype=np.float32)
    for octave in range(octaves):
        across, down = (max(2, round(c * 2**octave)) for c in cells)
        grid = Image.fromarray(rng.standard_normal((down, across)).astype(np.float32))
        total += 0.6**octave * np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC))
    return (total - total.mean()) / (total.std() + 1e-6)


def _rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    return 255.0 * np.array(
        colorsys.hsv_to_rgb(hue % 1.0, float(np.clip(saturation, 0, 1)), float(np.clip(value, 0, 1)))
    )


def _background(rng: np.random.Generator, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Sky over grass and sand: (H, W, 3) float pixels and the (H, W) index of the stuff class."""
    y = np.arange(height, dtype=np.float32)[:, None]
    column = np.arange(width, dtype=np.float32)[None, :]

    # Sky: from midday blue to a pale evening, with soft clouds.
    evening = rng.random() ** 2
    top = _rgb(0.57 + 0.04 * rng.random(), 0.55 - 0.2 * evening, 0.95 - 0.25 * evening)
    low = _rgb(0.55 * (1 - evening) + 0.08 * evening, 0.18 + 0.2 * evening, 0.97)
    fade = np.clip(y / (0.7 * height), 0, 1)[..., None]
    clouds = np.clip(0.5 * _noise(rng, width, height, (3, 5)) - 0.2 + 0.5 * rng.random(), 0, 1)[..., None]
    sky = (top * (1 - fade) + low * fade) * (1 - 0.8 * clouds) + _rgb(0.1, 0.04 + 0.08 * evening, 0.99) * 0.8 * clouds

    # Grass: fine upright blades and larger patches. Sand: grain and slanted ripples. Lighter towards the viewer.
    near = 0.85 + 0.2 * (y / height)
    blades = _noise(rng, width, height, (width / 2.5, height / 9), 1)
    patches = _noise(rng, width, height, (4, 6))
    grass_colour = _rgb(0.21 + 0.12 * rng.random(), 0.45 + 0.3 * rng.random(), 0.45 + 0.25 * rng.random())
    grass = grass_colour * (near * (1 + 0.13 * blades + 0.08 * patches))[..., None]
    ripple_length = width / rng.uniform(14, 26)
    ripples = np.sin(2 * np.pi * (y + 0.35 * column) / ripple_length + 1.2 * _noise(rng, width, height, (4, 4)))
    grain = rng.standard_normal((height, width))
    sand_colour = _rgb(0.08 + 0.06 * rng.random(), 0.2 + 0.3 * rng.random(), 0.75 + 0.17 * rng.random())
    sand = sand_colour * (near * (1 + 0.05 * ripples + 0.05 * grain))[..., None]

    def line(level: float, roughness: float) -> np.ndarray:
        return height * (level + roughness * _noise(rng, width, 1, (4, 2)))[0][None, :]

    horizon = line(rng.uniform(0.25, 0.55), 0.015)
    shore = line(rng.uniform(0.3, 1.15), 0.05) + rng.uniform(-0.5, 0.5) * (column - width / 2)
    below_horizon, below_shore = _smooth(y - horizon)[..., None], _smooth(y - shore)[..., None]
    far, close = (grass, sand) if rng.random() < 0.5 else (sand, grass)
    ground = far * (1 - below_shore) + close * below_shore
    pixels = sky * (1 - below_horizon) + ground * below_horizon
    far_id, close_id = (1, 2) if far is grass else (2, 1)
    stuff = np.where(below_horizon[..., 0] < 0.5, 0, np.where(below_shore[..., 0] < 0.5, far_id, close_id))
    return pixels, stuff


@dataclass(frozen=True)
class _Placed:
    """Where and how one object is drawn: its area of the image and everything measured there."""

    rows: slice
    columns: slice
    distance: np.ndarray  # pixels, positive inside
    shadow: np.ndarray  # the same for the shadow
    u: np.ndarray
    v: np.ndarray
    radius: float
    outline: np.ndarray | None  # (V, 2) pixels

    @property
    def mask(self) -> np.ndarray:
        return self.distance >= 0


def _place(rng: np.random.Generator, name: str, width: int, height: int, light: np.ndarray) -> _Placed:
    """One object of random size, aspect, rotation and position; its centre is inside the scene, its rim may not be."""
    short = min(width, height)
    radius = float(short * np.exp(rng.uniform(np.log(0.10), np.log(0.29))))
    centre = np.array(
        [rng.uniform(0.5 * radius, width - 0.5 * radius), rng.uniform(0.5 * radius, height - 0.5 * radius)]
    )
    angle = rng.uniform(-np.pi, np.pi) if name in ('disc', 'ring') else rng.uniform(-0.6, 0.6)
    squeeze = rng.uniform(0.75, 1.0)  # a slanted view: one axis is shortened
    stretch = rng.uniform(0.55, 1.0)  # the box's own aspect
    cos, sin = np.cos(angle), np.sin(angle)

    drop = 0.16 * radius * light  # the shadow falls away from the light
    reach = 1.45 * radius + np.abs(drop) + 2
    x1, x2 = max(0, int(centre[0] - reach[0])), min(width, int(centre[0] + reach[0]) + 1)
    y1, y2 = max(0, int(centre[1] - reach[1])), min(height, int(centre[1] + reach[1]) + 1)
    x = np.arange(x1, x2)[None, :] + 0.5 - centre[0]
    y = np.arange(y1, y2)[:, None] + 0.5 - centre[1]

    def own(dx: float, dy: float) -> tuple[np.ndarray, np.ndarray]:
        return ((x - dx) * cos + (y - dy) * sin) / radius, (-(x - dx) * sin + (y - dy) * cos) / (radius * squeeze)

    u, v = own(0.0, 0.0)
    distance = _signed_distance(name, u, v, stretch) * radius * squeeze
    shadow = _signed_distance(name, *own(-drop[0], -drop[1]), stretch) * radius * squeeze
    corners = _outline(name, stretch)
    if corners is not None:
        corners = corners * [radius, radius * squeeze] @ np.array([[cos, sin], [-sin, cos]]) + centre
    return _Placed(slice(y1, y2), slice(x1, x2), distance, shadow, u, v, radius, corners)


def _paint(rng: np.random.Generator, name: str, placed: _Placed, pixels: np.ndarray, light: np.ndarray) -> None:
    """Draw the shadow and the object over ``pixels`` (H, W, 3) in place. Colours are drawn alike for all classes."""
    hue, saturation, value = rng.random(), rng.uniform(0.45, 0.9), rng.uniform(0.6, 0.98)
    first = _rgb(hue, saturation, value)
    if rng.random() < 0.5:  # a light partner, or a darker one of a neighbouring hue
        second = _rgb(hue + rng.uniform(-0.1, 0.1), 0.15 * rng.random(), rng.uniform(0.9, 1.0))
        first *= 0.85
    else:
        second = _rgb(hue + rng.choice([-1, 1]) * rng.uniform(0.05, 0.2), saturation, 0.45 * value)
    if rng.random() < 0.5:
        first, second = second, first
    blend = _texture(name, placed.u, placed.v, placed.radius, rng.uniform(0, 2 * np.pi), rng.random())[..., None]
    colour = first * (1 - blend) + second * blend

    rows, columns = placed.rows, placed.columns
    facing = (placed.u * light[0] + placed.v * light[1]) * 0.16
    rim = 0.75 + 0.25 * np.clip(placed.distance / (0.12 * placed.radius), 0, 1)
    colour = colour * ((1 + facing) * rim)[..., None]
    area = pixels[rows, columns]
    dark = 0.38 * np.clip(placed.shadow / (0.16 * placed.radius) + 0.5, 0, 1)[..., None]
    alpha = _smooth(placed.distance)[..., None]
    pixels[rows, columns] = area * (1 - dark) * (1 - alpha) + colour * alpha


def draw_scene(seed: int, split: str, number: int, size: tuple[int, int] = (192, 144)) -> SyntheticScene:
    """Draw scene ``number`` of a split.

    Args:
        seed, split, number: the scene is a function of these three (and of the size) alone.
        size: (width, height) in pixels.
    """
    width, height = size
    rng = np.random.default_rng((seed, _SPLITS.index(split), number))
    pixels, stuff = _background(rng, width, height)
    turn = rng.uniform(-0.9, 0.9)
    light = np.array([np.sin(turn), -np.cos(turn)])  # from above, left or right

    instances = np.full((height, width), -1, dtype=np.int16)
    classes: list[int] = []
    placed: list[_Placed] = []
    for _ in range(int(rng.integers(3, 8))):
        class_id = int(rng.integers(len(OBJECT_CLASSES)))
        for _ in range(12):  # tries; a scene that is full keeps fewer objects
            candidate = _place(rng, OBJECT_CLASSES[class_id], width, height, light)
            covered = instances[candidate.rows, candidate.columns][candidate.mask]
            lost = np.bincount(covered[covered >= 0], minlength=len(placed))
            visible = np.bincount(instances[instances >= 0], minlength=len(placed)) - lost
            whole = np.array([p.mask.sum() for p in placed])
            if candidate.mask.any() and np.all(visible >= _MIN_VISIBLE * whole):
                break
        else:
            continue
        _paint(rng, OBJECT_CLASSES[class_id], candidate, pixels, light)
        instances[candidate.rows, candidate.columns][candidate.mask] = len(placed)
        placed.append(candidate)
        classes.append(class_id)

    outlines = []
    for k, p in enumerate(placed):
        whole = p.outline is not None and np.all(p.outline >= 0) and np.all(p.outline <= [width, height])
        whole = whole and np.count_nonzero(instances == k) == p.mask.sum()
        outlines.append(p.outline if whole else None)
    pixels = pixels * rng.uniform(0.9, 1.05) + rng.normal(0, 2.0, pixels.shape)  # exposure and a little sensor noise
    labels = (stuff + len(OBJECT_CLASSES) + 1).astype(np.uint8)
    class_of = np.array(classes, dtype=np.int64)
    labels = np.where(instances >= 0, class_of[instances] + 1, labels).astype(np.uint8)
    return SyntheticScene(np.clip(pixels, 0, 255).astype(np.uint8), labels, instances, class_of, tuple(outlines))


def encode_rle(mask: np.ndarray) -> dict[str, Any]:
    """Uncompressed COCO run lengths of a (H, W) bool mask: column by column, starting with the zeros."""
    flat = np.asarray(mask, dtype=bool).reshape(-1, order='F')
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return dict(size=list(mask.shape), counts=[0, *counts] if flat[0] else counts)


def _annotations(scene: SyntheticScene, image_id: int, first_id: int) -> list[dict[str, Any]]:
    out = []
    for k, class_id in enumerate(scene.classes.tolist()):
        mask = scene.instances == k
        ys, xs = np.nonzero(mask)
        if not len(ys):
            continue
        box = [xs.min(), ys.min(), xs.max() + 1 - xs.min(), ys.max() + 1 - ys.min()]
        outline = scene.outlines[k]
        segmentation = encode_rle(mask) if outline is None else [np.round(outline, 2).reshape(-1).tolist()]
        out.append(
            dict(
                id=first_id + len(out),
                image_id=image_id,
                category_id=class_id + 1,
                iscrowd=0,
                bbox=[float(c) for c in box],
                area=float(len(ys)),
                segmentation=segmentation,
            )
        )
    return out


def write_demo_data(
    out_dir: str | os.PathLike[str],
    *,
    num_train: int = 400,
    num_val: int = 100,
    size: tuple[int, int] = (192, 144),
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write the demo data (layout: see the module's docstring). The same arguments write the same bytes.

    The annotation files are written last, each in one step, so a folder that has both is complete.

    Args:
        out_dir: folder to write; it is made if it is not there.
        num_train, num_val: scenes of each split; the same scenes serve detection and segmentation.
        size: (width, height) of a scene in pixels, each at least 64.
        seed: another seed gives other scenes.
        progress: called with (scenes done, scenes in all).

    Returns:
        dict(scenes, objects, per split; classes) of what was written.

    Raises:
        ValueError: a number of scenes below 1, or a size below 64.
    """
    if num_train < 1 or num_val < 1:
        raise ValueError(
            f'The demo data need at least one scene in each split, not num_train={num_train} and num_val={num_val}.'
        )
    if min(size) < 64:
        raise ValueError(f'A demo scene needs at least 64 pixels on each side, not (width, height) = {tuple(size)}.')
    out = Path(out_dir)
    width, height = size
    (out / 'det' / 'annotations').mkdir(parents=True, exist_ok=True)
    (out / 'det' / 'images').mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = dict(classes=list(CLASSES), scenes={}, objects={})
    done, total = 0, num_train + num_val
    coco: dict[str, dict[str, Any]] = {}
    for split, count in zip(_SPLITS, (num_train, num_val)):
        (out / 'seg' / 'images' / split).mkdir(parents=True, exist_ok=True)
        (out / 'seg' / 'annotations' / split).mkdir(parents=True, exist_ok=True)
        images, annotations = [], []
        for number in range(count):
            scene = draw_scene(seed, split, number, (width, height))
            name = f'{split}_{number:05d}'
            Image.fromarray(scene.image).save(out / 'det' / 'images' / f'{name}.jpg', quality=92)
            jpeg = (out / 'det' / 'images' / f'{name}.jpg').read_bytes()
            (out / 'seg' / 'images' / split / f'{name}.jpg').write_bytes(jpeg)
            Image.fromarray(scene.labels).save(out / 'seg' / 'annotations' / split / f'{name}.png')
            images.append(dict(id=number + 1, file_name=f'{name}.jpg', width=width, height=height))
            annotations += _annotations(scene, number + 1, len(annotations) + 1)
            done += 1
            if progress is not None:
                progress(done, total)
        categories = [dict(id=k + 1, name=name, supercategory='shape') for k, name in enumerate(OBJECT_CLASSES)]
        description = f'drawn scenes of object_aware.synthetic, seed {seed}'
        coco[split] = dict(
            info=dict(description=description),
            licenses=[],
            categories=categories,
            images=images,
            annotations=annotations,
        )
        report['scenes'][split], report['objects'][split] = count, len(annotations)
    (out / 'seg' / 'classes.txt').write_text('\n'.join(CLASSES) + '\n')
    for split in _SPLITS:
        target = out / 'det' / 'annotations' / f'{split}.json'
        temporary = target.with_suffix('.json.part')
        temporary.write_text(json.dumps(coco[split]))
        os.replace(temporary, target)
    return report
