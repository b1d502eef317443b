"""Walking the Huffman codes of a JPEG scan, and copying those of some MCUs into a scan of their own. Compiled.

Nothing is decoded to pixels here: the codes are only followed, which is several times faster. All reads and writes stay
inside the arrays whatever the bytes are.
"""

from __future__ import annotations

import numpy as np

from .compiling import entry, jit, readonly, types

LOOK_BITS = 12
"""Codes that end within so many bits are found by one look-up, several at once."""

DONE, ENDED, BAD_CODE, BAD_RESTART, FULL = 0, 1, 2, 3, 4
"""How a walk went: well; the data ended; a code that is none or leads out of its block; a restart marker is missing;
no room for the result."""

# The DC codes of the copy: 12 sizes, the table of the standard for luminance (annex K.3).
_DC_LENGTHS = np.array([2, 3, 3, 3, 3, 3, 4, 5, 6, 7, 8, 9], dtype=np.int64)
_DC_CODES = np.array([0, 2, 3, 4, 5, 6, 14, 30, 62, 126, 254, 510], dtype=np.int64)
DC_TABLE = bytes([0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, *range(12)])


_TABLES = types.Tuple((types.boolean, types.int32[:, ::1], types.int64[:, ::1], types.int64[:, ::1]))(
    readonly(types.uint8, 2), readonly(types.uint8, 2), readonly(types.boolean)
)


@entry(_TABLES)
def look_up_tables(counts, symbols, is_ac):
    """Tables for walking.

    Args:
        counts: (T, 16) uint8 codes of each length.
        symbols: (T, 256) uint8 what they stand for.
        is_ac: (T,) bool.

    Returns:
        whether all are Huffman tables;
        look (T, 2 ** LOOK_BITS) int32: for DC, bits of code and value << 16 | bits of the value. For AC the symbols
        that stand in these bits, one or more of a block: bits << 16 | steps before the last symbol << 8 | steps. Steps
        are the coefficients that are passed, 128 more for the end of the block. 0 where the first code is longer;
        limits (T, 17) int64: one more than the largest code of each length, moved up to 16 bits;
        offsets (T, 17) int64: what leads from a code of each length to its symbol's place.
    """
    tables = len(counts)
    size = 1 << LOOK_BITS
    look = np.zeros((tables, size), dtype=np.int32)
    limits = np.zeros((tables, 17), dtype=np.int64)
    offsets = np.zeros((tables, 17), dtype=np.int64)
    lengths = np.zeros(size, dtype=np.uint8)
    single = np.zeros(size, dtype=np.int32)
    for t in range(tables):
        code, place = 0, 0
        lengths[:] = 0
        single[:] = 0
        for length in range(1, 17):
            offsets[t, length] = place - code
            for _ in range(counts[t, length - 1]):
                symbol = np.int64(symbols[t, place])
                if code >= 1 << length or (not is_ac[t] and symbol > 11):
                    return False, look, limits, offsets
                if length <= LOOK_BITS:
                    value_bits, run = symbol & 15, symbol >> 4
                    if not is_ac[t]:
                        steps = symbol
                    elif value_bits:
                        steps = run + 1
                    else:
                        steps = 16 if run == 15 else 128
                    first = code << (LOOK_BITS - length)
                    last = first + (1 << (LOOK_BITS - length))
                    single[first:last] = ((length + value_bits) << 16) | steps
                    lengths[first:last] = length
                code += 1
                place += 1
            limits[t, length] = code << (16 - length)
            code <<= 1
        for k in range(size):
            found = np.int64(single[k])
            if not is_ac[t] or found == 0:
                look[t, k] = found
                continue
            bits, before, steps = found >> 16, 0, found & 255
            while steps < 64 and bits < LOOK_BITS:
                rest = (k << bits) & (size - 1)
                found = np.int64(single[rest])
                if found == 0 or lengths[rest] > LOOK_BITS - bits:
                    break
                if steps + (found & 127) > 64:
                    break
                bits, before, steps = bits + (found >> 16), steps, steps + (found & 255)
            look[t, k] = (bits << 16) | (before << 8) | steps
    return True, look, limits, offsets


