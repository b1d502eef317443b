"""From an image file to a crop: read, decode the window, resize, flip. Shared by the datasets.

Which pixel grid? COCO's boxes refer to the grid of the stored pixels, whatever an EXIF orientation says. Other
annotation tools write boxes in the grid that a viewer shows. The annotation's width and height decide: if they are
those of the stored grid, pixels are used as stored; if they fit only the grid after the EXIF orientation, the image is
turned; otherwise the file is refused, since its boxes belong to other data.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import ExifTags

from .decoding import (
    Box,
    DecodeError,
    Region,
    check_jpeg,
    check_kind,
    decode_cut,
    decode_pillow,
    decode_whole_jpeg,
    jpeg_scale,
    open_pillow,
    part_of_jpeg,
    part_of_pillow,
    to_rgb,
    with_support,
)
from .jpeg_layout import JpegLayout, read_layout

__all__ = [
    'ImageError',
    'Location',
    'OpenImage',
    'check_file',
    'crop',
    'crops_from',
    'decode_all',
    'decoded_bytes',
    'load_kernels',
    'open_image',
    'read_bytes',
    'to_rgb',
    'verify',
]

Location = tuple[str, int, int | None]
"""(path, offset, size) of an image file; size None: from the offset to the end."""

_TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height
_HEAD, _TAIL = 1 << 17, 1 << 10  # bytes of a file that are read to look at its header and its end


class ImageError(RuntimeError):
    """An image cannot be used. The message is a sentence.

    Attributes:
        path: the file.
        reason: a few words.
    """

    def __init__(self, path: str, reason: str, message: str) -> None:
        super().__init__(message)
        self.path, self.reason = path, reason

    def __reduce__(self):
        return ImageError, (self.path, self.reason, str(self))


class OpenImage(NamedTuple):
    """An image file whose header was read.

    Attributes:
        path: where it is, for messages.
        data: its bytes.
        stored: (width, height) of the stored grid.
        size: (width, height) of the grid that windows refer to.
        orientation: EXIF orientation that has to be applied to get that grid, 1 for none.
        layout: where what is in a sequential JPEG; None for other files.
        decoded: pixels of the whole stored grid, if they are at hand: by scale for a JPEG, under 0 for files that
            Pillow decodes.
    """

    path: str
    data: bytes
    stored: tuple[int, int]
    size: tuple[int, int]
    orientation: int
    layout: JpegLayout | None
    decoded: dict[int, np.ndarray] | None = None


def read_bytes(location: Location, whole: bool = True) -> bytes:
    """The bytes of an image file, which may be a part of another file; fewer than asked for only if not ``whole``.

    Raises:
        ImageError: it is missing, empty, cannot be read or ends too early; it names the file.
    """
    path, offset, size = location
    try:
        with open(path, 'rb') as file:
            if offset:
                file.seek(offset)
            data = file.read(-1 if size is None else size)
    except FileNotFoundError:
        raise ImageError(
            path, 'it does not exist', f'Image {path} does not exist: was it moved since the run began?'
        ) from None
    except OSError as error:
        raise _broken(path, error.strerror or str(error)) from None
    if not data:
        raise _broken(path, 'the file is empty')
    if whole and size is not None and len(data) < size:
        raise _broken(path, 'its data end too early')
    return data


def open_image(source: str | os.PathLike[str] | Location, annotated_size: tuple[int, int] | None = None) -> OpenImage:
    """Read an image file and understand its header.

    Args:
        source: a path, or a location as ``CropIndex.image_bytes_location`` gives it.
        annotated_size: (width, height) by the annotation; None if there is none, then the image is taken upright.

    Raises:
        ImageError: the file is missing, is no image, or its size is not the annotated one; it names the file.
    """
    location = _as_location(source)
    return _understand(location[0], read_bytes(location), annotated_size)


def _as_location(source: str | os.PathLike[str] | Location) -> Location:
    return source if isinstance(source, tuple) else (os.fspath(source), 0, None)


def _understand(path: str, data: bytes, annotated_size: tuple[int, int] | None) -> OpenImage:
    layout = read_layout(data)
    orientation = 1
    try:
        image = None
        if layout is not None:
            stored = (layout.width, layout.height)
        else:
            image = open_pillow(data)
            stored = image.size
        if annotated_size is not None and tuple(annotated_size) == stored:
            return OpenImage(path, data, stored, stored, 1, layout)
        if layout.has_exif if layout is not None else _may_have_exif(data):
            orientation = (image or open_pillow(data)).getexif().get(ExifTags.Base.Orientation, 1)
    except (DecodeError, OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error) as error:
        raise _broken(path, str(error) or type(error).__name__) from None
    if orientation not in range(1, 9):
        orientation = 1
    shown = stored[::-1] if orientation in _TURNED else stored
    if annotated_size is not None and tuple(annotated_size) != shown:
        raise ImageError(
            path,
            f'it has {stored[0]}x{stored[1]} pixels, its annotation says {annotated_size[0]}x{annotated_size[1]}',
            f'Image {path} has {stored[0]}x{stored[1]} pixels, '
            f'but its annotation says {annotated_size[0]}x{annotated_size[1]}: '
            'the crop index was built from other data; give the right image folder or build the index anew.',
        )
    return OpenImage(path, data, stored, shown, int(orientation), layout)


def _may_have_exif(data: bytes) -> bool:
    # Asked for the Exif of a PNG, Pillow decodes all pixels, since it may stand behind them.
    return data[:4] != b'\x89PNG' or b'eXIf' in data or b'Raw profile type exif' in data


def check_file(
    source: str | os.PathLike[str] | Location, annotated_size: tuple[int, int] | None = None, thorough: bool = False
) -> None:
    """Look at an image file before training: at its header and its end, or thoroughly at all of it.

    Raises:
        ImageError: it cannot be used.
    """
    path, offset, size = location = _as_location(source)
    head = read_bytes((path, offset, _HEAD if size is None else min(size, _HEAD)), whole=False)
    if not thorough and len(head) == _HEAD and read_layout(head) is not None:
        total = os.path.getsize(path) - offset if size is None else size
        tail = read_bytes((path, offset + max(total - _TAIL, 0), min(_TAIL, total)))
        if b'\xff\xd9' in tail:
            _understand(path, head, annotated_size)
            return
    opened = open_image(location, annotated_size)
    if opened.layout is None:
        try:
            check_kind(opened.data, opened.stored)
        except DecodeError as error:
            raise _broken(path, str(error)) from None
    if thorough or (opened.layout is not None and b'\xff\xd9' not in opened.data[-_TAIL:]):
        verify(opened)


def crop(opened: OpenImage, window: np.ndarray, out_size: tuple[int, int], flip: bool = False) -> np.ndarray:
    """Decode a window of an image and resize it: bicubic with antialiasing, straight from fractional coordinates.

    Args:
        opened: from :func:`open_image`.
        window: (4,) xyxy in pixels of ``opened.size``, inside it.
        out_size: (height, width) of the crop.
        flip: mirror the crop left to right.

    Returns:
        (3, height, width) uint8 RGB, contiguous.

    Raises:
        ImageError: the file does not decode; it names the file.
    """
    return crops_from(opened, [window], out_size, [flip])[0]


def crops_from(
    opened: OpenImage,
    windows: Sequence[np.ndarray] | np.ndarray,
    out_size: tuple[int, int],
    flips: Sequence[bool] | None = None,
) -> np.ndarray:
    """Several windows of one image, decoded together where that costs less. Each is what :func:`crop` gives.

    Args:
        opened: from :func:`open_image`.
        windows: K of (4,) xyxy in pixels of ``opened.size``, inside it.
        out_size: (height, width) of the crops.
        flips: K bools: mirror left to right.

    Returns:
        (K, 3, height, width) uint8 RGB.

    Raises:
        ImageError: the file does not decode; it names the file.
    """
    from .resizing import resize_window  # compiled: only when it is needed (see load_kernels)

    height, width = out_size
    stored_out = (width, height) if opened.orientation in _TURNED else (height, width)
    boxes = [_to_stored(tuple(float(c) for c in window), opened) for window in windows]
    crops = np.empty((len(boxes), 3, height, width), dtype=np.uint8)
    try:
        for region, members in _regions(opened, boxes, stored_out):
            pixels = _turn(region.pixels, opened.orientation)
            for k in members:
                x1, y1, x2, y2 = _in_region(boxes[k], region, opened.orientation)
                flip = bool(flips is not None and flips[k])
                resize_window(
                    pixels, max(x1, 0.0), max(y1, 0.0), min(x2, pixels.shape[1]), min(y2, pixels.shape[0]), flip,
                    crops[k],
                )  # fmt: skip
    except (DecodeError, MemoryError) as error:
        raise _broken(opened.path, str(error) or 'not enough memory') from None
    return crops


def decode_all(opened: OpenImage, out_size: tuple[int, int]) -> OpenImage:
    """The image with all its pixels decoded, at every scale that a crop can ask for; its coded bytes are let go.

    :func:`crop` gives the same bytes from it.

    Args:
        opened: from :func:`open_image`.
        out_size: (height, width) of the crops.

    Raises:
        ImageError: the file does not decode; it names the file.
    """
    whole = (0.0, 0.0, float(opened.stored[0]), float(opened.stored[1]))
    stored_out = out_size[::-1] if opened.orientation in _TURNED else out_size
    try:
        if opened.layout is None:
            check_kind(opened.data, opened.stored)
        if opened.layout is None and (opened.data[:2] != b'\xff\xd8' or _is_cmyk(opened.data)):
            decoded = {0: decode_pillow(opened.data, whole, opened.stored[::-1]).pixels}  # as many pixels: no reducing
        else:
            if opened.layout is not None:
                check_jpeg(opened.data, opened.layout)
            decoded = {
                scale: decode_whole_jpeg(opened.data, scale).pixels for scale in _scales(opened.stored, stored_out)
            }
    except (DecodeError, MemoryError) as error:
        raise _broken(opened.path, str(error) or 'not enough memory') from None
    return opened._replace(data=b'', decoded=decoded)


def load_kernels() -> None:
    """Compile, or load from disk, what crops need; once before loader workers start, so that they share it."""
    from . import jpeg_kernels, resizing  # noqa: F401


def verify(opened: OpenImage) -> None:
    """Look at all coded data of an image: much faster than decoding for sequential JPEGs, by decoding for others.

    Raises:
        ImageError: they are damaged or end too early.
    """
    try:
        if opened.layout is not None:
            check_jpeg(opened.data, opened.layout)
        else:
            whole = (0.0, 0.0, float(opened.stored[0]), float(opened.stored[1]))
            list(_regions(opened, [whole], (32, 32)))
    except (DecodeError, MemoryError) as error:
        raise _broken(opened.path, str(error)) from None


def _regions(opened: OpenImage, boxes: Sequence[Box], out_size: tuple[int, int]) -> list[tuple[Region, list[int]]]:
    """Decoded regions, and which of the boxes (stored grid) each serves."""
    data, layout = opened.data, opened.layout
    if opened.decoded is not None:
        return [(_from_decoded(opened, box, out_size), [k]) for k, box in enumerate(boxes)]
    if layout is None:
        check_kind(data, opened.stored)
        if data[:2] != b'\xff\xd8' or _is_cmyk(data):
            return [(decode_pillow(data, box, out_size), [k]) for k, box in enumerate(boxes)]
    by_scale: dict[int, list[int]] = {}
    for k, box in enumerate(boxes):
        by_scale.setdefault(jpeg_scale(box, out_size), []).append(k)
    regions = []
    for scale, members in by_scale.items():
        if layout is None:
            regions.append((decode_whole_jpeg(data, scale), members))
            continue
        wide = [with_support(boxes[k], out_size, scale) for k in members]
        union = (*np.min(wide, axis=0)[:2], *np.max(wide, axis=0)[2:]) if len(wide) > 1 else wide[0]
        if _cost(union, layout) <= sum(_cost(box, layout) for box in wide):
            regions.append((decode_cut(data, layout, union, scale), members))
        else:
            regions += [(decode_cut(data, layout, box, scale), [k]) for k, box in zip(members, wide)]
    return regions


def decoded_bytes(size: tuple[int, int], out_size: tuple[int, int]) -> int:
    """How many bytes :func:`decode_all` keeps at most, for an image of ``size`` (width, height)."""
    return sum(3 * -(-size[0] // scale) * -(-size[1] // scale) for scale in _scales(size, out_size))


def _scales(size: tuple[int, int], out_size: tuple[int, int]) -> list[int]:
    """Scales at which windows of a JPEG of ``size`` (width, height) are decoded."""
    most = jpeg_scale((0.0, 0.0, float(size[0]), float(size[1])), out_size)
    return [scale for scale in (1, 2, 4, 8) if scale <= most]


def _from_decoded(opened: OpenImage, box: Box, out_size: tuple[int, int]) -> Region:
    if 0 in opened.decoded:
        return part_of_pillow(opened.decoded[0], box, out_size)
    scale = jpeg_scale(box, out_size)
    pixels = opened.decoded[scale]
    if opened.layout is None:
        return Region(pixels, 0, 0, scale)
    return part_of_jpeg(pixels, opened.layout, with_support(box, out_size, scale), scale)


def _cost(box: Box, layout: JpegLayout) -> float:
    """Time of a cut region, in units of following one pixel's codes: decoding takes about three times as long."""
    return layout.width * min(box[3], layout.height) + 3 * (box[2] - box[0]) * (box[3] - box[1])


