"""Looking at data folders before a run: each function raises one sentence: what is wrong, where, what to do."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path

from PIL import ExifTags, Image

from object_aware.image_files import missing_files
from object_aware.messages import some

ALL_HEADERS_UP_TO = 5000
SAMPLED_HEADERS = 1000
TURNED = (5, 6, 7, 8)  # orientations in Exif that swap width and height


def check_folder(folder: str | Path, what: str) -> Path:
    """The folder, if it is there."""
    folder = Path(folder)
    if not folder.is_dir():
        found = 'is a file' if folder.exists() else 'does not exist'
        raise FileNotFoundError(
            f'The {what} folder {folder} {found}: set its path in the config, or bring the data there.'
        )
    return folder


def check_headers(paths: Sequence[Path], source: str | Path, sizes: Sequence[tuple[int, int]] | None = None) -> None:
    """Reads image headers: of all files up to ``ALL_HEADERS_UP_TO``, else of ``SAMPLED_HEADERS`` drawn at random.

    Args:
        paths: the image files.
        source: what names them, for the message.
        sizes: (width, height) of each that the annotations say, None if they say nothing.
    """
    files = list(zip(paths, sizes or [None] * len(paths), strict=True))
    if len(files) > ALL_HEADERS_UP_TO:
        files = random.Random(0).sample(files, SAMPLED_HEADERS)
    for path, annotated in files:
        try:
            with Image.open(path) as image:
                width, height = image.size
                if not width or not height:
                    raise ValueError('it has no pixels')
                turned = annotated is not None and image.getexif().get(ExifTags.Base.Orientation, 1) in TURNED
        except (OSError, ValueError, SyntaxError) as error:
            reason = 'it is empty' if path.stat().st_size == 0 else f'{error}'
            raise ValueError(
                f'The image {path} does not decode ({reason}): replace it or take it out of {source}.'
            ) from None
        shown = (height, width) if turned else (width, height)  # as OpenCV, and so mmdet, reads it
        if annotated not in (None, shown):
            how = ' (turned as its Exif says, as mmdet does)' if turned else ''
            raise ValueError(
                f'Image {path} has {shown[0]}x{shown[1]} pixels{how}, but its annotation says '
                f'{annotated[0]}x{annotated[1]}: '
                f'set data_prefix.img to the images that the boxes of {source} were drawn on, or scale its boxes.'
            )


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
    ann_file: str | Path,
    folder: str | Path,
    classes: Sequence[str] | None,
    need_annotations: bool = True,
    loads_masks: bool = False,
    compares_masks: bool = False,
) -> None:
    """A COCO-format data set: files there, images decode at the stated size, categories are the config's classes.

    Args:
        ann_file: the annotation file.
        folder: folder that ``file_name`` counts from.
        classes: what the config calls the classes, None to leave that check out.
        need_annotations: also refuse a file without any annotation.
        loads_masks, compares_masks: as of :func:`check_masks`.
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
    if loads_masks or compares_masks:
        check_masks(ann_file, content, classes, compares_masks)
    sizes = [(image.get('width'), image.get('height')) for image in content['images']]
    unsaid = [name for name, size in zip(names, sizes, strict=True) if None in size]
    if unsaid:
        raise ValueError(
            f'{ann_file} does not say width and height of {len(unsaid)} of {len(names)} images, e.g. {unsaid[0]}: add '
            'them to its list of images, where mmdet reads them.'
        )
    check_headers([folder / name for name in names], ann_file, sizes)


def check_masks(ann_file: str | Path, content: dict, classes: Sequence[str] | None, compared: bool) -> None:
    """Every annotation that is used has a mask; a single one without ends training or validation with a KeyError.

    Args:
        ann_file: for the message.
        content: of the file.
        classes: what the config calls the classes, None for all.
        compared: COCO's evaluation reads the masks of all annotations of these classes; else mmdet's dataset does,
            which leaves out what is to be ignored, has no area, or lies outside its image.
    """
    wanted = {c.get('id') for c in content['categories'] if classes is None or c.get('name') in classes}
    sizes = {image.get('id'): (image.get('width'), image.get('height')) for image in content['images']}
    used = [a for a in content['annotations'] if a.get('category_id') in wanted and a.get('image_id') in sizes]
    if not compared:
        used = [annotation for annotation in used if _is_read(annotation, *sizes[annotation['image_id']])]
    without = sum(not annotation.get('segmentation') for annotation in used)
    if without:
        raise ValueError(
            f'{without} of {len(used)} annotations of {ann_file} have no masks (`segmentation`), and this config needs '
            'them: add them, or train on boxes alone: `masks = False` in mmcfg/templates/detection_coco-folder.py, in '
            'another config with_mask=False in both pipelines, roi_head=dict(mask_roi_extractor=None, mask_head=None) '
            "and metric='bbox' in the evaluators."
        )


def _is_read(annotation: dict, width: float | None, height: float | None) -> bool:
    """Whether mmdet's COCO dataset takes an annotation."""
    x, y, w, h = annotation['bbox']
    inside = x < (width or math.inf) and y < (height or math.inf) and min(x + w, y + h) > 0
    return not annotation.get('ignore') and inside and annotation.get('area', 1) > 0 and w >= 1 and h >= 1


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


def _and_more(names: Sequence[str]) -> str:
    return f' and {len(names) - 1} more' if len(names) > 1 else ''
