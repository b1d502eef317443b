"""From the bytes of an image file to the pixels of a region, at full or reduced scale.

Three ways, the first that the file allows:

1. **cut**: the Huffman codes of a sequential JPEG are followed, without decoding, down to the last row of the region,
   and those of the region become a small JPEG (:func:`cut_jpeg`), which libjpeg-turbo decodes. Its pixels are exactly
   those of the whole image.
2. **whole JPEG**: libjpeg-turbo decodes all of it (progressive files and other rare kinds).
3. **Pillow**: all other formats, and CMYK.

In 1 and 2 libjpeg-turbo may average blocks of 2x2, 4x4 or 8x8 pixels as it decodes, in 3 Pillow does so afterwards.
Damaged data are refused: in 1 those down to the region's last row, in 2 and 3 all that the decoder notices.
"""

from __future__ import annotations

import io
import math
import struct
import warnings
import zlib
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

from .jpeg_layout import JpegLayout

MAX_WHOLE_PIXELS = 1 << 26
"""Images that cannot be cut are decoded up to this many pixels (67 million, 256 MiB)."""

MAX_SCANS = 200
"""Progressive JPEGs with more scans are refused: decoding takes time in proportion to pixels times scans."""

_PILLOW_ERRORS = (OSError, SyntaxError, ValueError, struct.error, OverflowError, Image.DecompressionBombError)
Box = tuple[float, float, float, float]


class DecodeError(ValueError):
    """The bytes are no sound image, or one that is not read. The message is a reason, not a sentence."""


class Region(NamedTuple):
    """Decoded pixels.

    Attributes:
        pixels: (h, w, 3) uint8 RGB, contiguous.
        left, top: stored pixel that they begin with.
        scale: stored pixels per pixel along each side.
    """

    pixels: np.ndarray
    left: int
    top: int
    scale: int


def jpeg_scale(window: Box, out_size: tuple[int, int], gap: float = 1.5) -> int:
    """1, 2, 4 or 8: the most at which the window still has ``gap`` times the pixels of the crop along each side.

    Args:
        window: xyxy in stored pixels.
        out_size: (height, width) of the crop.
        gap: with 1.5 crops of photographs differ from those of a whole decoding by 42.9 dB PSNR or more, 50 in the
            median; with 1 by 35 or more, 43 in the median (tools/benchmark.py data).
    """
    height, width = out_size
    wanted = min((window[2] - window[0]) / width, (window[3] - window[1]) / height) / gap
    return 8 if wanted >= 8 else 4 if wanted >= 4 else 2 if wanted >= 2 else 1


def with_support(window: Box, out_size: tuple[int, int], scale: int) -> Box:
    """The window with all pixels around it that bicubic resizing to the crop looks at."""
    height, width = out_size
    x = 2 * max(scale, (window[2] - window[0]) / width) + scale
    y = 2 * max(scale, (window[3] - window[1]) / height) + scale
    return window[0] - x, window[1] - y, window[2] + x, window[3] + y


def decode_cut(data: bytes, layout: JpegLayout, box: Box, scale: int = 1) -> Region:
    """A box of a sequential JPEG; pixels outside the box but in the region are not to be relied on."""
    cut, left, top = cut_jpeg(data, layout, box, scale)
    return Region(_decode_jpeg(cut, scale), left, top, scale)


def decode_whole_jpeg(data: bytes, scale: int = 1) -> Region:
    """All of a JPEG file of any kind but CMYK."""
    return Region(_decode_jpeg(data, scale), 0, 0, scale)


