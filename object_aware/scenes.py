"""Scenes and their objects: COCO annotation files in, NumPy columns out.

A scene is an image with objects; an object is a box. Class labels are read (tools may show them) but no training sample
ever holds one.

Coordinates are those of the annotation file: pixels of the image as its ``width`` and ``height`` describe it. Boxes are
xyxy with x2, y2 exclusive.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

PathLike = str | os.PathLike[str]
_CLIP_TOLERANCE = 1.0  # a box that reaches less far over the border is not counted as clipped (rounding), in pixels

LEFT_OUT = ('no box of four numbers', 'NaN or infinite', 'zero or negative size', 'outside the image')
"""Why a box is left out when it is read; the counts stand in ``Scenes.left_out``."""


@dataclass(frozen=True)
class Scenes:
    """S scenes with N objects, as columns. Objects are sorted by scene.

    Attributes:
        folders: image folders, as they were given.
        folder_of: (S,) int32, index into ``folders``.
        names: (S,) bytes (UTF-8), file name relative to its folder, with forward slashes.
        sizes: (S, 2) int32 width, height.
        boxes: (N, 4) float32 xyxy, inside the image.
        scene_of: (N,) int32 scene of each object, non-decreasing.
        classes: (N,) int32 index into ``class_names``.
        crowd: (N,) bool; a crowd is never a target, but it counts among the others.
        class_names: names of the classes; equal names of several files are one class.
        left_out: for each reason in ``LEFT_OUT`` how many boxes were left out, and 'clipped': how many were cut at the
            image's border.
        annotation_files: the files that were read.
    """

    folders: tuple[str, ...]
    folder_of: np.ndarray
    names: np.ndarray
    sizes: np.ndarray
    boxes: np.ndarray
    scene_of: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray
    class_names: tuple[str, ...]
    left_out: dict[str, int] = field(default_factory=dict)
    annotation_files: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @property
    def object_offsets(self) -> np.ndarray:
        """(S + 1,) int64: the objects of scene s are the rows ``offsets[s]:offsets[s + 1]``."""
        return np.searchsorted(self.scene_of, np.arange(len(self) + 1)).astype(np.int64)


def read_scenes(pairs: Sequence[tuple[PathLike, PathLike]], *, check_files: bool = True) -> Scenes:
    """Read (COCO annotation file, image folder) pairs and join them.

    Args:
        pairs: one or several (annotation json, image folder).
        check_files: check that every image is on disk, by listing each folder once.

    Raises:
        FileNotFoundError: an annotation file, an image folder or images are missing.
        ValueError: a file that is not COCO, has no categories, no images or no objects, has an id twice, names an image
            or a category that it does not define, or one image stands in two files. Each says in one sentence what,
            where and what to do.
    """
    if not pairs:
        raise ValueError('No scenes given: name at least one annotation file with its image folder.')
    parts = [_read_coco(Path(annotation), Path(folder), check_files) for annotation, folder in pairs]

    class_names: dict[str, int] = {}
    folders: list[str] = []
    left_out: Counter[str] = Counter()
    scene_base = 0
    columns: dict[str, list[np.ndarray]] = {
        key: [] for key in ('folder_of', 'names', 'sizes', 'boxes', 'scene_of', 'classes', 'crowd')
    }
    for part in parts:
        folder = str(part['folder'])
        if folder not in folders:
            folders.append(folder)
        mapping = np.array(
            [class_names.setdefault(name, len(class_names)) for name in part['class_names']], dtype=np.int32
        )
        columns['folder_of'].append(np.full(len(part['names']), folders.index(folder), dtype=np.int32))
        columns['names'].append(part['names'])
        columns['sizes'].append(part['sizes'])
        columns['boxes'].append(part['boxes'])
        columns['scene_of'].append((part['scene_of'] + scene_base).astype(np.int32))
        columns['classes'].append(mapping[part['classes']])
        columns['crowd'].append(part['crowd'])
        left_out.update(part['left_out'])
        scene_base += len(part['names'])
    joined = {key: np.concatenate(values) for key, values in columns.items()}  # 'S' arrays take the widest width
    if len(parts) > 1:
        _refuse_images_given_twice(folders, joined['folder_of'], joined['names'])
    return Scenes(
        folders=tuple(folders),
        class_names=tuple(class_names),
        left_out={**dict.fromkeys((*LEFT_OUT, 'clipped'), 0), **left_out},
        annotation_files=tuple(str(annotation) for annotation, _ in pairs),
        **joined,
    )


def some(names: Iterable[Any], count: int = 3) -> str:
    """The first few of many names, for a message: ``a, b, c, ...``."""
    listed = [str(name) for name in names]
    return ', '.join(listed[:count]) + (', ...' if len(listed) > count else '')


def missing_files(folder: PathLike, names: Sequence[str]) -> list[str]:
    """Those of ``names`` (relative to ``folder``) that are not there. Lists each folder once, opens no file."""
    present: dict[str, set[str]] = {}
    missing = []
    for name in names:
        parent, _, base = name.rpartition('/')
        if parent not in present:
            directory = os.path.join(folder, parent)
            present[parent] = set(os.listdir(directory)) if os.path.isdir(directory) else set()
        if base not in present[parent]:
            missing.append(name)
    return missing


def _read_coco(annotation: Path, folder: Path, check_files: bool) -> dict[str, Any]:
    if not annotation.is_file():
        raise FileNotFoundError(
            f'Annotation file {annotation} does not exist: give the path of a COCO-format json file.'
        )
    if not folder.is_dir():
        raise FileNotFoundError(
            f'Image folder {folder} (for {annotation.name}) does not exist: give the folder that holds its images.'
        )
    try:
        content = json.loads(annotation.read_bytes())
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f'{annotation} is not a json file ({error}): give a COCO-format annotation file.') from None
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) for key in ('images', 'annotations', 'categories')
    ):
        raise ValueError(
            f'{annotation} is not a COCO annotation file: it needs the lists "images", "annotations" and "categories".'
        )
    for key, what in (('categories', 'an empty category list'), ('images', 'no images'), ('annotations', 'no objects')):
        if not content[key]:
            raise ValueError(f'{annotation} has {what}: nothing can be cropped from it.')
    try:
        return _columns_of(content, annotation, folder, check_files)
    except (KeyError, TypeError, OverflowError) as error:
        raise ValueError(
            f'{annotation} is not a sound COCO file: '
            f'an entry has a missing or wrong field ({type(error).__name__}: {error}).'
        ) from None


def _index_by_id(items: list[dict[str, Any]], what: str, annotation: Path) -> dict[Any, int]:
    index = {item['id']: k for k, item in enumerate(items)}
    if len(index) < len(items):
        twice = [key for key, count in Counter(item['id'] for item in items).items() if count > 1]
        raise ValueError(
            f'{annotation} has {len(twice)} {what} ids more than once ({some(twice)}): every id must be unique.'
        )
    return index


def _columns_of(content: dict[str, Any], annotation: Path, folder: Path, check_files: bool) -> dict[str, Any]:
    images, objects, categories = content['images'], content['annotations'], content['categories']
    scene_index = _index_by_id(images, 'image', annotation)
    class_index = _index_by_id(categories, 'category', annotation)
    with_id = [item for item in objects if 'id' in item]  # proposals may have no ids
    _index_by_id(with_id, 'annotation', annotation)

    absent = {item['image_id'] for item in objects} - scene_index.keys()
    if absent:
        count = sum(item['image_id'] in absent for item in objects)
        raise ValueError(
            f'{annotation}: {count} annotations name {len(absent)} images that are not in its image list '
            f'(image ids {some(sorted(absent, key=str))}): the file is damaged or was cut; make it anew.'
        )
    unknown = {item['category_id'] for item in objects} - class_index.keys()
    if unknown:
        raise ValueError(
            f'{annotation}: annotations use category ids that it does not define ({some(sorted(unknown, key=str))}).'
        )
    names = [str(image['file_name']).replace('\\', '/') for image in images]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(
            f'{annotation} lists {len(twice)} image files more than once ({some(twice)}): '
            'every image must stand there once.'
        )
    if check_files:
        missing = missing_files(folder, names)
        if missing:
            raise FileNotFoundError(
                f'{len(missing)} of {len(names)} images of {annotation} are not in {folder} ({some(missing)}): '
                'is this the right image folder?'
            )
    sizes = np.array([(image['width'], image['height']) for image in images], dtype=np.int32).reshape(-1, 2)
    if (sizes <= 0).any():
        bad = [names[k] for k in np.flatnonzero((sizes <= 0).any(axis=1))[:4]]
        raise ValueError(f'{annotation} gives images a width or height of zero or less ({some(bad)}).')

    scene_of = np.array([scene_index[item['image_id']] for item in objects], dtype=np.int32)
    boxes, kept, left_out = _clean_boxes([item.get('bbox') for item in objects], sizes[scene_of])
    if not kept.any():
        counts = ', '.join(f'{count} {reason}' for reason, count in left_out.items() if count)
        raise ValueError(f'{annotation} has no usable box: all {len(objects)} are left out ({counts}).')
    order = np.flatnonzero(kept)
    order = order[np.argsort(scene_of[order], kind='stable')]
    return dict(
        folder=folder,
        names=np.array([name.encode() for name in names]),
        sizes=sizes,
        boxes=boxes[order],
        scene_of=scene_of[order],
        classes=np.array([class_index[objects[k]['category_id']] for k in order], dtype=np.int32),
        crowd=np.array([bool(objects[k].get('iscrowd', 0)) for k in order]),
        class_names=[str(item['name']) for item in categories],
        left_out=left_out,
    )


def _clean_boxes(raw: list[Any], sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """COCO boxes (x, y, w, h) → (N, 4) float32 xyxy clipped to the image, (N,) which are usable, counts of the rest."""

    def numbers(box: Any) -> list[float] | None:
        if isinstance(box, (list, tuple)) and len(box) == 4 and all(isinstance(c, (int, float)) for c in box):
            return list(box)
        return None

    parsed = [numbers(box) for box in raw]
    shaped = np.array([box is not None for box in parsed])
    boxes = np.array([box or [0.0] * 4 for box in parsed], dtype=np.float64)
    finite = np.isfinite(boxes).all(axis=1)
    boxes[~finite] = 0.0
    positive = (boxes[:, 2:] > 0).all(axis=1)
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    limits = np.concatenate([sizes, sizes], axis=1)
    clipped = np.clip(corners, 0, limits).astype(np.float32)
    inside = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
    good = shaped & finite & positive & inside
    counts = (~shaped, shaped & ~finite, shaped & finite & ~positive, shaped & finite & positive & ~inside)
    left_out = {reason: int(np.count_nonzero(which)) for reason, which in zip(LEFT_OUT, counts)}
    over = (np.abs(corners - clipped) > _CLIP_TOLERANCE).any(axis=1)
    left_out['clipped'] = int(np.count_nonzero(good & over))
    return clipped, good, left_out


def _refuse_images_given_twice(folders: list[str], folder_of: np.ndarray, names: np.ndarray) -> None:
    """One picture under two scene ids could be mixed with itself, and neither would know all of its objects."""
    resolved = [os.path.realpath(folder) for folder in folders]
    paths = Counter(os.path.join(resolved[f], name.decode()) for f, name in zip(folder_of, names))
    twice = [path for path, count in paths.items() if count > 1]
    if twice:
        raise ValueError(
            f'{len(twice)} images stand in more than one annotation file ({some(twice)}): '
            'join their annotations in one file, so that each image is one scene.'
        )
