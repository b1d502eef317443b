"""Byte strings as two arrays."""

import numpy as np
import pytest

from object_aware.byte_strings import ByteStrings

WORDS = [b'', b'abc', 'ü c.jpg'.encode(), b'', b'\0x\0', b'z' * 300]


def test_byte_strings__are_a_sequence_of_bytes():
    strings = ByteStrings.of(WORDS)
    assert len(strings) == 6
    assert list(strings) == WORDS
    assert [strings[k] for k in range(6)] == WORDS
    assert strings[-1] == WORDS[-1] and strings[np.int64(1)] == b'abc'
    np.testing.assert_array_equal(strings.lengths, [0, 3, 8, 0, 3, 300])
    with pytest.raises(IndexError, match='row 6 is outside'):
        strings[6]


def test_byte_strings__take_slice_and_join():
    strings = ByteStrings.of(WORDS)
    rows = np.array([5, 1, 1, 0])
    assert list(strings.take(rows)) == [WORDS[k] for k in rows]
    assert list(strings[np.array([False, True, False, False, True, False])]) == [WORDS[1], WORDS[4]]
    assert list(strings[1:3]) == WORDS[1:3]
    assert list(strings.between(2, 6)) == WORDS[2:]
    joined = ByteStrings.concatenate([strings, ByteStrings.empty(2), strings.between(1, 2)])
    assert list(joined) == [*WORDS, b'', b'', b'abc']
    assert list(strings.take(np.array([], dtype=int))) == []


def test_byte_strings__random_take_as_with_a_list(rng):
    words = [rng.bytes(int(n)) for n in rng.integers(0, 40, 500)]
    rows = rng.integers(0, 500, 2000)
    assert list(ByteStrings.of(words).take(rows)) == [words[k] for k in rows]


def test_byte_strings__empty_takes_no_memory():
    empty = ByteStrings.empty(10_000_000)
    assert empty.offsets.strides == (0,) and len(empty) == 10_000_000
    assert empty[9_999_999] == b''
    assert list(ByteStrings.of(np.array([b'a', b'bc']))) == [b'a', b'bc']  # from an array of 'S2'
