"""Columns in one mapped file: what is written is read, by safetensors too, and damage is noticed."""

import json
import mmap

import numpy as np
import pytest

from object_aware.columns_file import Pieces, read_columns, write_columns

COLUMNS = {
    'bytes': np.arange(5, dtype=np.uint8),
    'flags': np.array([True, False, True]),
    'wide': np.arange(12, dtype=np.int64).reshape(3, 4),
    'empty': np.zeros((0, 4), dtype=np.float32),
    'boxes': np.linspace(0, 1, 8, dtype=np.float32).reshape(2, 4),
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / 'new' / 'columns.safetensors'
    write_columns(path, COLUMNS, {'says': 'ü "quoted"'})
    return path


def test_columns_file__round_trip_mapped_and_aligned(file):
    content = read_columns(file)
    assert content.metadata == {'says': 'ü "quoted"'}
    assert content.damaged() == []
    for name, column in COLUMNS.items():
        found = content.columns[name]
        np.testing.assert_array_equal(found, column)
        assert found.dtype == column.dtype and found.shape == column.shape
        assert found.size == 0 or found.__array_interface__['data'][0] % found.dtype.itemsize == 0
        assert not found.flags.writeable or found.size == 0
    base = content.columns['wide']
    while isinstance(base, np.ndarray):
        base = base.base
    assert isinstance(base.obj if isinstance(base, memoryview) else base, mmap.mmap)
    assert [path.name for path in file.parent.iterdir()] == ['columns.safetensors']


def test_columns_file__any_safetensors_reader_opens_it(file):
    safetensors = pytest.importorskip('safetensors')
    with safetensors.safe_open(file, 'numpy') as opened:
        assert set(opened.keys()) == set(COLUMNS)
        assert opened.metadata()['says'] == 'ü "quoted"'
        for name, column in COLUMNS.items():
            np.testing.assert_array_equal(opened.get_tensor(name), column)


def test_columns_file__pieces_make_the_same_bytes(file, tmp_path):
    pieces = {
        name: Pieces(column.dtype, column.shape, [column[k : k + 2] for k in range(0, len(column), 2)])
        for name, column in reversed(COLUMNS.items())
    }
    write_columns(tmp_path / 'pieces', pieces, {'says': 'ü "quoted"'}, sync=False)
    assert (tmp_path / 'pieces').read_bytes() == file.read_bytes()


def test_write_columns__refuses_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match='column a has items of type <U1'):
        write_columns(tmp_path / 'x', {'a': np.array(['b'])}, {})
    short = Pieces(np.dtype('u1'), (5,), [np.zeros(3, np.uint8)])
    with pytest.raises(ValueError, match='pieces of 3 rows in all in a column of 5'):
        write_columns(tmp_path / 'x', {'a': short}, {})
    other = Pieces(np.dtype('u1'), (5,), [np.zeros(5, np.int8)])
    with pytest.raises(ValueError, match='a piece of int8'):
        write_columns(tmp_path / 'x', {'a': other}, {})
    assert list(tmp_path.iterdir()) == []


def test_read_columns__notices_every_cut(file):
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r'no header|inside its header|promises'):
            read_columns(file)
    file.write_bytes(whole + b'x')
    with pytest.raises(ValueError, match='promises'):
        read_columns(file)


def test_damaged__names_the_column(file):
    whole = bytearray(file.read_bytes())
    whole[-1] ^= 1  # columns of single bytes stand last, by name
    file.write_bytes(whole)
    assert read_columns(file).damaged() == ['flags']


def test_read_columns__header_that_lies(file):
    whole = file.read_bytes()
    length = int.from_bytes(whole[:8], 'little')
    header = json.loads(whole[8 : 8 + length])
    for change in (dict(shape=[3, 5]), dict(data_offsets=[-8, 88]), dict(dtype='F128'), dict(shape=None)):
        text = json.dumps({**header, 'wide': {**header['wide'], **change}}).encode()
        file.write_bytes(len(text).to_bytes(8, 'little') + text + whole[8 + length :])
        with pytest.raises(ValueError, match=r'wrong length|cannot be read'):
            read_columns(file)