@jit
def _refill(data, end, pos, acc, bits, padding):
    """At least 32 bits into the accumulator; behind the data, zeros that are counted as padding."""
    if pos + 4 <= end:
        at = np.uint64(pos)  # unsigned: no check for counting from the end, so this becomes one load
        word = (
            (np.int64(data[at]) << 24)
            | (np.int64(data[at + np.uint64(1)]) << 16)
            | (np.int64(data[at + np.uint64(2)]) << 8)
            | np.int64(data[at + np.uint64(3)])
        )
        if ((~word - 0x01010101) & word & 0x80808080) == 0:  # no byte is 0xFF
            return pos + 4, (acc << 32) | word, bits + 32, padding
    while bits < 32:
        if pos < end and data[pos] != 255:
            acc = (acc << 8) | np.int64(data[pos])
            pos += 1
        elif pos + 1 < end and data[pos + 1] == 0:
            acc = (acc << 8) | 255
            pos += 2
        else:  # a marker, or the end
            acc <<= 8
            padding += 8
        bits += 8
    return pos, acc, bits, padding


@jit
def _long_code(limits, offsets, symbols, top):
    """(length, symbol) of the code at the front of 16 bits; length 0 if there is none."""
    for length in range(1, 17):
        if top < limits[length]:
            place = (top >> (16 - length)) + offsets[length]
            if place < 0 or place > 255:
                return 0, 0
            return length, np.int64(symbols[place])
    return 0, 0


@jit
def _flush(out, at, out_acc, out_bits):
    """Write whole bytes of the accumulator, with a zero after each 0xFF."""
    while out_bits >= 8:
        out_bits -= 8
        byte = (out_acc >> out_bits) & 255
        out[at] = byte
        at += 1
        if byte == 255:
            out[at] = 0
            at += 1
    return at, out_bits


_WALK = types.Tuple((types.int64, types.int64, types.int64))(
    readonly(types.uint8), types.int64, types.int64, types.int64,
    readonly(types.int32, 2), readonly(types.int64, 2), readonly(types.int64, 2), readonly(types.uint8, 2),
    readonly(types.int64), readonly(types.int64), readonly(types.int64),
    types.int64, types.int64, types.int64, types.int64, types.uint8[::1],
)  # fmt: skip


