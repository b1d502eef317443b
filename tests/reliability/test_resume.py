"""kill -9 at random points, resume, and the run ends bit for bit as if nothing had been."""

import os
import sys
from functools import partial
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import small_runs as runs

KILLS = int(os.environ.get('MIXEDAE_KILLS', 0))
"""Kills for each run; 0: the few of the tests."""


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    return runs.write_pictures(tmp_path_factory.mktemp('pictures'))


def length(iters):
    """Iterations of a run: longer where it is killed more often."""
    return max(iters, 3 * KILLS)


def killed_and_whole(make, folder, name, *, world=1, kills, last, seed=0):
    runs.finish(make, folder / 'whole', world)
    killed = runs.kill_often(make, folder / 'killed', world=world, kills=KILLS or kills, last=last, seed=seed)
    print(f'killed at iterations {killed}')
    runs.same_run(folder / 'whole', folder / 'killed', name)


def test_resume__pretraining(pictures, tmp_path):
    """MixedAE by iterations, epochs of 3 batches, 2 worker processes, EMA, meters."""
    last = length(11)
    make = partial(runs.pretraining, pictures=pictures, iters=last, every=2)
    killed_and_whole(make, tmp_path, f'iter_{last}.pth', kills=3, last=last)


@pytest.mark.slow
def test_resume__pretraining_in_two_processes(pictures, tmp_path):
    epochs = length(9) // 3
    make = partial(runs.pretraining, pictures=pictures, iters=epochs, every=1, by_epoch=True, workers=1, batch=4)
    killed_and_whole(make, tmp_path, f'epoch_{epochs}.pth', world=2, kills=2, last=3 * epochs)


@pytest.mark.parametrize('sampler', ['DefaultSampler', 'InfiniteSampler'])
def test_resume__random_everything(tmp_path, sampler):
    """Dropout, batch norm, augmentation from global generators, accumulation cut in two, EMA, validation, best."""
    last = length(22)
    make = partial(runs.noisy, iters=last, every=4, sampler=sampler)
    killed_and_whole(make, tmp_path, f'iter_{last}.pth', kills=3, last=last, seed=1)
