"""Objects to measure proposals against, and proposals with their scores, by image name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from .recall import Truth
from .results import read_proposals, read_results
from .source import PathLike, first_character

NO_FILTERS = dict(score_threshold=None, nms_iou=None, top_n=None)


def read_truth(annotation: PathLike) -> tuple[dict[str, Truth], dict[str, tuple[int, int]]]:
    """Objects of each image of a COCO annotation file (crowds left out), and (width, height) of each image.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no COCO annotation file.
    """
    file = Path(annotation)
    if not file.is_file():
        raise FileNotFoundError(f'Annotation file {file} does not exist.')
    try:
        content = json.loads(file.read_bytes())
        images = {image['id']: str(image['file_name']).replace('\\', '/') for image in content['images']}
        sizes = {images[image['id']]: (int(image['width']), int(image['height'])) for image in content['images']}
        boxes: dict[str, list[list[float]]] = {name: [] for name in sizes}
        areas: dict[str, list[float]] = {name: [] for name in sizes}
        for entry in content['annotations']:
            if not entry.get('iscrowd') and min(entry['bbox'][2:]) > 0:
                x, y, width, height = entry['bbox']
                boxes[images[entry['image_id']]].append([x, y, x + width, y + height])
                areas[images[entry['image_id']]].append(entry.get('area', width * height))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f'{file} is no sound COCO annotation file ({type(error).__name__}: {error}).') from None
    truths = {name: Truth(np.array(boxes[name]).reshape(-1, 4), np.array(areas[name], dtype=float)) for name in sizes}
    return truths, sizes


def read_scored(file: PathLike, image_list: PathLike) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(K, 4) boxes xyxy and (K,) scores of each image that a file of proposals lists.

    Args:
        file: what tools/propose_boxes.py writes, any COCO file whose annotations have scores, or a list of results.
        image_list: the COCO file that the image ids of a list refer to.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f'Proposals {path} do not exist.')
    if first_character(path) == '[':
        part = read_results(path, Path(), image_list, NO_FILTERS, check_files=False)
    else:
        part = read_proposals(path, Path(), NO_FILTERS, check_files=False)
    offsets = np.searchsorted(part.scene_of, np.arange(len(part.names) + 1))
    return {
        name.decode(): (part.boxes[start:stop].astype(np.float64), part.scores[start:stop])
        for name, start, stop in zip(part.names, offsets[:-1], offsets[1:])
    }