def _is_cmyk(data: bytes) -> bool:
    try:
        return simplejpeg.decode_jpeg_header(data)[2] in ('CMYK', 'YCCK')
    except ValueError as error:
        raise DecodeError(str(error)) from None


def _turned_box(box: Box, orientation: int, width: float, height: float) -> Box:
    """A box of a grid of width x height in the grid that an EXIF orientation makes of it."""
    x1, y1, x2, y2 = box
    if orientation in (2, 3, 7, 8):
        x1, x2 = width - x2, width - x1
    if orientation in (3, 4, 6, 7):
        y1, y2 = height - y2, height - y1
    return (y1, x1, y2, x2) if orientation in _TURNED else (x1, y1, x2, y2)


def _to_stored(box: Box, opened: OpenImage) -> Box:
    back = {6: 8, 8: 6}.get(opened.orientation, opened.orientation)
    return _turned_box(box, back, float(opened.size[0]), float(opened.size[1]))


def _in_region(box: Box, region: Region, orientation: int) -> Box:
    """A box of the stored grid in the turned pixels of a region."""
    x1, y1, x2, y2 = box
    left, top, scale = region.left, region.top, region.scale
    inside = ((x1 - left) / scale, (y1 - top) / scale, (x2 - left) / scale, (y2 - top) / scale)
    height, width = region.pixels.shape[:2]
    return _turned_box(inside, orientation, float(width), float(height))


def _turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    if orientation == 1:
        return pixels
    if orientation in (2, 3, 7, 8):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 6, 7):
        pixels = pixels[::-1]
    if orientation in _TURNED:
        pixels = pixels.transpose(1, 0, 2)
    return np.ascontiguousarray(pixels)


def _broken(path: str, reason: str) -> ImageError:
    return ImageError(
        path,
        reason,
        f'Image {path} does not decode ({reason}): '
        'replace it, or take it out of the annotations and build the crop index anew.',
    )
