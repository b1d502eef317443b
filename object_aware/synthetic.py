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

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .drawing import OBJECT_CLASSES, STUFF_CLASSES, Placed, background, paint, place

CLASSES = OBJECT_CLASSES + STUFF_CLASSES  # label k + 1 in the label maps; 0 is 'unlabelled'

_SPLITS = ('train', 'val')
_MIN_VISIBLE = 0.45  # each object keeps at least this share of its area visible


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


def draw_scene(seed: int, split: str, number: int, size: tuple[int, int] = (192, 144)) -> SyntheticScene:
    """Draw scene ``number`` of a split.

    Args:
        seed, split, number: the scene is a function of these three (and of the size) alone.
        size: (width, height) in pixels.
    """
    width, height = size
    rng = np.random.default_rng((seed, _SPLITS.index(split), number))
    pixels, stuff = background(rng, width, height)
    turn = rng.uniform(-0.9, 0.9)
    light = np.array([np.sin(turn), -np.cos(turn)])  # from above, left or right

    instances = np.full((height, width), -1, dtype=np.int16)
    classes: list[int] = []
    placed: list[Placed] = []
    for _ in range(int(rng.integers(3, 8))):
        class_id = int(rng.integers(len(OBJECT_CLASSES)))
        for _ in range(12):  # tries; a scene that is full keeps fewer objects
            candidate = place(rng, OBJECT_CLASSES[class_id], width, height, light)
            covered = instances[candidate.rows, candidate.columns][candidate.mask]
            lost = np.bincount(covered[covered >= 0], minlength=len(placed))
            visible = np.bincount(instances[instances >= 0], minlength=len(placed)) - lost
            whole = np.array([p.mask.sum() for p in placed])
            if candidate.mask.any() and np.all(visible >= _MIN_VISIBLE * whole):
                break
        else:
            continue
        paint(rng, OBJECT_CLASSES[class_id], candidate, pixels)
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
