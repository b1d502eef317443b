"""Images for proposers: which ones, and their pixels at a modest size."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..image_files import SUFFIXES, list_image_files, missing_files
from ..messages import some
from ..pixels import to_rgb

_ORIENTATION = 0x0112
_UPRIGHT = {
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Picture(NamedTuple):
    """An image at a modest size.

    Attributes:
        pixels: (h, w, 3) uint8 RGB.
        size: (width, height) of the image file, in which boxes are written.
    """

    pixels: np.ndarray
    size: tuple[int, int]


def list_images(folder: str | os.PathLike[str], list_file: str | os.PathLike[str] | None = None) -> list[str]:
    """Names of images relative to ``folder``, with forward slashes: all of it, sorted, or those of a list.

    Raises:
        FileNotFoundError: the folder, the list or images of the list are missing.
        ValueError: there is no image, or one stands in the list twice.
    """
    if not os.path.isdir(folder):
        raise FileNotFoundError(f'Image folder {folder} does not exist.')
    if list_file is None:
        names = sorted(list_image_files(folder))
        if not names:
            raise ValueError(f'Image folder {folder} holds no image ({", ".join(SUFFIXES)}).')
        return names
    if not os.path.isfile(list_file):
        raise FileNotFoundError(f'List of images {list_file} does not exist.')
    lines = Path(list_file).read_text(encoding='utf-8').splitlines()
    names = [line.strip().replace('\\', '/') for line in lines if line.strip()]
    if not names:
        raise ValueError(f'List of images {list_file} is empty.')
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f'{list_file} lists {len(twice)} images more than once ({some(twice)}).')
    missing = missing_files(folder, names)
    if missing:
        raise FileNotFoundError(
            f'{len(missing)} of {len(names)} images of {list_file} are not in {folder} ({some(missing)}).'
        )
    return names


def read_picture(path: str | os.PathLike[str], size: tuple[int, int] | None = None, side: int | None = None) -> Picture:
    """Read an image in the grid that its boxes will refer to, resized.

    A photograph that is stored on its side (EXIF orientations 5 to 8) is turned upright, unless it is square: width and
    height then tell the crop reader that boxes are in the upright grid. All others are taken as stored, as COCO does.

    Args:
        path: the file.
        size: (height, width) to stretch the image to.
        side: or the longest side in pixels that it keeps at most, with its aspect.

    Raises:
        OSError, SyntaxError, ValueError, Image.DecompressionBombError: it does not decode.
    """
    with Image.open(path) as image:
        turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
        width, height = image.size
        if width == height:
            turn = None
        if size is None:
            scale = min(1.0, side / max(width, height)) if side else 1.0
            target = (max(1, round(width * scale)), max(1, round(height * scale)))
        else:
            target = (size[1], size[0]) if turn is None else size
        image.draft('RGB', (2 * target[0], 2 * target[1]))  # JPEG decodes at 1/2, 1/4, 1/8 where that is enough
        small = to_rgb(image).resize(target, Image.Resampling.BICUBIC, reducing_gap=3.0)
    if turn is not None:
        small, width, height = small.transpose(turn), height, width
    return Picture(np.array(small), (width, height))
