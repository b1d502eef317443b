"""Batches that know their place: order, seeds of samples, going to a place; and the state of the random generators."""

import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from torch.utils.data import DataLoader, Dataset, RandomSampler

sys.path.insert(0, str(Path(__file__).parents[1] / 'reliability'))
import small_runs as runs

from mixedae.engine.batches import BatchStream, load_again
from mixedae.engine.files import write_text
from mixedae.engine.loops import Unbegun
from mixedae.engine.random_state import get_random_state, random_state_kept, seed_cpu, set_random_state


class Numbers(Dataset):
    """(index, what the three global generators give)"""

    def __init__(self, length=10):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        noise = [random.random(), np.random.rand(), torch.rand(()).item()]  # noqa: NPY002
        return torch.tensor([float(index), *noise], dtype=torch.float64)


def stream(workers=0, seed=3, sampler=None, batch=4, **options):
    data = Numbers()
    sampler = sampler(data) if sampler else DefaultSampler(data, shuffle=True, seed=1)
    return BatchStream(DataLoader(data, batch, sampler=sampler, num_workers=workers, **options), seed)


def take(batches, count, epoch=0):
    """The next batches; a new epoch begins when one ends."""
    found = []
    while len(found) < count:
        try:
            found.append(batches.next())
        except StopIteration:
            epoch += 1
            batches.start_epoch(epoch)
    return found


def equal(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b))


def draws():
    return random.random(), np.random.rand(), torch.rand(()).item()  # noqa: NPY002


def test_random_state__comes_back():
    state = get_random_state()
    random.gauss(0, 1), np.random.standard_normal()  # noqa: NPY002
    middle = get_random_state()
    first = draws()
    set_random_state(middle)
    assert draws() == first
    with random_state_kept():
        seed_cpu((1, 2))
        inside = draws()
    set_random_state(state)
    with random_state_kept():
        seed_cpu((1, 2))
        assert draws() == inside
        seed_cpu((2, 1))
        assert draws() != inside
    after = draws()
    set_random_state(state)
    assert draws() == after


def test_stream__samples_depend_on_their_place_alone():
    """Not on the worker, nor on how many there are, nor on the global generators, which are left alone."""
    before = get_random_state()
    expected = draws()
    set_random_state(before)
    plain = take(stream(), 6)
    assert draws() == expected
    workers = take(stream(workers=2, persistent_workers=True), 6)
    assert equal(plain, workers)
    assert not equal(plain, take(stream(seed=4), 6))
    noise = torch.cat(plain)[:, 1:].flatten()
    assert len(noise.unique()) == len(noise), 'no two samples draw the same, also in the next epoch'


@pytest.mark.parametrize('sampler', [None, RandomSampler, lambda data: InfiniteSampler(data, seed=2)])
@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize('at', [1, 3, 4])
def test_stream__goes_to_a_place(sampler, workers, at):
    """In the epoch of 3 batches, at its end, in the next one; also where the order comes from a global generator."""
    torch.manual_seed(0)
    first = stream(sampler=sampler)
    take(first, at)
    state, generators = first.state_dict(), get_random_state()
    rest = take(first, 4, first.epoch)
    torch.manual_seed(99)
    again = stream(workers, sampler=sampler)
    again.load_state_dict(state)
    set_random_state(generators)
    assert equal(rest, take(again, 4, again.epoch))
    assert (first.epoch, first.number) == (again.epoch, again.number)


def test_unbegun__leaves_the_order_alone():
    """``InfiniteSampler`` goes on where it was left, also by an iteration that nobody finished."""
    expected = take(stream(sampler=lambda data: InfiniteSampler(data, seed=2)), 2)
    data = Numbers()
    loader = DataLoader(data, 4, sampler=InfiniteSampler(data, seed=2))
    unbegun = Unbegun(loader)
    assert list(unbegun) == [] and len(unbegun) == len(loader) and unbegun.dataset is data
    assert equal(expected, take(BatchStream(loader, 3), 2))


class Large(Numbers):
    """Samples that no pipe holds."""

    def __getitem__(self, index):
        return b'x' * 1_000_000


def test_stream__loader_processes_end_with_the_training(tmp_path):
    def train():
        batches = BatchStream(DataLoader(Large(), 2, num_workers=2, collate_fn=list), 0)
        batches.next()
        pids = [worker.pid for worker in batches._iterator._workers]
        write_text(tmp_path / 'pids', ' '.join(map(str, pids)))
        time.sleep(600)

    pid = runs.fork(train, tmp_path / 'log')
    end = time.monotonic() + 300
    while not (tmp_path / 'pids').exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    workers = [int(worker) for worker in (tmp_path / 'pids').read_text().split()]
    assert len(workers) == 2 and all(Path(f'/proc/{worker}').exists() for worker in workers)
    os.kill(pid, signal.SIGKILL)
    runs.exit_code(pid)
    end = time.monotonic() + 300
    while any(alive(worker) for worker in workers):
        assert time.monotonic() < end, 'loader processes go on without the training'
        time.sleep(0.01)


def alive(pid):
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] not in 'ZX'
    except OSError:
        return False


def test_stream__last_batch_can_be_loaded_again():
    batches = stream(workers=2)
    wanted = take(batches, 5)[-1]
    assert batches.last_batch()['place'] == (1, 1)
    again = load_again(DataLoader(Numbers(), 4), 3, 0, **batches.last_batch())
    assert torch.equal(wanted, again)


def test_stream__dataset_that_loads_whole_batches():
    class Whole(Numbers):
        def __getitems__(self, indices):
            return [torch.tensor([float(index), torch.rand(()).item()]) for index in indices]

    first = BatchStream(DataLoader(Whole(), 5), 0)
    batch = first.next()
    assert batch[:, 0].tolist() == [0, 1, 2, 3, 4] and len(batch[:, 1].unique()) == 5
    assert torch.equal(batch, BatchStream(DataLoader(Whole(), 5, num_workers=1), 0).next())
