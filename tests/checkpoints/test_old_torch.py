"""What is read and what is refused before PyTorch 2.6: the same as after it."""

import io
import pickle
import tarfile

import pytest
import torch
from torch import nn

from mixedae.checkpoints import CheckpointError, read_file
from tests.checkpoints.test_reading import (  # noqa: F401  (these run here too)
    test_read_file__refuses_code,
    test_read_file__sentences,
    test_read_file__training_checkpoint_of_mmengine,
)


@pytest.fixture(autouse=True)
def old(monkeypatch):
    monkeypatch.setattr(torch, '__version__', '2.1.2')
    monkeypatch.setattr(torch.serialization, 'safe_globals', None, raising=False)  # there is none


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('map_location', ['cpu', 'meta'])
def test_load__tensors_of_all_kinds(tmp_path, zipped, map_location):
    types = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool)
    content = {str(kind): torch.arange(6).to(kind).reshape(2, 3).t() for kind in types}
    content['parameter'] = nn.Parameter(torch.randn(3), requires_grad=False)
    content['shared'] = [content['torch.float32'], content['torch.float32'][1]]
    content['model'] = nn.Linear(2, 3).state_dict()
    content['plain'] = {1: (None, 2.5, b'raw'), 'set': {3}, 'size': torch.Size([1]), 'kind': torch.bfloat16}
    torch.save(content, tmp_path / 'a.pth', _use_new_zipfile_serialization=zipped)
    read = read_file(tmp_path / 'a.pth', map_location)
    assert read['plain'] == content['plain'] and list(read['model']) == ['weight', 'bias']
    assert type(read['parameter']) is nn.Parameter and not read['parameter'].requires_grad
    for kind in types:
        found = read[str(kind)]
        assert found.dtype == kind and found.stride() == (1, 3) and found.device.type == map_location
        assert map_location == 'meta' or torch.equal(found, content[str(kind)])
    if map_location == 'cpu':
        assert read['shared'][0].data_ptr() + 4 == read['shared'][1].data_ptr()


@pytest.mark.parametrize('name', ['torch._utils\n_rebuild_tensor', 'mmengine.logging.history_buffer\nHistoryBuffer'])
def test_load__functions_and_classes_get_no_state(tmp_path, name):
    """Otherwise a file could give new defaults to a function and new methods to a class."""
    state = pickle.PROTO + b'\x02' + b'c' + name.encode() + b'\n(N}X\x01\x00\x00\x00aK\x01stb.'
    head = (torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {'little_endian': True})
    parts = [pickle.dumps(part, protocol=2) for part in head] + [state, pickle.dumps([], protocol=2)]
    (tmp_path / 'a.pth').write_bytes(b''.join(parts))
    with pytest.raises(CheckpointError, match='was refused: it asks for'):
        read_file(tmp_path / 'a.pth')


def test_load__torchscript_is_a_program(tmp_path):
    torch.jit.script(nn.Linear(2, 3)).save(str(tmp_path / 'program.pth'))
    with pytest.raises(CheckpointError, match=r'was refused: it asks for torch\.jit'):
        read_file(tmp_path / 'program.pth', verify=False)  # which refuses it too


def test_load__tar_archive_is_not_unpacked(tmp_path, monkeypatch):
    with tarfile.open(tmp_path / 'old.pth', 'w') as archive:
        for name in ('storages', 'tensors', 'pickle'):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    monkeypatch.setattr(tarfile, 'open', None)
    with pytest.raises(CheckpointError, match='is not a readable PyTorch checkpoint'):
        read_file(tmp_path / 'old.pth')
