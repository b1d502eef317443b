"""The header of a JPEG: what has to be known to walk its coded pixels without decoding them.

Only the usual kind is described (:func:`read_layout` returns None for the others): 8 bits, sequential Huffman coding,
one or three components in one interleaved scan. That is what cameras and almost all data sets hold.
"""

from __future__ import annotations

from typing import NamedTuple

_START_OF_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_ALONE = {0x01, *range(0xD0, 0xD8)}  # markers without a length
_MAX_BLOCKS = 10  # blocks in one MCU, by the standard


class JpegLayout(NamedTuple):
    """What the header says.

    Attributes:
        width, height: pixels of the stored grid.
        components: (identifier, horizontal and vertical sampling) of each component.
        mcu: (width, height) in pixels of the units that are coded one after another.
        frame: (start, end) of the whole frame header segment in the file.
        tables: bytes of the quantisation tables and of the JFIF and Adobe segments, as they stand in the file.
        scan_header: bytes of the scan header segment.
        scan: where the coded pixels start.
        restart: MCUs between restart markers, 0 for none.
        huffman: (class << 4 | number, bytes of the 16 counts and the symbols) of each Huffman table.
        coding: for each component, (DC table, AC table) as its numbers.
        has_exif: whether there is an Exif segment.
    """

    width: int
    height: int
    components: tuple[tuple[int, int, int], ...]
    mcu: tuple[int, int]
    frame: tuple[int, int]
    tables: bytes
    scan_header: bytes
    scan: int
    restart: int
    huffman: tuple[tuple[int, bytes], ...]
    coding: tuple[tuple[int, int], ...]
    has_exif: bool


def read_layout(data: bytes) -> JpegLayout | None:
    """The layout of a JPEG file; None if it is no JPEG, is damaged, or of a kind that is not walked."""
    if data[:2] != b'\xff\xd8':
        return None
    position, end = 2, len(data)
    tables, huffman, restart, frame, has_exif = bytearray(), {}, 0, None, False
    width = height = 0
    components: tuple[tuple[int, int, int], ...] = ()
    while position + 4 <= end:
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker in _ALONE:
            position += 2
            continue
        stop = position + 2 + int.from_bytes(data[position + 2 : position + 4], 'big')
        if stop > end or stop < position + 4:
            return None
        body = data[position + 4 : stop]
        if marker in (0xDB, 0xE0, 0xEE):
            tables += data[position:stop]
        elif marker == 0xC4:
            if not _read_huffman(body, huffman):
                return None
        elif marker == 0xDD:
            if len(body) != 2:
                return None
            restart = int.from_bytes(body, 'big')
        elif marker == 0xE1:
            has_exif = has_exif or body[:4] == b'Exif'
        elif marker in _START_OF_FRAME:
            if marker > 0xC1 or frame is not None or len(body) < 6 or body[0] != 8:
                return None
            height, width = int.from_bytes(body[1:3], 'big'), int.from_bytes(body[3:5], 'big')
            if body[5] not in (1, 3) or len(body) != 6 + 3 * body[5] or not width or not height:
                return None
            components = tuple((body[k], body[k + 1] >> 4, body[k + 1] & 15) for k in range(6, len(body), 3))
            frame = (position, stop)
        elif marker == 0xDA:
            coding = _read_scan(body, components, huffman)
            if frame is None or coding is None:
                return None
            if len(components) == 1:
                mcu = (8, 8)
            else:
                mcu = (8 * max(h for _, h, _ in components), 8 * max(v for _, _, v in components))
            return JpegLayout(
                width, height, components, mcu, frame, bytes(tables), data[position:stop], stop, restart,
                tuple(sorted(huffman.items())), coding, has_exif,
            )  # fmt: skip
        elif marker in (0xD8, 0xD9, 0xDC):
            return None
        position = stop
    return None


def _read_huffman(body: bytes, tables: dict[int, bytes]) -> bool:
    position = 0
    while position < len(body):
        count = sum(body[position + 1 : position + 17])
        stop = position + 17 + count
        if stop > len(body) or count > 256 or body[position] & 0xEC:
            return False
        tables[body[position]] = body[position + 1 : stop]
        position = stop
    return True


def _read_scan(
    body: bytes, components: tuple[tuple[int, int, int], ...], huffman: dict[int, bytes]
) -> tuple[tuple[int, int], ...] | None:
    count = len(components)
    if not count or len(body) != 4 + 2 * count or body[0] != count or body[-3:] != b'\x00\x3f\x00':
        return None
    coding = []
    blocks = 0
    for k, (identifier, across, down) in enumerate(components):
        dc, ac = body[2 + 2 * k] >> 4, body[2 + 2 * k] & 15
        if body[1 + 2 * k] != identifier or dc not in huffman or (ac | 0x10) not in huffman:
            return None
        if not 1 <= across <= 4 or not 1 <= down <= 4:
            return None
        blocks += across * down
        coding.append((dc, ac))
    if len({identifier for identifier, _, _ in components}) != count or (count > 1 and blocks > _MAX_BLOCKS):
        return None
    return tuple(coding)
