"""Scenes and their objects: annotation files in, NumPy columns out.

A scene is an image with objects; an object is a box, and maybe a mask. Class labels are read (tools may show them) but
no training sample ever holds one.

Coordinates are those of the annotation file: pixels of the image as its ``width`` and ``height`` describe it. Boxes are
xyxy with x2, y2 exclusive.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .byte_strings import ByteStrings
from .coco_objects import ALTERED, LEFT_OUT
from .coco_reading import CocoFile, read_coco
from .image_files import check_images
from .messages import some
from .part_files import PartFiles

if TYPE_CHECKING:
    from .boxes.source import Part

__all__ = ['LEFT_OUT', 'Scenes', 'Selection', 'join_scenes', 'read_scenes', 'sources_of']

ProgressOf = Callable[[str], Callable[[int, int], None]]
PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Selection:
    """Which boxes of detections or proposals are taken; see :func:`object_aware.boxes.read_source`.

    Attributes:
        image_list: for lists of results: COCO file that gives names and sizes to the image ids.
        score_threshold, nms_iou, top_n: leave out boxes with a lower score, boxes that overlap a better one more than
            this, and all but so many of an image.
    """

    image_list: str | None = None
    score_threshold: float | None = None
    nms_iou: float | None = None
    top_n: int | None = None

    def as_dict(self) -> dict[str, str | float | int]:
        """What is not None."""
        return {key: value for key, value in vars(self).items() if value is not None}


@dataclass(frozen=True, eq=False)
class Scenes:
    """S scenes with N objects, as columns. Objects are sorted by scene.

    Attributes:
        folders: image folders, as they were given.
        folder_of: (S,) int32, index into ``folders``.
        names: S byte strings (UTF-8): file name relative to its folder, with forward slashes. Any iterable of bytes is
            taken.
        sizes: (S, 2) int32 width, height.
        boxes: (N, 4) float32 xyxy, inside the image.
        scene_of: (N,) int32 scene of each object, non-decreasing.
        classes: (N,) int32 index into ``class_names``.
        crowd: (N,) bool; a crowd is never a target, but it counts among the others.
        class_names: names of the classes; equal names of several files are one class.
        left_out: for each reason in ``LEFT_OUT`` how many boxes were left out; 'clipped': how many were cut at the
            image's border; 'bad mask': how many objects have a mask that cannot be read, so that the box is used; 'box
            of the mask': how many had no box, so that the mask's is used.
        annotation_files: the files (or folders) that were read.
        mask_offsets: (N + 1,) int64, mask_bytes: (M,) uint8: the mask of object n is
            ``mask_bytes[mask_offsets[n]:mask_offsets[n + 1]]``, COCO's compressed run lengths at the scene's size;
            zero bytes where it has none. No object has a mask if they are not given.
        notes: sentences about what was left out of a source.
        selection: which detections or proposals were taken.
        digests: what :func:`object_aware.digests.digest_of` says of each annotation file; worked out if not given.
    """

    folders: tuple[str, ...]
    folder_of: np.ndarray
    names: ByteStrings
    sizes: np.ndarray
    boxes: np.ndarray
    scene_of: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray
    class_names: tuple[str, ...]
    left_out: dict[str, int] = field(default_factory=dict)
    annotation_files: tuple[str, ...] = ()
    mask_offsets: np.ndarray | None = None
    mask_bytes: np.ndarray | None = None
    digests: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    selection: Selection = Selection()

    def __post_init__(self) -> None:
        if not isinstance(self.names, ByteStrings):
            object.__setattr__(self, 'names', ByteStrings.of(self.names))
        if self.mask_offsets is None or self.mask_bytes is None:
            none = ByteStrings.empty(len(self.boxes))
            object.__setattr__(self, 'mask_offsets', none.offsets)
            object.__setattr__(self, 'mask_bytes', none.data)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def object_offsets(self) -> np.ndarray:
        """(S + 1,) int64: the objects of scene s are the rows ``offsets[s]:offsets[s + 1]``."""
        offsets = np.zeros(len(self) + 1, dtype=np.int64)
        np.cumsum(np.bincount(self.scene_of, minlength=len(self)), out=offsets[1:])
        return offsets

    @property
    def masks(self) -> ByteStrings:
        """The masks of the N objects."""
        return ByteStrings(self.mask_offsets, self.mask_bytes)


def read_scenes(
    pairs: Sequence[tuple[PathLike, PathLike]],
    *,
    check_files: bool = True,
    masks: bool = True,
    selection: Selection | None = None,
    workers: int = 1,
    start_method: str | None = None,
    parts: PartFiles | None = None,
    progress: ProgressOf | None = None,
) -> Scenes:
    """Read (annotation file, image folder) pairs and join them.

    An annotation file is a COCO file, a list of detections or proposals, or a folder of Pascal VOC xml files.

    Args:
        pairs: one or several (annotation file, image folder).
        check_files: check that every image is on disk, by listing each folder once.
        masks: read masks, too; boxes alone are much faster.
        selection: which detections or proposals are taken; all if None.
        workers: processes for a large file; the result does not depend on them.
        start_method: how the processes start: 'fork', 'spawn' or 'forkserver'; the platform's own if None.
        parts: keeps what is done, so that an interrupted reading goes on.
        progress: called with what begins ('scanning' or 'reading' a large file); gives a function that is called with
            (bytes done, bytes in all).

    Raises:
        FileNotFoundError: an annotation file, an image folder or images are missing.
        ValueError: a file that is not COCO, has no categories, no images or no objects, has an id twice, names an image
            or a category that it does not define, or one image stands in two files. Each says in one sentence what,
            where and what to do.
    """
    if not pairs:
        raise ValueError('No scenes given: name at least one annotation file with its image folder.')
    found = []
    for annotation, folder in pairs:
        annotation, folder = Path(annotation), Path(folder)
        other = _read_other(annotation, folder, selection or Selection(), check_files, masks)
        found.append(
            other or _read_coco(annotation, folder, check_files, masks, workers, start_method, parts, progress)
        )
    return replace(join_scenes(found), selection=selection or Selection())


def _read_other(annotation: Path, folder: Path, selection: Selection, check_files: bool, masks: bool) -> Scenes | None:
    """Scenes of a source that is no plain COCO annotation file; None for one that is."""
    from .boxes.source import read_source

    part = read_source(annotation, folder, check_files=check_files, **selection.as_dict())
    if part is None:
        return None
    return _as_scenes(
        part,
        folder,
        masks,
        left_out=part.counts,
        annotation_files=sources_of([(annotation, folder)], selection),
        notes=part.notes,
    )


def sources_of(pairs: Sequence[tuple[PathLike, PathLike]], selection: Selection | None = None) -> tuple[str, ...]:
    """The files (and folders) that decide what :func:`read_scenes` reads, as ``Scenes.annotation_files`` has them."""
    listed = (selection.image_list,) if selection is not None and selection.image_list is not None else ()
    return tuple(str(file) for annotation, _ in pairs for file in (annotation, *listed))


def _read_coco(
    annotation: Path,
    folder: Path,
    check_files: bool,
    masks: bool,
    workers: int,
    start_method: str | None,
    parts: PartFiles | None,
    progress: ProgressOf | None,
) -> Scenes:
    def check_listed(names: ByteStrings) -> None:
        check_images(folder, [name.decode() for name in names], annotation)

    file = read_coco(
        annotation,
        masks=masks,
        workers=workers,
        start_method=start_method,
        check_images=check_listed if check_files else None,
        parts=parts,
        progress=progress,
    )
    return _as_scenes(
        file, folder, masks, left_out=file.left_out, annotation_files=(str(annotation),), digests=(file.digest,)
    )


def _as_scenes(columns: CocoFile | Part, folder: Path, masks: bool, **more: Any) -> Scenes:
    """What was read of one source and one image folder."""
    return Scenes(
        folders=(str(folder),),
        folder_of=np.zeros(len(columns.names), dtype=np.int32),
        names=columns.names,
        sizes=columns.sizes,
        boxes=columns.boxes,
        scene_of=columns.scene_of,
        classes=columns.classes,
        crowd=columns.crowd,
        class_names=tuple(columns.class_names),
        mask_offsets=columns.masks.offsets if masks else None,
        mask_bytes=columns.masks.data if masks else None,
        **more,
    )


def join_scenes(parts: Sequence[Scenes]) -> Scenes:
    """Scenes of several sources as one; equal class names become one class, equal folders one folder.

    Raises:
        ValueError: one image stands in two of them.
    """
    class_names: dict[str, int] = {}
    folders: dict[str, int] = {}
    left_out: Counter[str] = Counter(dict.fromkeys((*LEFT_OUT, *ALTERED), 0))
    scene_base = 0
    columns: dict[str, list[np.ndarray]] = {'folder_of': [], 'scene_of': [], 'classes': []}
    for part in parts:
        class_of = np.array([class_names.setdefault(name, len(class_names)) for name in part.class_names], np.int32)
        folder_of = np.array([folders.setdefault(folder, len(folders)) for folder in part.folders], np.int32)
        columns['classes'].append(part.classes if len(parts) == 1 and _counts_up(class_of) else class_of[part.classes])
        columns['folder_of'].append(folder_of[part.folder_of])
        columns['scene_of'].append(part.scene_of + np.int32(scene_base) if scene_base else part.scene_of)
        left_out.update(part.left_out)
        scene_base += len(part)

    def join(arrays: Sequence[np.ndarray]) -> np.ndarray:
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)

    names = parts[0].names if len(parts) == 1 else ByteStrings.concatenate([part.names for part in parts])
    masks = parts[0].masks if len(parts) == 1 else ByteStrings.concatenate([part.masks for part in parts])
    joined = Scenes(
        folders=tuple(folders),
        class_names=tuple(class_names),
        left_out=dict(left_out),
        annotation_files=tuple(file for part in parts for file in part.annotation_files),
        names=names,
        **{name: join(arrays) for name, arrays in columns.items()},
        **{name: join([getattr(part, name) for part in parts]) for name in ('sizes', 'boxes', 'crowd')},
        mask_offsets=masks.offsets,
        mask_bytes=masks.data,
        notes=tuple(note for part in parts for note in part.notes),
        digests=tuple(digest for part in parts for digest in part.digests)
        if all(len(part.digests) == len(part.annotation_files) for part in parts)
        else (),
    )
    if len(parts) > 1:
        _refuse_images_given_twice(joined)
    return joined


def _counts_up(numbers: np.ndarray) -> bool:
    return bool((numbers == np.arange(len(numbers))).all())


def _refuse_images_given_twice(scenes: Scenes) -> None:
    """One picture under two scene ids could be mixed with itself, and neither would know all of its objects."""
    resolved = [os.path.realpath(folder) for folder in scenes.folders]
    paths = Counter(os.path.join(resolved[f], name.decode()) for f, name in zip(scenes.folder_of, scenes.names))
    twice = [path for path, count in paths.items() if count > 1]
    if twice:
        raise ValueError(
            f'{len(twice)} images stand in more than one annotation file ({some(twice)}): '
            'join their annotations in one file, so that each image is one scene.'
        )
