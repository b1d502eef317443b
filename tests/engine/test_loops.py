"""The loops when loader or data set fail: what was learned is saved, and the run goes on exactly when it is mended."""

import errno
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, RUNNERS

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'reliability'))
import small_runs as runs

from mixedae.checkpoints import read_file
from mixedae.engine.failures import explain_stop


@DATASETS.register_module(force=True)
class FailingDataset(runs.NoisyDataset):
    """One sample cannot be had as long as ``error`` is set."""

    error = None

    def __getitem__(self, index):
        if index == 7 and FailingDataset.error is not None:
            raise FailingDataset.error
        return super().__getitem__(index)


@pytest.fixture
def failing(monkeypatch):
    return partial(monkeypatch.setattr, FailingDataset, 'error')


def config(folder, workers=0, **options) -> Config:
    cfg = runs.noisy(folder, iters=16, workers=workers, **options)
    cfg.train_dataloader.dataset.type = 'FailingDataset'
    return cfg


@pytest.fixture(scope='module')
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp('unbroken')
    runs.finish(config, folder, resume=False)
    return folder


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize(
    'error', [ValueError('no such value'), KeyError('name'), FileNotFoundError(errno.ENOENT, 'gone', 'a.jpg')], ids=repr
)
def test_next__error_of_the_data_set(tmp_path, unbroken, failing, error, workers):
    """It comes out in its own type; the newest checkpoint is of the iteration before, the run goes on from there."""
    failing(error)
    runner = RUNNERS.build(config(tmp_path, workers))
    with pytest.raises(type(error)) as raised:
        runner.train()
    last = tmp_path / f'iter_{runner.iter}.pth'
    assert runner.iter > 0 and runner.iter % 4 and last.is_file()
    assert read_file(last)['run_state']['ranks'][0]['stream']['number'] == runner.train_loop.stream.number
    assert Path((tmp_path / 'last_checkpoint').read_text()) == last

    sentence = explain_stop(raised.value, runner)
    if isinstance(error, OSError):
        assert sentence.startswith(f'The training data could not be read at iteration {runner.iter + 1}: ')
        assert "gone: 'a.jpg'. The newest checkpoint is" in sentence and f'{last}; --resume goes on' in sentence
    else:
        assert sentence is None, 'it keeps its traceback'

    failing(None)
    runs.finish(partial(config, workers=workers), tmp_path)
    runs.same_run(unbroken, tmp_path, 'iter_16.pth')


def test_next__error_of_the_data_set_and_a_full_disk(tmp_path, failing, monkeypatch, capfd):
    """What the data set says is not hidden by what the disk says."""
    failing(ValueError('no such value'))
    runner = RUNNERS.build(config(tmp_path, every=100))

    def full(*args, **options):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(runner, '_write', full)
    runner.val_loop  # noqa: B018  (built now)
    with pytest.raises(ValueError, match='no such value'):
        runner.train()
    assert f'iter_{runner.iter}.pth could not be written' in ''.join(capfd.readouterr())


def test_explain_stop__files_that_the_run_writes():
    """An OSError that the loader did not raise is about writing."""
    hub = SimpleNamespace(runtime_info={})
    runner = SimpleNamespace(message_hub=hub, world_size=1, iter=3, work_dir='w', _train_loop=SimpleNamespace())
    sentence = explain_stop(OSError(errno.ENOSPC, 'full', 'w/log'), runner)
    assert sentence == 'w/log could not be written: the disk is full: free some space.'
