"""Loops over bytes (compiled): strings are gathered, JSON is followed from bracket to bracket."""

from __future__ import annotations

from .compiling import entry, readonly, types

# What the scanner of JSON remembers between blocks; the places in its state.
DEPTH, IN_STRING, ESCAPED, VALUE, KEYS, CUTS, LAST_CUT, CLOSED, WRONG = range(9)
NOT_AN_OBJECT, AFTER_THE_END = 1, 2  # in WRONG
_ANY_VALUE, _LIST, _OTHER = 1, 2, 3  # in VALUE: after the colon, inside a list, inside an object


@entry(
    types.void(
        readonly(types.int64), readonly(types.uint8), readonly(types.int64), readonly(types.int64), types.uint8[::1]
    )
)
def gather(offsets, data, rows, new_offsets, out):
    """Copy ``data[offsets[r]:offsets[r + 1]]`` of each row r to its new place."""
    for k in range(len(rows)):
        start, to = offsets[rows[k]], new_offsets[k]
        for byte in range(new_offsets[k + 1] - to):
            out[to + byte] = data[start + byte]


@entry(
    types.void(
        readonly(types.uint8), types.int64, types.int64, types.int64[::1], types.int64[:, ::1], types.int64[:, ::1]
    )
)
def scan(data, base, piece_bytes, state, spans, cuts):
    """Follow one more block of a JSON file that starts at byte ``base``.

    ``spans`` takes (after the colon, at the comma) of each value of the outermost object, ``cuts`` the commas at which
    lists among them are cut, as (number of the value, position).
    """
    depth, in_string, escaped, value = state[DEPTH], state[IN_STRING], state[ESCAPED], state[VALUE]
    keys, cut, last, closed, wrong = state[KEYS], state[CUTS], state[LAST_CUT], state[CLOSED], state[WRONG]
    for k in range(len(data)):
        byte = data[k]
        if in_string:
            if escaped:
                escaped = 0
            elif byte == 92:  # backslash
                escaped = 1
            elif byte == 34:
                in_string = 0
            continue
        if byte == 34:  # quote
            in_string = 1
            if depth == 0:
                wrong = AFTER_THE_END if closed else NOT_AN_OBJECT
                break
        elif byte == 44:  # comma
            if depth == 1:
                if value:
                    spans[keys, 1] = base + k
                    keys += 1
                    value = 0
                    if keys >= len(spans):
                        break
            elif depth == 2 and value == _LIST and base + k - last >= piece_bytes:
                cuts[cut, 0], cuts[cut, 1] = keys, base + k
                cut += 1
                last = base + k
            elif depth == 0:
                wrong = AFTER_THE_END if closed else NOT_AN_OBJECT
                break
        elif byte == 123 or byte == 91:  # { [
            if depth == 0 and (closed or byte == 91):
                wrong = AFTER_THE_END if closed else NOT_AN_OBJECT
                break
            if depth == 1 and value == _ANY_VALUE:
                value = _LIST if byte == 91 else _OTHER
                last = base + k
            depth += 1
        elif byte == 125 or byte == 93:  # } ]
            depth -= 1
            if depth == 0:
                closed = 1
                if value:
                    spans[keys, 1] = base + k
                    keys += 1
                    value = 0
            elif depth < 0:
                wrong = AFTER_THE_END if closed else NOT_AN_OBJECT
                break
        elif byte == 58 and depth == 1 and value == 0:  # colon
            spans[keys, 0] = base + k + 1
            value = _ANY_VALUE
        elif depth == 0 and not (byte == 32 or byte == 9 or byte == 10 or byte == 13):
            wrong = AFTER_THE_END if closed else NOT_AN_OBJECT
            break
    state[DEPTH], state[IN_STRING], state[ESCAPED], state[VALUE] = depth, in_string, escaped, value
    state[KEYS], state[CUTS], state[LAST_CUT], state[CLOSED], state[WRONG] = keys, cut, last, closed, wrong