@entry(_WALK)
def walk(
    data, start, columns, restart, look, limits, offsets, symbols, dc_rows, ac_rows, component,
    left, right, top, bottom, out,
):  # fmt: skip
    """Follow a scan down to an MCU row and copy a rectangle of MCUs.

    Args:
        data: (n,) uint8 the file.
        start: where the scan starts.
        columns: MCUs in a row.
        restart: MCUs between restart markers, 0 for none.
        look, limits, offsets, symbols, dc_rows, ac_rows, component: what :func:`look_up_tables` gave, and its symbols.
        left, right, top, bottom: the rectangle, in MCUs; the walk ends with it. With ``left == right`` nothing is
            copied.
        out: uint8 that takes the coded rectangle, with the DC codes of ``DC_TABLE`` and without restart markers.

    Returns:
        (how it went, bytes written, without copying, bytes from the end of the walk to the next marker).
    """
    end = len(data)
    capacity = len(out) - 64
    pos, acc, bits, padding = start, np.int64(0), np.int64(0), np.int64(0)
    at, out_acc, out_bits = 0, np.int64(0), np.int64(0)
    predicted = np.zeros(4, dtype=np.int64)
    written = np.zeros(4, dtype=np.int64)
    to_restart = restart
    number = 0
    mask = (1 << LOOK_BITS) - 1
    for row in range(bottom):
        inside_row = row >= top
        stop = right if row == bottom - 1 and right > left else columns
        for column in range(stop):
            if restart > 0:
                if to_restart == 0:
                    if padding > bits:
                        return ENDED, at, pos
                    while pos + 1 < end and data[pos] == 255 and data[pos + 1] == 255:
                        pos += 1
                    if bits - padding >= 8 or pos + 1 >= end or data[pos] != 255 or data[pos + 1] != 0xD0 + number:
                        return BAD_RESTART, at, pos
                    pos += 2
                    number = (number + 1) & 7
                    acc, bits, padding = np.int64(0), np.int64(0), np.int64(0)
                    predicted[:] = 0
                    to_restart = restart
                to_restart -= 1
            copy = inside_row and left <= column < right
            for block in range(len(component)):
                which = component[block]
                table = dc_rows[block]
                if bits < 32:
                    pos, acc, bits, padding = _refill(data, end, pos, acc, bits, padding)
                found = np.int64(look[np.uint64(table), np.uint64((acc >> (bits - LOOK_BITS)) & mask)])
                if found != 0:
                    used, size = found >> 16, found & 255
                else:
                    length, size = _long_code(
                        limits[table], offsets[table], symbols[table], (acc >> (bits - 16)) & 65535
                    )
                    if length == 0 or size > 11:
                        return (ENDED if padding > bits - 16 else BAD_CODE), at, pos
                    used = length + size
                bits -= used
                if size:
                    value = (acc >> bits) & ((1 << size) - 1)
                    if value < (1 << (size - 1)):
                        value -= (1 << size) - 1
                    predicted[which] += value
                if copy:
                    difference = predicted[which] - written[which]
                    written[which] = predicted[which]
                    magnitude = difference if difference >= 0 else -difference
                    size = 0
                    while magnitude:
                        magnitude >>= 1
                        size += 1
                    if size > 11:
                        return BAD_CODE, at, pos
                    if at > capacity:
                        return FULL, at, pos
                    if difference < 0:
                        difference += (1 << size) - 1
                    out_acc = (((out_acc << _DC_LENGTHS[size]) | _DC_CODES[size]) << size) | difference
                    out_bits += _DC_LENGTHS[size] + size
                    at, out_bits = _flush(out, at, out_acc, out_bits)
                table = ac_rows[block]
                passed = np.int64(1)
                while passed < 64:
                    if bits < 32:
                        pos, acc, bits, padding = _refill(data, end, pos, acc, bits, padding)
                    found = np.int64(look[np.uint64(table), np.uint64((acc >> (bits - LOOK_BITS)) & mask)])
                    if found != 0 and passed + ((found >> 8) & 255) < 64:
                        used, steps = found >> 16, found & 255
                    else:  # one symbol
                        length, symbol = _long_code(
                            limits[table], offsets[table], symbols[table], (acc >> (bits - 16)) & 65535
                        )
                        if length == 0:
                            return (ENDED if padding > bits - 16 else BAD_CODE), at, pos
                        used = length + (symbol & 15)
                        steps = (symbol >> 4) + 1
                        if symbol & 15 == 0 and steps != 16:
                            steps = 128
                    passed += steps
                    bits -= used
                    if copy:
                        out_acc = (out_acc << used) | ((acc >> bits) & ((1 << used) - 1))
                        out_bits += used
                        if out_bits >= 32:
                            if at > capacity:
                                return FULL, at, pos
                            at, out_bits = _flush(out, at, out_acc, out_bits)
                if 64 < passed < 128:
                    return (ENDED if padding > bits else BAD_CODE), at, pos
                if padding > bits:
                    return ENDED, at, pos
    if out_bits or at:
        if at > capacity:
            return FULL, at, pos
        at, out_bits = _flush(out, at, out_acc, out_bits)
        if out_bits:  # the last byte is filled up with ones
            out_acc = (out_acc << (8 - out_bits)) | ((1 << (8 - out_bits)) - 1)
            at, out_bits = _flush(out, at, out_acc, np.int64(8))
    if right > left:
        return DONE, at, np.int64(0)
    rest = (bits - padding) >> 3
    while pos < end and (data[pos] != 255 or (pos + 1 < end and data[pos + 1] == 0)):
        pos += 1 if data[pos] != 255 else 2
        rest += 1
    return DONE, at, rest
