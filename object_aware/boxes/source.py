"""Sources of boxes other than a plain COCO annotation file, by the kind of file.

| what it is | how it is told |
|---|---|
| detections or proposals, a list of ``{image_id, bbox, score, segmentation?}`` | a json file that begins with ``[`` |
| a COCO file whose annotations have scores (:mod:`.proposing` writes such) | a json object, and a filter is asked for |
| Pascal VOC | a folder of xml files |
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..byte_strings import ByteStrings

PathLike = str | os.PathLike[str]


class Part(NamedTuple):
    """S scenes with N objects of one source, as columns; objects are sorted by scene.

    Attributes:
        names: S file names relative to the image folder.
        sizes: (S, 2) int32 width, height.
        boxes: (N, 4) float32 xyxy, inside the image.
        scene_of: (N,) int32, non-decreasing.
        classes: (N,) int32 index into ``class_names``.
        crowd: (N,) bool: never a target, but among the others.
        masks: N masks, COCO's compressed RLE at the scene's size; empty where there is none.
        scores: (N,) float64; 1 where the source has none. Those of a scene fall.
        class_names: names of the classes.
        counts: how many boxes were left out or altered, by reason.
        files: the files, or the folder of files, that decide all this.
        notes: sentences about what was left out.
    """

    names: ByteStrings
    sizes: np.ndarray
    boxes: np.ndarray
    scene_of: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray
    masks: ByteStrings
    scores: np.ndarray
    class_names: list[str]
    counts: dict[str, int]
    files: tuple[str, ...]
    notes: tuple[str, ...] = ()


def read_source(
    annotation: PathLike,
    image_folder: PathLike,
    *,
    image_list: PathLike | None = None,
    score_threshold: float | None = None,
    nms_iou: float | None = None,
    top_n: int | None = None,
    check_files: bool = True,
) -> Part | None:
    """Read a source of boxes that is no plain COCO annotation file.

    Args:
        annotation: a json file, or a folder of Pascal VOC xml.
        image_folder: folder of the images.
        image_list: for a list of results: a COCO file whose image list gives names and sizes to the image ids. Without
            it an id is looked for among the file names (139 is ``000000000139.jpg``).
        score_threshold: leave out boxes with a lower score.
        nms_iou: leave out boxes whose IoU with a better one of the image is above this, whatever their classes.
        top_n: keep so many boxes of an image at most.
        check_files: check that every image is there.

    Returns:
        The columns; None for a plain COCO annotation file without any filter, which is for the ordinary reader.

    Raises:
        FileNotFoundError: a file, a folder or images are missing.
        ValueError: the file is none of these kinds, or is damaged; a filter has an impossible value.
    """
    from .results import read_proposals, read_results
    from .voc import read_voc

    for name, value, most in (('score threshold', score_threshold, np.inf), ('IoU of NMS', nms_iou, 1.0)):
        if value is not None and not (np.isfinite(value) and value <= most and (most == np.inf or value >= 0)):
            raise ValueError(f'The {name} must be a number{" in 0..1" if most == 1 else ""}, not {value}.')
    if top_n is not None and top_n < 1:
        raise ValueError(f'At least one box of an image must be kept, not {top_n}.')
    annotation, folder = Path(annotation), Path(image_folder)
    if not annotation.exists():
        raise FileNotFoundError(
            f'Annotation file {annotation} does not exist: give a COCO-format json file or a folder of Pascal VOC xml.'
        )
    if not folder.is_dir():
        raise FileNotFoundError(
            f'Image folder {folder} (for {annotation.name}) does not exist: give the folder that holds its images.'
        )
    filters = dict(score_threshold=score_threshold, nms_iou=nms_iou, top_n=top_n)
    filtered = any(value is not None for value in filters.values())
    if annotation.is_dir():
        if filtered:
            raise ValueError(f'{annotation}: boxes of Pascal VOC have no scores, so they cannot be filtered by them.')
        return read_voc(annotation, folder, check_files)
    if first_character(annotation) == '[':
        return read_results(annotation, folder, image_list, filters, check_files)
    return read_proposals(annotation, folder, filters, check_files) if filtered else None


def first_character(file: PathLike) -> str:
    """The first character of a text file that is no white space ('' if it has none)."""
    with open(file, 'rb') as opened:
        start = opened.read(4096).removeprefix(b'\xef\xbb\xbf').lstrip()
    return chr(start[0]) if start else ''
