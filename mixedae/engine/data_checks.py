"""Looking at data folders before a run: each function raises one sentence: what is wrong, where, what to do."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from object_aware.image_files import missing_files
from object_aware.messages import some

ALL_HEADERS_UP_TO = 5000
SAMPLED_HEADERS = 1000
SAMPLED_LABEL_MAPS = 16


def check_folder(folder: str | Path, what: str) -> Path:
    """The folder, if it is there."""
    folder = Path(folder)
    if not folder.is_dir():
        found = 'is a file' if folder.exists() else 'does not exist'
        raise FileNotFoundError(
            f'The {what} folder {folder} {found}: set its path in the config, or bring the data there.'
        )
    return folder


def check_headers(paths: Sequence[Path], source: str | Path) -> None:
    """Reads image headers: of all files up to ``ALL_HEADERS_UP_TO``, else of ``SAMPLED_HEADERS`` drawn at random."""
    if len(paths) > ALL_HEADERS_UP_TO:
        paths = random.Random(0).sample(list(paths), SAMPLED_HEADERS)
    for path in paths:
        try:
            with Image.open(path) as image:
                width, height = image.size
            if not width or not height:
                raise ValueError('it has no pixels')
        except (OSError, ValueError, SyntaxError) as error:
            reason = 'it is empty' if path.stat().st_size == 0 else f'{error}'
            raise ValueError(
                f'The image {path} does not decode ({reason}): replace it or take it out of {source}.'
            ) from None


def read_coco(ann_file: str | Path) -> dict:
    """A COCO annotation file with the three lists that every use needs, none of them empty but the annotations."""
    ann_file = Path(ann_file)
    if not ann_file.is_file():
        raise FileNotFoundError(
            f'The annotation file {ann_file} does not exist: set data_root and ann_file in the config.'
        )
    try:
        content = json.loads(ann_file.read_bytes())
    except ValueError as error:
        raise ValueError(f'The annotation file {ann_file} is not JSON ({error}).') from None
    for key in ('images', 'annotations', 'categories'):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(f"{ann_file} is not a COCO annotation file: it has no list '{key}'.")
    if not content['categories']:
        raise ValueError(f'{ann_file} has an empty category list, so there is nothing to learn: add its categories.')
    if not content['images']:
        raise ValueError(f'{ann_file} names no images.')
    return content


def check_coco(
    ann_file: str | Path, folder: str | Path, classes: Sequence[str] | None, need_annotations: bool = True
) -> None:
    """A COCO-format data set: files there, images decode, categories are the classes the config names.

    Args:
        ann_file: the annotation file.
        folder: folder that ``file_name`` counts from.
        classes: what the config calls the classes, None to leave that check out.
        need_annotations: also refuse a file without any annotation.
    """
    content = read_coco(ann_file)
    folder = check_folder(folder, 'image')
    names = [str(image.get('file_name')) for image in content['images']]
    absent = missing_files(folder, names)
    if absent:
        raise FileNotFoundError(
            f'{ann_file} names {len(absent)} of {len(names)} images that are not in {folder}, e.g. {absent[0]}: '
            'set data_prefix.img to their folder, or take them out of the file.'
        )
    if classes is not None:
        check_classes(ann_file, [category.get('name') for category in content['categories']], classes)
    if need_annotations and not content['annotations']:
        raise ValueError(f'{ann_file} has no annotations, so there is nothing to learn from it.')
    check_headers([folder / name for name in names], ann_file)


def check_classes(ann_file: str | Path, categories: Sequence[str], classes: Sequence[str]) -> None:
    """The config's classes must all be categories of the file, in its order.

    mmdet looks categories up by name: what it does not find is dropped without a word (all of it, and the ground truth
    is empty), and labels follow the order of the file, whatever the order of the classes is.
    """
    if isinstance(classes, str):
        raise ValueError(f"metainfo.classes is the text '{classes}', not a tuple of names: write ('{classes}',).")
    absent = [name for name in classes if name not in categories]
    if absent:
        raise ValueError(
            f"metainfo.classes names '{absent[0]}'{_and_more(absent)}, which {ann_file} does not have (its categories: "
            f'{some(categories, 6)}); mmdet would train on empty or shifted labels without a word: set '
            'train_dataloader.dataset.metainfo.classes (val and test too) to the categories of the file.'
        )
    in_file_order = [name for name in categories if name in set(classes)]
    if list(classes) != in_file_order:
        raise ValueError(
            f'metainfo.classes are not in the order of the categories of {ann_file}, and mmdet gives labels in that '
            f'order: write them as {some(in_file_order, 6)}.'
        )


def check_segmentation(
    image_folder: str | Path,
    label_folder: str | Path | None,
    num_classes: int | None,
    *,
    image_suffix: str = '.jpg',
    label_suffix: str = '.png',
    reduce_zero_label: bool = False,
    ignore_index: int = 255,
) -> None:
    """Images and label maps: all there in pairs, images decode, a sample of the label maps holds valid labels only.

    Args:
        image_folder: folder of images, searched with its subfolders.
        label_folder: folder of label maps with the same names; None for images alone.
        num_classes: n; labels are 1..n with ``reduce_zero_label`` (0 = unlabelled), else 0..n-1. None: not checked.
        image_suffix: how image names end.
        label_suffix: how names of label maps end.
        reduce_zero_label: as mmseg's.
        ignore_index: label that is left out of loss and metric.
    """
    image_folder = check_folder(image_folder, 'image')
    images = sorted(path for path in image_folder.rglob(f'*{image_suffix}') if path.is_file())
    if not images:
        raise FileNotFoundError(
            f'The image folder {image_folder} has no *{image_suffix} files: set data_prefix.img_path.'
        )
    if label_folder is not None:
        label_folder = check_folder(label_folder, 'label map')
        names = [str(path.relative_to(image_folder))[: -len(image_suffix)] + label_suffix for path in images]
        absent = missing_files(label_folder, names)
        if absent:
            raise FileNotFoundError(
                f'{len(absent)} of {len(images)} images of {image_folder} have no label map in {label_folder}, e.g. '
                f'{absent[0]}: set data_prefix.seg_map_path, or take those images out.'
            )
        check_headers([label_folder / name for name in names], label_folder)
        if num_classes is not None:
            sample = random.Random(0).sample(names, min(SAMPLED_LABEL_MAPS, len(names)))
            for name in sample:
                _check_labels(label_folder / name, num_classes, reduce_zero_label, ignore_index)
    check_headers(images, image_folder)


def _check_labels(path: Path, num_classes: int, reduce_zero_label: bool, ignore_index: int) -> None:
    with Image.open(path) as image:
        if image.mode not in ('L', 'P', 'I', 'I;16', '1'):
            raise ValueError(f'The label map {path} has mode {image.mode}, not one value for each pixel.')
        values = np.unique(np.asarray(image))
    first = 1 if reduce_zero_label else 0
    ignored = {0, 255, ignore_index} if reduce_zero_label else {ignore_index}
    wrong = [int(v) for v in values if not first <= v < first + num_classes and int(v) not in ignored]
    if wrong:
        zero = ', 0 is unlabelled (reduce_zero_label)' if reduce_zero_label else ''
        raise ValueError(
            f'The label map {path} holds the value {wrong[0]}, but the config has {num_classes} classes, so labels are '
            f'{first}..{first + num_classes - 1}{zero}: set metainfo.classes and num_classes, or mend the label maps.'
        )


def _and_more(names: Sequence[str]) -> str:
    return f' and {len(names) - 1} more' if len(names) > 1 else ''
