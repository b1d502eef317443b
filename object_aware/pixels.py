"""From an image file to a crop: decode, cut, resize, flip. Shared by the datasets.

Which pixel grid? COCO's boxes refer to the grid of the stored pixels, whatever an EXIF orientation says. Other
annotation tools write boxes in the grid that a viewer shows. The annotation's width and height decide: if they are
those of the stored grid, pixels are used as stored; if they fit only the grid after the EXIF orientation, the image is
turned; otherwise the file is refused, since its boxes belong to other data.
"""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps

_DRAFT_GAP = 2.0  # JPEGs are decoded at 1/2, 1/4 or 1/8 scale where the window then is still this many times the crop
_TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)


class OpenImage(NamedTuple):
    """An image whose header was read.

    Attributes:
        image: the PIL image, not decoded yet.
        size: (width, height) of the grid that windows refer to.
        upright: whether the EXIF orientation has to be applied to get that grid.
    """

    image: Image.Image
    size: tuple[int, int]
    upright: bool


def open_image(path: str | os.PathLike[str], annotated_size: tuple[int, int] | None = None) -> OpenImage:
    """Read the header of an image file.

    Args:
        path: the file.
        annotated_size: (width, height) by the annotation; None if there is none, then the image is taken upright.

    Raises:
        RuntimeError: the file is missing, is no image, or its size is not the annotated one; it names the file.
    """
    try:
        image = Image.open(path)
        stored = image.size
        if annotated_size is not None and tuple(annotated_size) == stored:
            return OpenImage(image, stored, False)
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _DECODE_ERRORS as error:
        raise RuntimeError(_broken(path, error)) from None
    shown = stored[::-1] if orientation in _TURNED else stored
    if annotated_size is not None and tuple(annotated_size) != shown:
        image.close()
        raise RuntimeError(
            f'Image {path} has {stored[0]}x{stored[1]} pixels, '
            f'but its annotation says {annotated_size[0]}x{annotated_size[1]}: '
            'the crop index was built from other data; give the right image folder or build the index anew.'
        )
    return OpenImage(image, shown, orientation != 1)


def crop(opened: OpenImage, window: np.ndarray, out_size: tuple[int, int], flip: bool = False) -> np.ndarray:
    """Decode an opened image, resize a window of it, close it.

    Bicubic with antialiasing, straight from fractional coordinates.

    Args:
        opened: from :func:`open_image`.
        window: (4,) xyxy in pixels of ``opened.size``, inside it.
        out_size: (height, width) of the crop.
        flip: mirror the crop left to right.

    Returns:
        (3, height, width) uint8 RGB, contiguous.

    Raises:
        RuntimeError: the file does not decode; it names the file.
    """
    image, size, upright = opened
    height, width = out_size
    x1, y1, x2, y2 = (float(c) for c in window)
    try:
        with image:
            if not upright and image.format == 'JPEG':
                wanted = min((x2 - x1) / width, (y2 - y1) / height) / _DRAFT_GAP
                factor = 8 if wanted >= 8 else 4 if wanted >= 4 else 2 if wanted >= 2 else 1
                if factor > 1:
                    image.draft(None, (max(1, size[0] // factor), max(1, size[1] // factor)))
                    # libjpeg makes one pixel of each block of scale x scale, so coordinates divide by exactly that.
                    scale = next(s for s in (8, 4, 2, 1) if image.size == (-(-size[0] // s), -(-size[1] // s)))
                    x1, y1, x2, y2 = x1 / scale, y1 / scale, x2 / scale, y2 / scale
            image.load()
            decoded = ImageOps.exif_transpose(image) if upright else image
            if decoded.mode not in ('RGB', 'L'):  # these two can be resized first
                decoded = to_rgb(decoded)
            box = (max(x1, 0.0), max(y1, 0.0), min(x2, decoded.width), min(y2, decoded.height))
            resized = decoded.resize((width, height), Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)
            pixels = np.asarray(resized.convert('RGB'))
    except _DECODE_ERRORS as error:
        raise RuntimeError(_broken(getattr(image, 'filename', '?'), error)) from None
    if flip:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def to_rgb(image: Image.Image) -> Image.Image:
    """Any PIL mode to RGB.

    16-bit grey keeps its upper 8 bits, palettes are resolved, CMYK is converted, an alpha channel is dropped.

    Raises:
        ValueError: floating-point pixels, whose range is unknown.
    """
    if image.mode.startswith('I'):  # 'I;16' and kin; 'I' is what 16-bit files become in some formats
        grey = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255).astype(np.uint8)
        image = Image.fromarray(grey)
    elif image.mode == 'F':
        raise ValueError('floating-point pixels, whose range is unknown')
    elif image.mode == 'P':  # palettes with transparency go through RGBA, or PIL warns
        image = image.convert('RGBA' if 'transparency' in image.info else 'RGB')
    return image.convert('RGB')


def _broken(path: str | os.PathLike[str], error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f'Image {path} does not exist: was it moved since the run began?'
    reason = str(error).split(' <')[0].split(" '")[0]  # PIL repeats the path or an object's address
    return (
        f'Image {path} does not decode ({reason}): '
        'replace it, or take it out of the annotations and build the crop index anew.'
    )
