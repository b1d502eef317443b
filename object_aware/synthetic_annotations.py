"""Annotation files without images, of any size: for tests and benchmarks of reading and building at scale.

Counts and sizes follow COCO train2017: 7.3 objects per image, 41 % of them smaller than 32x32 pixels and 24 % larger
than 96x96, polygons of about thirty points, one object in ten of two polygons, one in a hundred a crowd region. The
file is written as it is drawn, so its size does not matter, and it is a function of the arguments alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

_SIZES = np.array([(640, 480), (480, 640), (640, 427), (500, 375), (427, 640), (612, 612)])  # frequent sizes of COCO
_SHARES = (0.40, 0.14, 0.22, 0.10, 0.09, 0.05)
_BLOCK = 20_000  # objects that are drawn at once
_POINTS = (24, 40)  # of a polygon, from, up to
_CROWD = 0.012


def write_annotations(
    path: str | os.PathLike[str],
    *,
    images: int,
    objects: int,
    masks: bool = True,
    classes: int = 80,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a COCO annotation file whose images are named but do not exist.

    Args:
        path: the json file.
        images: number of images; a few of them have no object.
        objects: number of annotations, in random order of their images.
        masks: write polygons, and run lengths for crowds, as COCO does; without, boxes only, with the fields and the
            many decimals of Objects365.
        classes: number of categories.
        seed: another seed gives other annotations.
        progress: called with (objects done, objects in all).
    """
    rng = np.random.default_rng(seed)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = _SIZES[rng.choice(len(_SIZES), images, p=_SHARES)]
    image_ids = np.sort(rng.choice(5 * images, images, replace=False)) + 1  # with gaps, as in COCO
    weights = np.cumsum(rng.gamma(1.1, size=images))
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.part')
    try:
        with open(temporary, 'wb') as file:
            categories = [dict(id=k + 1, name=f'class {k + 1}', supercategory='thing') for k in range(classes)]
            file.write(b'{"info":{"description":"drawn at random"},"categories":')
            file.write(msgspec.json.encode(categories) + b',"images":[')
            for start in range(0, images, _BLOCK):
                rows = [
                    dict(id=image, file_name=f'{image:012d}.jpg', width=width, height=height, license=1)
                    for image, (width, height) in zip(
                        image_ids[start : start + _BLOCK].tolist(), sizes[start : start + _BLOCK].tolist()
                    )
                ]
                file.write((b',' if start else b'') + msgspec.json.encode(rows)[1:-1])
            file.write(b'],"annotations":[')
            for start in range(0, objects, _BLOCK):
                count = min(_BLOCK, objects - start)
                scene_of = np.searchsorted(weights, rng.random(count) * weights[-1])
                block = _draw_objects(rng, sizes[scene_of], image_ids[scene_of], start, classes, masks)
                file.write((b',' if start else b'') + msgspec.json.encode(block)[1:-1])
                if progress is not None:
                    progress(start + count, objects)
            file.write(b']}')
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _draw_objects(
    rng: np.random.Generator, sizes: np.ndarray, image_ids: np.ndarray, first: int, classes: int, masks: bool
) -> list[dict]:
    count = len(sizes)
    side = np.exp(rng.normal(4.03, 1.18, count))  # in pixels
    stretch = np.exp(rng.normal(0.0, 0.35, count))
    width = np.minimum(np.maximum(side * stretch, 4.0), 0.98 * sizes[:, 0])
    height = np.minimum(np.maximum(side / stretch, 4.0), 0.98 * sizes[:, 1])
    left, top = rng.random(count) * (sizes[:, 0] - width), rng.random(count) * (sizes[:, 1] - height)
    boxes = np.round(np.stack([left, top, width, height], axis=1), 2 if masks else 10)
    crowd = rng.random(count) < _CROWD
    columns = dict(
        id=range(first + 1, first + count + 1),
        image_id=image_ids.tolist(),
        category_id=rng.integers(1, classes + 1, count).tolist(),
        iscrowd=crowd.astype(int).tolist(),
        bbox=boxes.tolist(),
        area=np.round(0.55 * width * height, 2).tolist(),
    )
    if not masks:
        columns |= dict(isfake=[0] * count, isreflected=[0] * count)
    rows = [dict(zip(columns, values)) for values in zip(*columns.values())]
    if masks:
        for row, segmentation in zip(rows, _segmentations(rng, boxes, sizes, crowd)):
            row['segmentation'] = segmentation
    return rows


def _segmentations(rng: np.random.Generator, boxes: np.ndarray, sizes: np.ndarray, crowd: np.ndarray):
    """Blobs that fill their box: the radius is a smooth function of the angle."""
    most = _POINTS[1]
    points = rng.integers(_POINTS[0], most + 1, len(boxes))
    angle = 2 * np.pi * (np.arange(most) + 0.7 * rng.random((len(boxes), most))) / points[:, None]
    waves = rng.random((2, len(boxes), 1))
    radius = 0.75 + 0.15 * np.sin(3 * angle + 6 * waves[0]) + 0.1 * np.sin(7 * angle + 6 * waves[1])
    centre, half = boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:] / 2
    x = np.round(centre[:, :1] + half[:, :1] * radius * np.cos(angle), 2)
    y = np.round(centre[:, 1:] + half[:, 1:] * radius * np.sin(angle), 2)
    flat = np.stack([x, y], axis=2).reshape(len(boxes), -1)
    two = rng.random(len(boxes)) < 0.1
    for k, count in enumerate(points.tolist()):
        if crowd[k]:
            yield _rectangle(boxes[k], *sizes[k].tolist())
        elif two[k]:
            half_way = count // 2 // 2 * 4
            yield [flat[k, :half_way].tolist(), flat[k, half_way : 2 * count].tolist()]
        else:
            yield [flat[k, : 2 * count].tolist()]


def _rectangle(box: np.ndarray, width: int, height: int) -> dict:
    """Uncompressed run lengths of the whole pixels of a box."""
    x1, y1 = np.floor(box[:2]).astype(int).tolist()
    x2, y2 = min(width, x1 + max(1, int(box[2]))), min(height, y1 + max(1, int(box[3])))
    column = [y2 - y1, height - (y2 - y1)]
    counts = [x1 * height + y1, *(column * (x2 - x1))]
    counts[-1] = width * height - sum(counts[:-1])
    return dict(size=[height, width], counts=counts)
