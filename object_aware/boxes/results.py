"""Boxes with scores: COCO's results format (a list) and COCO files whose annotations have scores."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..byte_strings import ByteStrings
from ..coco_objects import LEFT_OUT, clean_boxes, encode_masks
from ..image_files import check_images, image_size, list_image_files
from ..messages import some
from .overlaps import select
from .source import Part, PathLike

NO_SCORE = 'no score'


def read_results(
    file: Path, folder: Path, image_list: PathLike | None, filters: dict[str, Any], check_files: bool = True
) -> Part:
    """A list of ``{image_id, bbox, score, category_id?, segmentation?}``; see :func:`.source.read_source`."""
    entries = _load(file)
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get('image_id'), int | float | str) for entry in entries
    ):
        raise ValueError(f'{file} is no list of results: each entry needs image_id, bbox and score.')
    if not entries:
        raise ValueError(f'{file} has no boxes: nothing can be cropped from it.')
    ids = dict.fromkeys(entry['image_id'] for entry in entries)
    if image_list is None:
        images, categories = _images_by_name(ids, folder, file), []
    else:
        content = _load(Path(image_list))
        if not isinstance(content, dict) or not isinstance(content.get('images'), list):
            raise ValueError(f'{image_list} is no COCO file: it needs the list "images".')
        images, categories = content['images'], content.get('categories') or []
    files = (str(file),) if image_list is None else (str(file), str(image_list))
    return _columns(images, entries, categories, file, folder, filters, check_files, files)


def read_proposals(file: Path, folder: Path, filters: dict[str, Any], check_files: bool = True) -> Part:
    """A COCO file whose annotations have scores; see :func:`.source.read_source`."""
    content = _load(file)
    lists = ('images', 'annotations')
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in lists):
        raise ValueError(f'{file} is not a COCO file: it needs the lists "images" and "annotations".')
    images, entries = content['images'], content['annotations']
    for what, items in (('no images', images), ('no boxes', entries)):
        if not items:
            raise ValueError(f'{file} has {what}: nothing can be cropped from it.')
    if not any(isinstance(entry, dict) and 'score' in entry for entry in entries):
        raise ValueError(
            f'{file} has no scores, so its boxes cannot be filtered by them: leave score threshold, NMS and top N out.'
        )
    return _columns(images, entries, content.get('categories') or [], file, folder, filters, check_files, (str(file),))


def _load(file: Path) -> Any:
    if not file.is_file():
        raise FileNotFoundError(f'File {file} does not exist.')
    try:
        return json.loads(file.read_bytes())
    except (ValueError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f'{file} is not a json file ({error}).') from None


def _images_by_name(ids: dict[Any, None], folder: Path, file: Path) -> list[dict[str, Any]]:
    """Images whose name without folder and suffix is the id, or the same number."""
    by_stem: dict[Any, list[str]] = {}
    for name in list_image_files(folder):
        stem = os.path.splitext(name.rpartition('/')[2])[0]
        for key in {stem, int(stem)} if stem.isdecimal() else {stem}:
            by_stem.setdefault(key, []).append(name)
    lost = [key for key in ids if key not in by_stem]
    if lost:
        raise FileNotFoundError(
            f'{file}: {len(lost)} of {len(ids)} image ids are no file names of {folder} ({some(lost)}): '
            'give the COCO file whose image list they refer to (--image-list).'
        )
    twice = [key for key in ids if len(by_stem[key]) > 1]
    if twice:
        raise ValueError(
            f'{file}: {len(twice)} image ids fit several files of {folder} ({some(by_stem[twice[0]])}): '
            'give the COCO file whose image list they refer to (--image-list).'
        )
    images = []
    for key in ids:
        width, height = image_size(folder / by_stem[key][0])
        images.append(dict(id=key, file_name=by_stem[key][0], width=width, height=height))
    return images


def _columns(
    images: Sequence[dict[str, Any]],
    entries: Sequence[dict[str, Any]],
    categories: Sequence[dict[str, Any]],
    file: Path,
    folder: Path,
    filters: dict[str, Any],
    check_files: bool,
    files: tuple[str, ...],
) -> Part:
    try:
        scenes = {image['id']: row for row, image in enumerate(images)}
        names = [str(image['file_name']).replace('\\', '/') for image in images]
        sizes = np.array([(image['width'], image['height']) for image in images], dtype=np.int32).reshape(-1, 2)
        scene_of = np.array([scenes.get(entry['image_id'], -1) for entry in entries], dtype=np.int64)
        labels = [entry.get('category_id') for entry in entries]
        class_of = {category['id']: row for row, category in enumerate(categories)}
        class_names = [str(category['name']) for category in categories]
        for label in labels:
            if label not in class_of:
                class_of[label] = len(class_names)
                class_names.append('object' if label is None else str(label))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f'{file}: an entry has a missing or wrong field ({type(error).__name__}: {error}).') from None
    for what, items in (('image ids', [image['id'] for image in images]), ('image files', names)):
        twice = [item for item, count in Counter(items).items() if count > 1]
        if twice:
            raise ValueError(f'{files[-1]} has {len(twice)} {what} more than once ({some(twice)}).')
    if (sizes <= 0).any():
        bad = [names[row] for row in np.flatnonzero((sizes <= 0).any(axis=1))]
        raise ValueError(f'{files[-1]} gives images a width or height of zero or less ({some(bad)}).')
    if (scene_of < 0).any():
        absent = list(dict.fromkeys(entry['image_id'] for entry, row in zip(entries, scene_of) if row < 0))
        raise ValueError(
            f'{file}: {int((scene_of < 0).sum())} boxes name {len(absent)} images that are not in the image list '
            f'(image ids {some(absent)}): give the image list that the boxes were made for.'
        )
    if check_files:
        check_images(folder, names, files[-1])

    raw, shaped = _boxes(entries)
    scores = np.array([_number(entry.get('score')) for entry in entries])
    boxes, good, counts = clean_boxes(raw, shaped, sizes[scene_of])
    counts[NO_SCORE] = int((good & np.isnan(scores)).sum())
    rows = np.flatnonzero(good & ~np.isnan(scores))
    kept, dropped = select(boxes[rows], scores[rows], scene_of[rows], **filters)
    rows = rows[kept]
    if not len(rows):
        told = ', '.join(f'{count} {reason}' for reason, count in {**counts, **dropped}.items() if count)
        raise ValueError(f'{file} has no usable box: all {len(entries)} are left out ({told}).')
    masks, bad = encode_masks([entries[row].get('segmentation') for row in rows], sizes[scene_of[rows]])
    return Part(
        names=ByteStrings.of([name.encode() for name in names]),
        sizes=sizes,
        boxes=boxes[rows],
        scene_of=scene_of[rows].astype(np.int32),
        classes=np.array([class_of[labels[row]] for row in rows], dtype=np.int32),
        crowd=np.array([bool(entries[row].get('iscrowd', 0)) for row in rows]),
        masks=masks,
        scores=scores[rows],
        class_names=class_names,
        counts={**dict.fromkeys(LEFT_OUT, 0), **counts, **dropped, 'bad mask': bad},
        files=files,
    )


def _boxes(entries: Sequence[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """(N, 4) float64 x, y, width, height, and (N,) bool where there were four numbers."""
    raw, shaped = np.zeros((len(entries), 4)), np.zeros(len(entries), dtype=bool)
    for row, entry in enumerate(entries):
        box = entry.get('bbox')
        if isinstance(box, list) and len(box) == 4 and all(isinstance(c, int | float) for c in box):
            raw[row], shaped[row] = [_number(c) for c in box], True
    return raw, shaped


def _number(value: Any) -> float:
    """A finite float, or NaN."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value) if math.isfinite(value) else math.nan
        except OverflowError:
            return math.nan
    return math.nan