def _decode_jpeg(data: bytes, scale: int) -> np.ndarray:
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        if height * width > MAX_WHOLE_PIXELS * scale * scale:
            raise DecodeError(_too_large(width, height))
        if scale == 1:
            return simplejpeg.decode_jpeg(data, 'RGB')
        size = -(-height // scale), -(-width // scale)
        pixels = simplejpeg.decode_jpeg(data, 'RGB', min_height=size[0], min_width=size[1], min_factor=scale)
        if pixels.shape[:2] != size:
            raise DecodeError(f'it was not decoded at 1/{scale} of its size')
        return pixels
    except DecodeError:
        raise
    except (ValueError, MemoryError) as error:
        raise DecodeError(str(error)) from None


def check_kind(data: bytes, size: tuple[int, int]) -> None:
    """Refuse what would take too much memory or time to decode whole, and damage that decoders overlook.

    Args:
        data: an image file that is decoded whole.
        size: (width, height) by its header.
    """
    if size[0] * size[1] > MAX_WHOLE_PIXELS:
        raise DecodeError(_too_large(*size))
    if data[:2] == b'\xff\xd8' and data.count(b'\xff\xda') > MAX_SCANS:
        raise DecodeError(f'more than {MAX_SCANS} scans')
    if data[:8] == b'\x89PNG\r\n\x1a\n':
        check_png(data)


def _too_large(width: int, height: int) -> str:
    return f'{width}x{height} are more pixels than the {MAX_WHOLE_PIXELS} that are decoded at once'


def check_png(data: bytes) -> None:
    """Compare the checksums of all chunks of a PNG file; Pillow passes over those of the pixels."""
    position = 8
    while position + 12 <= len(data):
        length, kind = struct.unpack('>I4s', data[position : position + 8])
        stop = position + 12 + length
        if stop > len(data):
            break
        if zlib.crc32(memoryview(data)[position + 4 : stop - 4]) != int.from_bytes(data[stop - 4 : stop], 'big'):
            raise DecodeError('wrong checksum')
        if kind == b'IEND':
            return
        position = stop
    raise DecodeError('its data end too early')


def open_pillow(data: bytes) -> Image.Image:
    """Pillow's image of a file, not decoded yet."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # about large images, which check_kind refuses, and odd metadata
            return Image.open(io.BytesIO(data))
    except _PILLOW_ERRORS as error:
        raise DecodeError(_reason(error)) from None


def decode_pillow(data: bytes, window: Box, out_size: tuple[int, int]) -> Region:
    """What a crop looks at, of any file that Pillow reads, decoded whole.

    Args:
        data: an image file.
        window: xyxy in stored pixels.
        out_size: (height, width) of the crop. Down to twice of it, blocks are averaged.
    """
    if data[:2] == b'\xff\xd8':  # CMYK: Pillow decodes it but overlooks damage
        try:
            simplejpeg.decode_jpeg(data, 'CMYK', min_height=1, min_width=1, min_factor=8)
        except (ValueError, MemoryError) as error:
            raise DecodeError(str(error)) from None
    try:
        with open_pillow(data) as image, warnings.catch_warnings():
            warnings.simplefilter('ignore')
            image.load()
            scale, left, top, right, bottom = _pillow_part(window, out_size, image.size)
            part = image.crop((left, top, right, bottom)) if (right - left, bottom - top) != image.size else image
            part = to_rgb(part)
            if scale > 1:
                part = part.reduce(scale)
            return Region(np.ascontiguousarray(np.asarray(part)), left, top, scale)
    except DecodeError:
        raise
    except (*_PILLOW_ERRORS, MemoryError) as error:
        raise DecodeError(_reason(error)) from None


def _pillow_part(window: Box, out_size: tuple[int, int], size: tuple[int, int]) -> tuple[int, int, int, int, int]:
    """(scale, left, top, right, bottom) of what a crop looks at in an image of ``size`` (width, height)."""
    ratio = min((window[2] - window[0]) / out_size[1], (window[3] - window[1]) / out_size[0])
    scale = max(int(ratio / 2), 1)
    x1, y1, x2, y2 = with_support(window, out_size, scale)
    return scale, max(int(x1), 0), max(int(y1), 0), min(math.ceil(x2), size[0]), min(math.ceil(y2), size[1])


def part_of_pillow(pixels: np.ndarray, window: Box, out_size: tuple[int, int]) -> Region:
    """What :func:`decode_pillow` gives, from all pixels (h, w, 3) of the image."""
    scale, left, top, right, bottom = _pillow_part(window, out_size, (pixels.shape[1], pixels.shape[0]))
    part = np.ascontiguousarray(pixels[top:bottom, left:right])
    return Region(np.asarray(Image.fromarray(part).reduce(scale)) if scale > 1 else part, left, top, scale)


def part_of_jpeg(pixels: np.ndarray, layout: JpegLayout, box: Box, scale: int) -> Region:
    """What :func:`decode_cut` gives, from all pixels of the JPEG at that scale."""
    (left, top, right, bottom), (across, down) = _mcus(layout, box, scale), layout.mcu
    rows = slice(top * down // scale, -(-min(bottom * down, layout.height) // scale))
    columns = slice(left * across // scale, -(-min(right * across, layout.width) // scale))
    return Region(np.ascontiguousarray(pixels[rows, columns]), left * across, top * down, scale)


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


def _reason(error: Exception) -> str:
    # Pillow repeats the path or an object's address.
    return str(error).split(' <')[0].split(" '")[0] or type(error).__name__


class _Coding(NamedTuple):
    look: np.ndarray
    limits: np.ndarray
    offsets: np.ndarray
    symbols: np.ndarray
    dc: np.ndarray
    ac: np.ndarray
    component: np.ndarray


@lru_cache(maxsize=8)  # most files of a data set hold the same tables
def _coding(
    huffman: tuple[tuple[int, bytes], ...],
    coding: tuple[tuple[int, int], ...],
    components: tuple[tuple[int, int, int], ...],
) -> _Coding:
    """What ``walk`` needs to follow the codes: tables, and for each block of an MCU which of them and its component."""
    from .jpeg_kernels import look_up_tables  # compiled: only when it is needed

    counts = np.array([list(table[:16]) for _, table in huffman], dtype=np.uint8)
    symbols = np.zeros((len(huffman), 256), dtype=np.uint8)
    for k, (_, table) in enumerate(huffman):
        symbols[k, : len(table) - 16] = np.frombuffer(table, dtype=np.uint8, offset=16)
    good, look, limits, offsets = look_up_tables(counts, symbols, np.array([number >= 0x10 for number, _ in huffman]))
    if not good:
        raise DecodeError('bad Huffman table')
    rows = {number: k for k, (number, _) in enumerate(huffman)}
    several = len(components) > 1
    blocks = [k for k, (_, across, down) in enumerate(components) for _ in range(across * down if several else 1)]
    dc, ac = ([rows[coding[k][which] | 16 * which] for k in blocks] for which in (0, 1))
    return _Coding(look, limits, offsets, symbols, *(np.array(part, dtype=np.int64) for part in (dc, ac, blocks)))


def cut_jpeg(
    data: bytes, layout: JpegLayout, box: tuple[float, float, float, float], scale: int = 1
) -> tuple[bytes, int, int]:
    """A JPEG that holds the pixels of a box, and the pixels around it that its chroma is interpolated from.

    Args:
        data: a JPEG file.
        layout: its layout.
        box: xyxy in stored pixels.
        scale: at which the result will be decoded.

    Returns:
        (JPEG file, left, top): the result begins at this stored pixel and ends at the box or behind it.

    Raises:
        DecodeError: the coded pixels down to the box's end are damaged.
    """
    from .jpeg_kernels import DC_TABLE, DONE, FULL, walk  # compiled: only when it is needed

    tables = _coding(layout.huffman, layout.coding, layout.components)
    across, down = layout.mcu
    columns = -(-layout.width // across)
    left, top, right, bottom = _mcus(layout, box, scale)
    source = np.frombuffer(data, dtype=np.uint8)
    blocks = (right - left) * (bottom - top) * len(tables.component)
    room = min(2 * (len(data) - layout.scan), 440 * blocks) + 8 * blocks + 128
    out = np.empty(room, dtype=np.uint8)
    status, written, _ = walk(source, layout.scan, columns, layout.restart, *tables, left, right, top, bottom, out)
    if status != DONE:
        raise DecodeError('internal: no room' if status == FULL else _STATUS[status])
    width = min(right * across, layout.width) - left * across
    height = min(bottom * down, layout.height) - top * down
    frame = bytearray(data[slice(*layout.frame)])
    frame[5:9] = height.to_bytes(2, 'big') + width.to_bytes(2, 'big')
    huffman = bytearray(b'\x00' + DC_TABLE)
    for number, table in layout.huffman:
        if number >= 0x10:
            huffman += bytes([number]) + table
    scan_header = bytearray(layout.scan_header)
    for k in range(6, 6 + 2 * len(layout.components), 2):
        scan_header[k] &= 15  # all components take DC table 0
    pieces = (
        b'\xff\xd8', layout.tables, frame, b'\xff\xc4', (len(huffman) + 2).to_bytes(2, 'big'), huffman, scan_header,
        out[:written].data, b'\xff\xd9',
    )  # fmt: skip
    return b''.join(pieces), left * across, top * down


def _mcus(layout: JpegLayout, box: Box, scale: int) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a box in MCUs, with those that its chroma is interpolated from."""
    across, down = layout.mcu
    columns, rows = -(-layout.width // across), -(-layout.height // down)
    margin_x, margin_y = scale * across // 8, scale * down // 8  # one pixel of chroma
    left = min(max(int(box[0] - margin_x) // across, 0), columns - 1)
    top = min(max(int(box[1] - margin_y) // down, 0), rows - 1)
    right = min(max(math.ceil((box[2] + margin_x) / across), left + 1), columns)
    bottom = min(max(math.ceil((box[3] + margin_y) / down), top + 1), rows)
    return left, top, right, bottom


_STATUS = {1: 'its data end too early', 2: 'damaged Huffman codes', 3: 'a restart marker is missing'}


def check_jpeg(data: bytes, layout: JpegLayout) -> None:
    """Follow all Huffman codes of a JPEG file, several times faster than decoding it.

    Raises:
        DecodeError: they are damaged, end too early, or more are there than the pixels need.
    """
    from .jpeg_kernels import DONE, walk

    tables = _coding(layout.huffman, layout.coding, layout.components)
    columns, rows = -(-layout.width // layout.mcu[0]), -(-layout.height // layout.mcu[1])
    source, out = np.frombuffer(data, dtype=np.uint8), np.empty(128, dtype=np.uint8)
    status, _, rest = walk(source, layout.scan, columns, layout.restart, *tables, 0, 0, 0, rows, out)
    if status != DONE:
        raise DecodeError(_STATUS[status])
    if rest:
        raise DecodeError(f'damaged Huffman codes: {rest} bytes are left over')
