"""Pascal VOC: a folder with one xml file an image.

Coordinates are 1-based and inclusive: ``xmin = 1, xmax = 10`` are ten pixels, here 0..10. A *difficult* object is never
a target, but it counts among the others, as a crowd does. A *truncated* object is an object.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np

from ..byte_strings import ByteStrings
from ..coco_objects import LEFT_OUT, clean_boxes
from ..image_files import image_size, list_image_files
from ..messages import some
from .source import Part

MAX_BYTES = 8 << 20
"""Largest xml file that is read; one of a thousand objects has 0.3 MB."""
_MAX_DEPTH = 32


def read_voc(annotations: Path, folder: Path, check_files: bool = True) -> Part:
    """All xml files of a folder and its subfolders; see :func:`.source.read_source`.

    Files that are no sound annotation are left out and counted; their names stand in the notes.
    """
    files = sorted(annotations.rglob('*.xml'))
    if not files:
        raise FileNotFoundError(f'{annotations} holds no xml file: give the folder of the Pascal VOC annotations.')
    present = list_image_files(folder)
    by_name = {name: name for name in present}
    by_base: dict[str, list[str]] = {}
    for name in present:
        base = name.rpartition('/')[2]
        for key in (base, os.path.splitext(base)[0]):
            by_base.setdefault(key, []).append(name)

    names, sizes, raw, scene_of, labels, difficult = [], [], [], [], [], []
    unsound, missing = [], []
    truncated = 0
    for file in files:
        try:
            root = parse_xml(file)
            if root.tag != 'annotation':
                raise ValueError(f'its root is <{root.tag}>')
            name = _image_of(root, file, by_name, by_base)
            if name is None:
                missing.append(file.name)
                continue
            size = _size(root) or image_size(folder / name)
            objects = [_object(element) for element in root.findall('object')]
        except ValueError as error:
            unsound.append(f'{file.name} ({error})')
            continue
        for box, label, hard, cut in objects:
            raw.append(box)
            scene_of.append(len(names))
            labels.append(label)
            difficult.append(hard)
            truncated += cut
        names.append(name)
        sizes.append(size)
    if missing and check_files:
        raise FileNotFoundError(
            f'{len(missing)} of {len(files)} images of {annotations} are not in {folder} ({some(missing)}): '
            'is this the right image folder?'
        )
    if not names:
        raise ValueError(f'None of the {len(files)} xml files of {annotations} is sound ({some(unsound)}).')
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f'{annotations}: {len(twice)} images have several xml files ({some(twice)}).')
    scene_column, size_column = np.array(scene_of, dtype=np.int32), np.array(sizes, dtype=np.int32).reshape(-1, 2)
    values = np.array([box or [0.0] * 4 for box in raw], dtype=np.float64).reshape(-1, 4)
    shaped = np.array([box is not None for box in raw], dtype=bool)
    boxes, good, counts = clean_boxes(values, shaped, size_column[scene_column])
    rows = np.flatnonzero(good)
    if not len(rows):
        told = ', '.join(f'{count} {reason}' for reason, count in counts.items() if count)
        raise ValueError(f'{annotations} has no usable box: all {len(raw)} are left out ({told}).')
    class_names = sorted(set(labels))
    class_of = {name: row for row, name in enumerate(class_names)}
    counts |= {'unsound xml': len(unsound), 'difficult': int(np.array(difficult)[rows].sum()), 'truncated': truncated}
    notes = (f'{len(unsound)} xml files are left out: {some(unsound)}',) if unsound else ()
    return Part(
        names=ByteStrings.of([name.encode() for name in names]),
        sizes=size_column,
        boxes=boxes[rows],
        scene_of=scene_column[rows],
        classes=np.array([class_of[labels[row]] for row in rows], dtype=np.int32),
        crowd=np.array(difficult, dtype=bool)[rows],
        masks=ByteStrings.empty(len(rows)),
        scores=np.ones(len(rows)),
        class_names=class_names,
        counts={**dict.fromkeys(LEFT_OUT, 0), **counts},
        files=(str(annotations),),
        notes=notes,
    )


def parse_xml(file: Path) -> Element:
    """The tree of a small xml file that declares no entities.

    Entities can blow a file of a kilobyte up to gigabytes, or read other files; annotations never need them. Newer
    versions of expat stop the first by themselves, older ones do not, so a declaration of any is refused.

    Raises:
        ValueError: too large, too deep, not well-formed, or it declares an entity; one clause that says which.
    """
    size = file.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f'it has {size:,} bytes, more than {MAX_BYTES:,}')
    builder, depth = TreeBuilder(), 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _MAX_DEPTH:
            raise ValueError(f'it is nested more than {_MAX_DEPTH} deep')
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*_: Any) -> None:
        raise ValueError('it declares an entity')

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(file.read_bytes(), True)
    except expat.ExpatError as error:
        raise ValueError(f'not well-formed: {error}') from None
    return builder.close()


def _image_of(root: Element, file: Path, by_name: dict[str, str], by_base: dict[str, list[str]]) -> str | None:
    """The image that an xml file is of: as it says, else the one with the same name; None if there is none."""
    said = (root.findtext('filename') or '').strip().replace('\\', '/')
    if said in by_name:
        return said
    for key in (said.rpartition('/')[2], os.path.splitext(said.rpartition('/')[2])[0], file.stem):
        found = by_base.get(key, []) if key else []
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(f'{len(found)} images are called {key}')
    return None


def _size(root: Element) -> tuple[int, int] | None:
    """(width, height) as the file says; None where it says nothing, or zero as some tools do."""
    try:
        width, height = (int(float(root.findtext(f'size/{side}') or 0)) for side in ('width', 'height'))
    except (ValueError, OverflowError):
        return None
    return (width, height) if 0 < width < 2**31 and 0 < height < 2**31 else None


def _object(element: Element) -> tuple[list[float] | None, str, bool, bool]:
    """x, y, width, height (None where a number is missing), name, difficult, truncated."""
    box = None
    try:
        x1, y1, x2, y2 = (float(element.findtext(f'bndbox/{side}')) for side in ('xmin', 'ymin', 'xmax', 'ymax'))
        box = [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1]
    except (TypeError, ValueError):
        pass
    difficult, truncated = ((element.findtext(flag) or '0').strip() == '1' for flag in ('difficult', 'truncated'))
    return box, (element.findtext('name') or 'object').strip(), difficult, truncated
