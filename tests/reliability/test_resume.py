"""kill -9 at random points, resume, and the run ends bit for bit as if nothing had been."""

import math
import os
import sys
from functools import partial
from pathlib import Path

import pytest

from mixedae.checkpoints import CheckpointError

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


def test_resume__for_longer_than_the_schedule_of_the_checkpoint(tmp_path):
    """Schedulers go on as the checkpoint has them, so a longer one in the config would be passed over in silence."""

    def make(iters, end):
        cfg = runs.noisy(tmp_path / 'w', iters=iters, every=2, workers=0)
        warmup = dict(type='LinearLR', start_factor=0.5, by_epoch=False, begin=0, end=2)
        cfg.param_scheduler = [warmup, dict(type='CosineAnnealingLR', by_epoch=False, begin=2, end=end)]
        return cfg

    def sentence(iters):
        return (
            rf'iter_{iters}\.pth goes on with the schedule that it was trained by, .* comes down to \S+, 0\.17 % of '
            r'its peak, after 40 iterations, and the run has 90\. Start a new run from its weights, .*'
            rf'`--cfg-options load_from=\S+iter_{iters}\.pth`\.$'
        )

    runs.train(make(6, 40), resume=False)
    runner = runs.train(make(8, 90))
    assert runner.param_schedulers[1].end == 40  # not the config's
    with pytest.raises(CheckpointError, match=sentence(8)):
        runs.train(make(90, 90))
    runner = runs.train(make(40, 40))
    group = runner.optim_wrapper.param_groups[0]
    assert group['lr'] == pytest.approx(group['initial_lr'] * (1 + math.cos(math.pi * 37 / 38)) / 2)  # as foretold
    with pytest.raises(CheckpointError, match=sentence(40)):
        runs.train(make(90, 90))


def test_resume__of_a_schedule_that_always_ended_early(tmp_path):
    """A batch job can always give --resume: a config that could start can go on."""

    def make(iters):
        cfg = runs.noisy(tmp_path / 'w', iters=iters, every=2, workers=0)
        cfg.param_scheduler = [dict(type='CosineAnnealingLR', by_epoch=False, begin=0, end=12)]
        return cfg

    runs.train(make(6), resume=False)
    assert runs.train(make(40)).iter == 40


def test_resume__for_longer_at_a_rate_that_is_not_low(tmp_path):
    """A warm-up that ended, or a decay to a tenth: the run may go on at that rate."""
    for name, schedule in (
        ('warmup', dict(type='LinearLR', start_factor=0.5, by_epoch=False, begin=0, end=2)),
        ('tenth', dict(type='CosineAnnealingLR', by_epoch=False, begin=0, end=4, eta_min_ratio=0.1)),
    ):
        for iters in (4, 10):
            cfg = runs.noisy(tmp_path / name, iters=iters, every=2, workers=0)
            cfg.param_scheduler = [schedule]
            assert runs.train(cfg).iter == iters
