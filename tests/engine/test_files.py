"""Writing whole files: a failed or killed write leaves what was there before."""

import errno
import os
import resource
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / 'reliability'))
import small_runs as runs

from mixedae.checkpoints import CheckpointError, read_file
from mixedae.engine.files import explain_write_error, remove_unfinished, write_checkpoint, write_text, write_whole


def checkpoint(value, size=1000):
    return {'state_dict': {'w': torch.full((size,), float(value))}}


def value(path):
    return read_file(path)['state_dict']['w'][0].item()


def test_write_text__replaces(tmp_path):
    write_text(tmp_path / 'a', 'one')
    write_text(tmp_path / 'a', 'two')
    assert (tmp_path / 'a').read_text() == 'two' and [p.name for p in tmp_path.iterdir()] == ['a']


def test_write_checkpoint__is_what_torch_save_writes(tmp_path):
    write_checkpoint(tmp_path / 'a.pth', checkpoint(3))
    assert torch.load(tmp_path / 'a.pth', weights_only=True)['state_dict']['w'].tolist() == [3.0] * 1000


def test_write_checkpoint__file_size_limit(tmp_path):
    """A real failed write of the system (RLIMIT_FSIZE), in the middle of the file."""
    path = tmp_path / 'a.pth'
    write_checkpoint(path, checkpoint(1))

    def too_large():
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        try:
            write_checkpoint(path, checkpoint(2, 100_000))
        except OSError as error:
            assert error.errno == errno.EFBIG
            assert 'larger than this process may write' in explain_write_error(error, path)
            raise SystemExit(7) from None

    assert runs.exit_code(runs.fork(too_large, tmp_path / 'log')) == 7, (tmp_path / 'log').read_text()
    assert value(path) == 1 and sorted(p.name for p in tmp_path.iterdir()) == ['a.pth', 'log']


@pytest.mark.parametrize('code', [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_write_checkpoint__disk_error(tmp_path, monkeypatch, code):
    """The error of the disk comes out as it is, though torch.save stands between."""
    path = tmp_path / 'a.pth'
    write_checkpoint(path, checkpoint(1))
    calls = []

    def failing(recorder, data):
        calls.append(len(bytes(data)))
        if len(calls) > 3:
            recorder.error = OSError(code, os.strerror(code))
            raise recorder.error
        return recorder.file.write(data)

    monkeypatch.setattr('mixedae.engine.files._Recorder.write', failing)
    with pytest.raises(OSError) as caught:
        write_checkpoint(path, checkpoint(2))
    assert caught.value.errno == code and len(calls) > 3
    assert value(path) == 1 and len(list(tmp_path.iterdir())) == 1


def test_write_whole__killed_in_the_middle(tmp_path):
    path = tmp_path / 'a.pth'
    write_checkpoint(path, checkpoint(1))

    def slowly():
        def write(file):
            file.write(b'half')
            file.flush()
            (tmp_path / 'now').write_text('')
            time.sleep(60)

        write_whole(path, write)

    pid = runs.fork(slowly, tmp_path / 'log')
    while not (tmp_path / 'now').exists():
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    assert runs.exit_code(pid) == -signal.SIGKILL
    assert value(path) == 1
    assert remove_unfinished(tmp_path) == ['.a.pth.writing']
    assert sorted(p.name for p in tmp_path.iterdir()) == ['a.pth', 'log', 'now']


@pytest.mark.parametrize('spoil', ['flip', 'cut', 'zeros', 'empty'])
def test_read_file__notices_damage(tmp_path, spoil):
    path = tmp_path / 'a.pth'
    write_checkpoint(path, checkpoint(1))
    content = bytearray(path.read_bytes())
    at = content.index(torch.full((20,), 1.0).numpy().tobytes()) + 40  # among the numbers of the tensor
    if spoil == 'flip':
        content[at] ^= 1
    elif spoil == 'cut':
        del content[at:]
    elif spoil == 'zeros':
        content[at : at + 512] = bytes(512)
    else:
        content.clear()
    path.write_bytes(content)
    if spoil in ('flip', 'zeros'):
        assert torch.load(path, weights_only=True), 'torch.load itself notices nothing'
    with pytest.raises(CheckpointError, match=r'a\.pth'):
        read_file(path)


def test_read_file__digest_beside_it(tmp_path):
    torch.save(checkpoint(1), tmp_path / 'old.pth', _use_new_zipfile_serialization=False)  # carries no checksum
    import hashlib

    digest = hashlib.sha256((tmp_path / 'old.pth').read_bytes()).hexdigest()
    (tmp_path / 'old.pth.sha256').write_text(f'{digest}  old.pth\n')
    assert value(tmp_path / 'old.pth') == 1
    content = bytearray((tmp_path / 'old.pth').read_bytes())
    content[-10] ^= 1
    (tmp_path / 'old.pth').write_bytes(content)
    with pytest.raises(CheckpointError, match=r'its SHA-256 is not the one in old\.pth\.sha256'):
        read_file(tmp_path / 'old.pth')
