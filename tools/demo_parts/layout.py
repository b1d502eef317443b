"""Which data a folder holds: our own layout, COCO's official names, ADE20K's official names.

Our own (the embedded demo data has it)::

    DIR/det/images/*.jpg                  DIR/det/annotations/{train,val}.json        COCO format
    DIR/seg/images/{train,val}/*.jpg      DIR/seg/annotations/{train,val}/*.png       0 unlabelled, 1..n classes
    DIR/seg/classes.txt                   one name a line, in the order of 1..n
    DIR/pretrain/images/*.jpg             DIR/pretrain/annotations/*train*.json       optional: more scenes with boxes

COCO:   DIR/{train2017,val2017}/*.jpg             DIR/annotations/instances_{train,val}2017.json
ADE20K: DIR/images/{training,validation}/*.jpg    DIR/annotations/{training,validation}/*.png

COCO may also lie in DIR/coco, ADE20K in DIR/ade, DIR/ade20k or DIR/ADEChallengeData2016.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png')


class DataError(ValueError):
    """The data folder cannot be used; the message says what, where, and what to do."""


@dataclass(frozen=True)
class Scenes:
    """A COCO annotation file and the folder its `file_name`s are in."""

    annotations: Path
    images: Path


@dataclass(frozen=True)
class Detection:
    train: Scenes
    val: Scenes
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Segmentation:
    """Image and label-map folders; value 0 of a map is unlabelled, k is `classes[k - 1]`."""

    train_images: Path
    train_labels: Path
    val_images: Path
    val_labels: Path
    classes: tuple[str, ...]
    image_suffix: str = '.jpg'


@dataclass(frozen=True)
class Layout:
    """What of a folder the demo uses."""

    root: Path
    kind: str
    pretrain: tuple[Scenes, ...]
    detection: Detection | None
    segmentation: Segmentation | None

    def files(self) -> list[Path]:
        """The annotation files and folders that a change of the data would touch."""
        found: list[Path] = []
        for scenes in self.pretrain:
            found += [scenes.annotations, scenes.images]
        if self.detection:
            found += [self.detection.val.annotations, self.detection.val.images]
        if self.segmentation:
            s = self.segmentation
            found += [s.train_images, s.train_labels, s.val_images, s.val_labels]
        return found


def find_layout(root: str | Path) -> Layout:
    """Look at a folder and say what it holds.

    Raises:
        DataError: the folder is missing, holds nothing known, or holds no boxes to cut crops by.
    """
    root = Path(root)
    if not root.exists():
        raise DataError(
            f'the data folder {root} does not exist: give --data a folder as docs/get_started.md shows, or leave it out'
        )
    if not root.is_dir():
        raise DataError(f'{root} is a file: --data wants a folder')
    found = [name for name in ('det', 'seg', 'pretrain') if (root / name).is_dir()]
    if found:
        kind, detection, segmentation = 'mixedae', _own_detection(root), _own_segmentation(root)
        extra = _own_pretrain(root)
    else:
        detection, segmentation, extra = _coco(root), _ade20k(root), ()
        kind = ' + '.join(name for name, part in (('coco', detection), ('ade20k', segmentation)) if part)
    pretrain = ((detection.train,) if detection else ()) + extra
    if not detection and not segmentation and not extra:
        raise DataError(
            f'{root} holds nothing that the demo knows: it looks for det/ and seg/, or '
            'annotations/instances_train2017.json and train2017/ (COCO), or images/training/ and '
            'annotations/training/ (ADE20K)'
        )
    if not pretrain:
        raise DataError(
            f'{root} has label maps but no boxes: object-aware crops need det/annotations/train.json or '
            'pretrain/annotations/*train*.json (COCO format)'
        )
    if not detection and not segmentation:
        raise DataError(f'{root} has scenes to pre-train on but neither det/ nor seg/ to fine-tune on')
    return Layout(root, kind, pretrain, detection, segmentation)


def read_classes(annotations: Path) -> tuple[str, ...]:
    """Category names of a COCO file, in its order.

    Raises:
        DataError: not JSON, not COCO, or no category.
    """
    try:
        content = json.loads(annotations.read_text(encoding='utf-8'))
    except json.JSONDecodeError as error:
        raise DataError(
            f'{annotations} is not JSON (line {error.lineno}: {error.msg}): is the download complete?'
        ) from error
    for key in ('images', 'annotations', 'categories'):
        if not isinstance(content, dict) or key not in content:
            raise DataError(f'{annotations} is not in COCO format: it has no {key!r}')
    names = tuple(str(category['name']) for category in content['categories'])
    if not names:
        raise DataError(f"{annotations} lists no category: its 'categories' is empty, so there is nothing to detect")
    return names


def _own_detection(root: Path) -> Detection | None:
    folder = root / 'det'
    if not folder.is_dir():
        return None
    # A coarser set of classes is preferred where there is one: more examples a class for a short training.
    coarse = folder / 'annotations' / 'train_super12.json'
    suffix = '_super12' if coarse.is_file() else ''
    images = _folder(folder / 'images', 'the images of det/annotations')
    train, val = (Scenes(_file(folder / 'annotations' / f'{split}{suffix}.json'), images) for split in ('train', 'val'))
    return _detection(train, val)


def _detection(train: Scenes, val: Scenes) -> Detection:
    classes = read_classes(train.annotations)
    if read_classes(val.annotations) != classes:
        raise DataError(
            f'{train.annotations} and {val.annotations} list different categories: give both the same, in one order'
        )
    return Detection(train, val, classes)


def _own_segmentation(root: Path) -> Segmentation | None:
    folder = root / 'seg'
    if not folder.is_dir():
        return None
    images, labels = folder / 'images', folder / 'annotations'
    classes = _lines(_file(folder / 'classes.txt'))
    return _segmentation(images / 'train', labels / 'train', images / 'val', labels / 'val', classes)


def _segmentation(
    train_images: Path, train_labels: Path, val_images: Path, val_labels: Path, classes: Iterable[str]
) -> Segmentation:
    for path in (train_images, train_labels, val_images, val_labels):
        _folder(path, 'images and label maps of the same names')
    classes = tuple(classes)
    if not classes:
        raise DataError(f'{train_images.parents[1]} has an empty list of classes: there is nothing to segment')
    suffix = next((p.suffix for p in sorted(train_images.iterdir()) if p.suffix.lower() in IMAGE_SUFFIXES), None)
    if suffix is None:
        raise DataError(f'{train_images} holds no image ({", ".join(IMAGE_SUFFIXES)})')
    return Segmentation(train_images, train_labels, val_images, val_labels, classes, suffix)


def _own_pretrain(root: Path) -> tuple[Scenes, ...]:
    folder = root / 'pretrain'
    files = sorted((folder / 'annotations').glob('*train*.json')) if folder.is_dir() else []
    return tuple(Scenes(file, _folder(folder / 'images', f'the images of {file.name}')) for file in files)


def _coco(root: Path) -> Detection | None:
    for base in (root, root / 'coco'):
        train = base / 'annotations' / 'instances_train2017.json'
        if train.is_file():
            return _detection(
                Scenes(train, _folder(base / 'train2017', f'the images of {train.name}')),
                Scenes(_file(base / 'annotations' / 'instances_val2017.json'), _folder(base / 'val2017', 'its images')),
            )
    return None


def _ade20k(root: Path) -> Segmentation | None:
    for base in (root, root / 'ade', root / 'ade20k', root / 'ADEChallengeData2016'):
        images, labels = base / 'images', base / 'annotations'
        if (images / 'training').is_dir() and (labels / 'training').is_dir():
            return _segmentation(
                images / 'training',
                labels / 'training',
                images / 'validation',
                labels / 'validation',
                _ade20k_classes(base),
            )
    return None


def _ade20k_classes(base: Path) -> tuple[str, ...]:
    """Names from objectInfo150.txt (it comes with the download), or classes.txt."""
    info = base / 'objectInfo150.txt'
    if info.is_file():
        rows = [line.split('\t') for line in _lines(info)[1:]]
        return tuple(row[-1].split(',')[0].strip() for row in rows)
    if (base / 'classes.txt').is_file():
        return _lines(base / 'classes.txt')
    raise DataError(f'{base} has neither objectInfo150.txt nor classes.txt: the names of the classes are needed')


def _lines(file: Path) -> tuple[str, ...]:
    return tuple(line.strip() for line in file.read_text(encoding='utf-8').splitlines() if line.strip())


def _file(path: Path) -> Path:
    if not path.is_file():
        raise DataError(f'{path} is missing')
    return path


def _folder(path: Path, what: str) -> Path:
    if not path.is_dir():
        raise DataError(f'the folder {path} is missing: it should hold {what}')
    return path
