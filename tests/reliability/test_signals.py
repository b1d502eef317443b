"""SIGTERM and SIGUSR1: save, end with exit code 75, and go on as if nothing had been."""

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import small_runs as runs

from mixedae.checkpoints import read_file
from mixedae.engine.resume import newest_valid
from mixedae.engine.signals import EXIT_CODE


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    return runs.write_pictures(tmp_path_factory.mktemp('pictures'))


def output(folder, rank=0):
    return (folder / f'output_{rank}.txt').read_text()


def test_signal__saves_and_goes_on_exactly(tmp_path):
    """By epochs: stopped twice in the middle of one, by either signal; the extra file goes when it is not needed."""
    make = partial(runs.noisy, iters=3, every=1, by_epoch=True)
    runs.finish(make, tmp_path / 'whole')
    folder = tmp_path / 'stopped'
    for number, at in ((signal.SIGTERM, 3), (signal.SIGUSR1, 9)):
        pids, pace = runs.start(make, folder, hold=at)
        assert runs.wait_until(pace, at, pids)
        os.killpg(pids[0], number)  # its loader processes too, as batch systems do
        runs.release(folder)
        assert runs.exit_code(pids[0]) == EXIT_CODE == 75, output(folder)[-3000:]
        found = newest_valid(folder)
        assert found.path.name.startswith('iter_') and found.checkpoint['meta']['iter'] >= at
        assert 'is saved; --resume goes on from it' in output(folder)
    runs.finish(make, folder)
    runs.same_run(tmp_path / 'whole', folder, 'epoch_3.pth')
    assert sorted(path.name for path in folder.glob('*.pth') if 'best' not in path.name) == [
        'epoch_2.pth',
        'epoch_3.pth',
    ]


def weights_alone(folder):
    cfg = runs.noisy(folder, iters=6, every=2, workers=0)
    cfg.default_hooks.checkpoint.save_optimizer = False
    return cfg


def test_signal__checkpoints_at_intervals_hold_weights_alone(tmp_path):
    """The one at a signal holds all that the run needs to go on, also where an interval ends with it."""
    runs.finish(weights_alone, tmp_path / 'whole')
    folder = tmp_path / 'stopped'
    for at in (1, 4):
        pids, pace = runs.start(weights_alone, folder, hold=at)
        assert runs.wait_until(pace, at, pids)
        os.kill(pids[0], signal.SIGTERM)
        runs.release(folder)
        assert runs.exit_code(pids[0]) == EXIT_CODE, output(folder)[-3000:]
        assert 'optimizer' in newest_valid(folder).checkpoint
    runs.finish(weights_alone, folder)
    one, other = (read_file(place / 'iter_6.pth') for place in (tmp_path / 'whole', folder))
    assert 'optimizer' not in one and 'optimizer' not in other
    assert all(torch.equal(value, other['state_dict'][name]) for name, value in one['state_dict'].items())


def held_write(folder, name):
    """A run that waits for its release inside the writing of one checkpoint."""
    from mixedae.engine import runner

    write = runner.write_checkpoint

    def held(path, checkpoint):
        if Path(path).name == name:
            (folder / 'writing').write_text('')
            runs.held(folder)
        write(path, checkpoint)

    runner.write_checkpoint = held
    return runs.noisy(folder, iters=50, every=2, workers=0)


def wait_for(path):
    end = time.monotonic() + 300
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_signal__in_the_middle_of_a_save(tmp_path):
    """The save is finished, no second one of the same iteration is made."""
    pids, _ = runs.start(partial(held_write, name='iter_2.pth'), tmp_path)
    wait_for(tmp_path / 'writing')
    os.kill(pids[0], signal.SIGTERM)
    runs.release(tmp_path)
    assert runs.exit_code(pids[0]) == EXIT_CODE
    assert newest_valid(tmp_path).path.name == 'iter_2.pth' and not list(tmp_path.glob('.*'))


def test_signal__second_one_ends_at_once(tmp_path):
    pids, _ = runs.start(partial(held_write, name='iter_4.pth'), tmp_path)
    wait_for(tmp_path / 'writing')
    while not os.waitid(os.P_PID, pids[0], os.WEXITED | os.WNOHANG | os.WNOWAIT):  # two at once count as one
        os.kill(pids[0], signal.SIGTERM)
        time.sleep(0.1)
    assert runs.exit_code(pids[0]) == 128 + signal.SIGTERM
    assert newest_valid(tmp_path).path.name == 'iter_2.pth', 'the one before is whole'


def test_signal__during_validation(tmp_path):
    """It is left, the training state from before it is saved, and it is done again after resuming."""

    def held_validation(folder):
        real = runs.Mean.process

        def process(self, *args):
            (folder / 'validating').write_text('')
            runs.held(folder)
            real(self, *args)

        runs.Mean.process = process
        return runs.noisy(folder, iters=8, every=100, workers=0)

    make = partial(runs.noisy, iters=8, every=100, workers=0)
    runs.finish(make, tmp_path / 'whole')
    pids, _ = runs.start(held_validation, tmp_path / 'stopped')
    wait_for(tmp_path / 'stopped' / 'validating')
    os.kill(pids[0], signal.SIGTERM)
    runs.release(tmp_path / 'stopped')
    assert runs.exit_code(pids[0]) == EXIT_CODE, output(tmp_path / 'stopped')
    assert newest_valid(tmp_path / 'stopped').checkpoint['meta']['iter'] == 6
    runs.finish(make, tmp_path / 'stopped')
    runs.same_run(tmp_path / 'whole', tmp_path / 'stopped', 'iter_8.pth')


@pytest.mark.slow
def test_two_processes__signal_to_one_and_death_of_one(pictures, tmp_path):
    """One process gets the signal, both save and end. Then one is killed: the other ends with an error, and resumes."""
    make = partial(runs.pretraining, pictures=pictures, iters=12, every=2, workers=0, batch=4)
    pids, pace = runs.start(make, tmp_path, world=2, hold=3)
    assert runs.wait_until(pace, 3, pids)
    os.kill(pids[1], signal.SIGUSR1)
    runs.release(tmp_path)
    assert [runs.exit_code(pid) for pid in pids] == [EXIT_CODE] * 2, output(tmp_path)[-3000:]
    stopped = newest_valid(tmp_path).checkpoint
    assert stopped['meta']['iter'] >= 4 and len(stopped['run_state']['ranks']) == 2

    at = stopped['meta']['iter'] + 2
    pids, pace = runs.start(make, tmp_path, world=2, hold=at)
    assert runs.wait_until(pace, at, pids)
    os.kill(pids[1], signal.SIGKILL)
    assert runs.exit_code(pids[1]) == -signal.SIGKILL
    runs.release(tmp_path)
    assert runs.exit_code(pids[0]) == 1
    assert 'Another process of this run is gone' in output(tmp_path) or 'onnection' in output(tmp_path)
    after = newest_valid(tmp_path).checkpoint['meta']['iter']
    assert after >= stopped['meta']['iter']
    runs.finish(make, tmp_path, world=2)
    assert newest_valid(tmp_path).checkpoint['meta']['iter'] == 12
