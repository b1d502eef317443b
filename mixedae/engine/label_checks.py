"""Looking at folders of images and label maps before a run: each problem is one sentence."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mixedae.engine.data_checks import check_folder, check_headers
from object_aware.image_files import list_image_files, missing_files
from object_aware.messages import some

SAMPLED_LABEL_MAPS = 64
MAPS_FOR_A_CLASS = 4  # a class that is in none of so many maps for each class is worth a warning


def check_segmentation(
    image_folder: str | Path,
    label_folder: str | Path | None,
    num_classes: int | None,
    *,
    image_suffix: str = '.jpg',
    label_suffix: str = '.png',
    reduce_zero_label: bool = False,
    ignore_index: int = 255,
    classes: Sequence[str] | None = None,
    need_labels: bool = True,
) -> list[str]:
    """Images and label maps: all there in pairs, images decode, a sample of the label maps holds valid labels only.

    Args:
        image_folder: folder of images, searched with its subfolders.
        label_folder: folder of label maps with the same names; None for images alone.
        num_classes: n; labels are 1..n with ``reduce_zero_label`` (0 = unlabelled), else 0..n-1. None: not checked.
        image_suffix: how image names end.
        label_suffix: how names of label maps end.
        reduce_zero_label: as mmseg's.
        ignore_index: label that is left out of loss and metric.
        classes: names, for messages.
        need_labels: refuse label maps without a pixel of any class, as there is nothing to learn from them.

    Returns:
        Warnings: images of other suffixes, classes that do not occur.
    """
    image_folder = check_folder(image_folder, 'image')
    images = sorted(
        path for path in image_folder.rglob(f'*{image_suffix}') if path.is_file() and not path.name.startswith('.')
    )
    warnings = check_suffixes(image_folder, len(images), image_suffix, label_suffix)
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
            options = (num_classes, reduce_zero_label, ignore_index, classes, need_labels)
            warnings += check_labels(label_folder, names, *options)
    check_headers(images, image_folder)
    return warnings


def check_suffixes(folder: Path, found: int, image_suffix: str, label_suffix: str) -> list[str]:
    """Images whose names end otherwise (``.JPG``, ``.png`` beside ``.jpg``) are left out by mmseg without a word."""
    others = Counter(
        Path(name).suffix
        for name in list_image_files(folder)
        if not name.endswith((image_suffix, label_suffix)) and not Path(name).name.startswith('.')
    )
    if label_suffix != image_suffix and not found:  # label maps may lie beside the images, but not without them
        others.update(path.suffix for path in folder.rglob(f'*{label_suffix}'))
    listed = ', '.join(f'{count} *{suffix}' for suffix, count in sorted(others.items()))
    if not found:
        raise FileNotFoundError(
            f'The image folder {folder} has no *{image_suffix} files: set data_prefix.img_path'
            + (f', or img_suffix (it has {listed}).' if others else '.')
        )
    if not others:
        return []
    return [
        f'{sum(others.values())} images of {folder} are left out, since their names do not end in {image_suffix} '
        f'({listed}): save them as {image_suffix}, or set img_suffix if it is wrong.'
    ]


def check_labels(
    folder: Path,
    names: Sequence[str],
    num_classes: int,
    reduce_zero_label: bool,
    ignore_index: int,
    classes: Sequence[str] | None = None,
    need_labels: bool = True,
) -> list[str]:
    """A sample of the label maps holds labels of the classes and nothing else; warns of classes that are in none.

    Where none of the sample has a pixel of any class, the others are looked at until one has.

    Raises:
        ValueError: a map has another value, or (``need_labels``) no map at all has a pixel of any class.
    """
    first = 1 if reduce_zero_label else 0
    labels = set(range(first, first + num_classes)) - {ignore_index}
    ignored = {0, 255, ignore_index} - labels if reduce_zero_label else {ignore_index}
    zero = ', 0 is unlabelled (reduce_zero_label)' if reduce_zero_label else ''
    meaning = f'labels are {first}..{first + num_classes - 1}{zero}'
    sample = random.Random(0).sample(names, min(SAMPLED_LABEL_MAPS, len(names)))
    seen: set[int] = set()
    rest = sorted(set(names) - set(sample))
    looked = 0
    for name in (*sample, *rest):
        if looked >= len(sample) and (seen & labels or not need_labels):
            break
        looked += 1
        values = read_values(folder / name)
        wrong = sorted(values - labels - ignored)
        if wrong:
            raise ValueError(
                f'The label map {folder / name} holds the value {wrong[0]}, but the config has {num_classes} classes, '
                f'so {meaning}: set metainfo.classes and num_classes, or mend the label maps.'
            )
        seen |= values
    looked_at = f'the {looked} label maps' + (f' (of {len(names)})' if looked < len(names) else '')
    held = ' and '.join(str(value) for value in sorted(seen))
    if not seen & labels:
        sentence = (
            f'None of {looked_at} of {folder} that were looked at has a pixel of any class: they hold {held}, and '
            f'{meaning}. Mend the label maps or reduce_zero_label; a binary mask of 0 and 255 goes in as 0 and 1, with '
            "classes=('background', '...') and reduce_zero_label=False."
        )
        if need_labels:
            raise ValueError(sentence)
        return [sentence]
    absent = sorted(labels - seen)
    if not absent or (looked < len(names) and looked < MAPS_FOR_A_CLASS * num_classes):
        return []
    named = [classes[label - first] if classes else label for label in absent]
    also = f'; {ignore_index} counts as unlabelled' if ignore_index in seen else ''
    return [
        f'{len(absent)} of {num_classes} classes occur in none of {looked_at} of {folder} that were looked at: '
        f'{some(named, 6)} ({meaning}{also}).'
    ]


def read_values(path: Path) -> set[int]:
    """Which values a label map holds."""
    with Image.open(path) as image:
        if image.mode not in ('L', 'P', 'I', 'I;16', '1'):
            raise ValueError(f'The label map {path} has mode {image.mode}, not one value for each pixel.')
        if image.mode in ('L', 'P'):
            return {value for value, count in enumerate(image.histogram()) if count}
        return {int(value) for value in np.unique(np.asarray(image))}
