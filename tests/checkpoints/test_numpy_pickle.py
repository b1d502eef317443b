"""detectron2's pickles: arrays of every plain type are read, whatever else they ask for is refused and not run."""

import collections
import io
import os
import pickle

import numpy as np
import pytest
import torch

from mixedae.checkpoints import CheckpointError, read_file
from mixedae.checkpoints.numpy_pickle import load_numpy_pickle

TYPES = ['f2', 'f4', 'f8', 'i1', 'i2', 'i4', 'i8', 'u1', 'b1']


def load(content, protocol=2):
    return load_numpy_pickle(io.BytesIO(pickle.dumps(content, protocol=protocol)))


@pytest.mark.parametrize('protocol', range(6))
@pytest.mark.parametrize('kind', TYPES)
def test_arrays__values(protocol, kind, rng):
    array = (rng.random((3, 4, 2)) * 3).astype(kind)
    content = {
        'a': array,
        'fortran': np.asfortranarray(array),
        'part': array[::2, 1],
        'none': array[:0],
        'zero': array[0, 0, 0],
    }
    found = load(content, protocol)
    for name in ('a', 'fortran', 'part', 'none'):
        assert torch.equal(found[name], torch.from_numpy(np.ascontiguousarray(content[name])))
    assert found['zero'] == content['zero'].item()


def test_arrays__zero_dimensions_order_of_bytes_containers():
    content = collections.OrderedDict(
        model={'w': np.array(3.5), 'big': np.arange(3, dtype='>i4')}, note=['x', (1, None)]
    )
    found = load(content)
    assert found['model']['w'].shape == () and found['model']['w'] == 3.5
    assert found['model']['big'].tolist() == [0, 1, 2] and found['note'] == ['x', [1, None]]


class Calls:
    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize('protocol', range(6))
@pytest.mark.parametrize('where', ['value', 'key of an array', 'deep'])
def test_calls__are_refused(tmp_path, protocol, where):
    marker = tmp_path / 'it_ran'
    call = Calls(os.system, f'touch {marker}')
    content = {'value': {'model': call}, 'key of an array': np.array([call]), 'deep': [{'a': ({'b': call},)}]}[where]
    (tmp_path / 'evil.pkl').write_bytes(pickle.dumps(content, protocol=protocol))
    with pytest.raises(CheckpointError, match=r'evil\.pkl (was refused: it asks for|is not a)'):
        read_file(tmp_path / 'evil.pkl')
    assert not marker.exists()


@pytest.mark.parametrize(
    'content',
    [
        np.array(['text']),
        np.array([{}], dtype=object),
        np.zeros(2, dtype='c8'),
        np.zeros(2, dtype=[('a', 'f4')]),
        np.datetime64('2020-01-01'),
        np.memmap,
        Calls(eval, '1'),
        Calls(getattr, {}, 'get'),
        Calls(__import__, 'os'),
    ],
)
def test_other_types__are_refused(content):
    with pytest.raises(pickle.UnpicklingError):
        load({'a': content})


def hand_made(shape, raw, kind=b'f4'):
    """A pickle of one array with this state, whatever numpy thinks of it."""
    state = (
        b'(I1\n' + shape + b'cnumpy\ndtype\n(V' + kind + b'\nI0\nI1\ntR(I3\nV<\nNNNI-1\nI-1\nI0\ntbI00\n' + raw + b'tb.'
    )
    return b'cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntVb\ntR' + state


@pytest.mark.parametrize(
    'shape, raw',
    [
        (b'(I1000000000\nI1000000000\nt', b'Vabcd\n'),
        (b'(I-1\nt', b'Vabcd\n'),
        (b'(I2\nt', b'Vabcd\n'),
        (b'(Vx\nt', b'Vabcd\n'),
        (b'(I1\nt', b'I3\n'),
        (b'I1\n', b'Vabcd\n'),
    ],
)
def test_damaged_states__are_refused(shape, raw):
    found = load_numpy_pickle(io.BytesIO(hand_made(b'(I1\nt', b'Vabcd\n')))
    assert found.tolist() == np.frombuffer(b'abcd', '<f4').tolist(), 'the pattern itself is sound'
    with pytest.raises(pickle.UnpicklingError, match='damaged or is not of plain numbers'):
        load_numpy_pickle(io.BytesIO(hand_made(shape, raw)))


def test_file__cut_anywhere_is_one_sentence(tmp_path):
    whole = pickle.dumps({'model': {f'w{i}': np.arange(20.0) for i in range(3)}})
    for length in range(0, len(whole), 13):
        (tmp_path / 'a.pkl').write_bytes(whole[:length])
        with pytest.raises(CheckpointError) as caught:
            read_file(tmp_path / 'a.pkl')
        assert '\n' not in str(caught.value)


@pytest.mark.parametrize('zipped', [True, False])
def test_file__torch_save_with_this_suffix(tmp_path, zipped):
    torch.save({'model': {'w': torch.ones(2)}}, tmp_path / 'a.pkl', _use_new_zipfile_serialization=zipped)
    assert torch.equal(read_file(tmp_path / 'a.pkl')['model']['w'], torch.ones(2))
