"""Batches that know their place: where the run is in the data, how to go on from there, and randomness per sample.

The place of a batch is (epoch, number in the epoch). A stream of batches can start at any place: the sampler's indices
up to there are dropped, no image is read for them. What a sample draws at random (crops, flips, mosaics of mmdet's and
mmseg's pipelines) is seeded by (seed, rank, epoch, number, position in the batch), so it depends neither on the worker
that loads it nor on how many there are.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from mmengine.dist import get_rank
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from mixedae.engine.random_state import get_random_state, random_state_kept, seed_cpu, set_random_state

PR_SET_PDEATHSIG = 1
"""Of <sys/prctl.h>: the signal that a process gets when its parent dies."""

GRACE = 30.0
"""Seconds that a loader process goes on after a SIGTERM."""

RECENT = 1024
"""Batches whose indices are remembered: more than the workers of a loader are ahead of the training."""


class Batch(list):
    """The indices of one batch, with its ``place`` (epoch, number)."""

    place: tuple[int, int]


class PlacedBatches:
    """The batches of a batch sampler with their places; an iteration leaves out the first ``skip`` of them."""

    def __init__(self, batches: Any) -> None:
        self.batches = batches
        self.epoch = 0
        self.skip = 0
        self.going: _Ahead | None = None
        self.recent: dict[tuple[int, int], list] = {}  # the indices of the last batches, by their places

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        # A loader asks for this twice when it starts its workers; only the last one is gone through.
        self.going = _Ahead(self._placed(self.epoch, self.skip))
        return self.going

    def _placed(self, epoch: int, skip: int) -> Iterator[Batch]:
        for number, indices in enumerate(self.batches):
            if number >= skip:
                batch = Batch(indices)
                batch.place = (epoch, number)
                self.recent[batch.place] = list(batch)
                if len(self.recent) > RECENT:
                    del self.recent[next(iter(self.recent))]
                yield batch


class _Ahead:
    """An iterator that can be begun before its first entry is asked for."""

    def __init__(self, entries: Iterator) -> None:
        self.entries = entries

    def begin(self) -> None:
        first = list(itertools.islice(self.entries, 1))
        self.entries = itertools.chain(first, self.entries)

    def __iter__(self) -> Iterator:
        return self

    def __next__(self) -> Any:
        return next(self.entries)


class SeededFetch:
    """What a loader calls as the dataset's ``__getitems__``: loads the samples of a batch, each with its own seed."""

    def __init__(self, dataset: Any, seed: int, rank: int) -> None:
        self.dataset = dataset
        self.whole = getattr(type(dataset), '__getitems__', None)
        self.seed, self.rank = seed, rank

    def __call__(self, batch: list) -> list:
        place = getattr(batch, 'place', None)
        if place is None:
            return self._load(batch, None)
        if get_worker_info() is not None:
            return self._load(batch, place)
        with random_state_kept():  # in the training process, whose generators belong to the model
            return self._load(batch, place)

    def _load(self, batch: list, place: tuple[int, int] | None) -> list:
        if self.whole is not None:
            self._seed(place, 0)
            return self.whole(self.dataset, list(batch))
        samples = []
        for position, index in enumerate(batch):
            self._seed(place, position)
            samples.append(self.dataset[index])
        return samples

    def _seed(self, place: tuple[int, int] | None, position: int) -> None:
        if place is not None:
            seed_cpu((self.seed, self.rank, *place, position))


class WorkerStart:
    """What a loader process does first: it binds its life to that of the training process, then the loader's own.

    A loader process that has more to hand over than a pipe holds waits for ever when the training process is killed,
    with all its memory. Linux ends it instead. Signals that ask the run to stop often go to all of its processes: the
    training process takes them, and its loader processes must live until it has saved.
    """

    def __init__(self, then: Callable[[int], Any] | None) -> None:
        self.then = then

    def __call__(self, worker: int) -> None:
        with contextlib.suppress(OSError, AttributeError):  # not Linux
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
        signal.signal(signal.SIGTERM, _leave_later)
        if hasattr(signal, 'SIGUSR1'):
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        if self.then is not None:
            self.then(worker)


def _leave_later(number: int, frame: Any) -> None:
    """First SIGTERM of a loader process: it stays for ``GRACE``; a second one ends it at once."""
    signal.signal(number, signal.SIG_DFL)
    timer = threading.Timer(GRACE, os._exit, (0,))
    timer.daemon = True
    timer.start()


def leave_errors_to_the_loader() -> None:
    """Lets a loader process's death be noticed where a batch is asked for, within some seconds, and nowhere else.

    PyTorch's handler of SIGCHLD raises the error wherever the training happens to be, within an optimiser step for
    instance, after which nothing could be saved.
    """
    if not hasattr(signal, 'SIGCHLD') or threading.current_thread() is not threading.main_thread():
        return
    handler = signal.getsignal(signal.SIGCHLD)
    if getattr(handler, '__module__', '') == 'torch.utils.data._utils.signal_handling':
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


@functools.cache
def _placed_class(cls: type) -> type:
    """A loader's class whose iterators take their batches of indices from ``placed``."""
    return type(f'Placed{cls.__name__}', (cls,), {'_index_sampler': property(lambda loader: loader.placed)})


def place_batches(loader: DataLoader, seed: int) -> PlacedBatches | None:
    """Lets a loader's batches know their place and seeds their samples; None where that is not possible.

    Not possible with an ``IterableDataset`` (it has no indices) and without batching.
    """
    if loader.batch_sampler is None or isinstance(loader.dataset, IterableDataset):
        return None
    if not hasattr(loader, 'placed'):
        loader.placed = PlacedBatches(loader.batch_sampler)
        loader.__class__ = _placed_class(type(loader))
    loader.worker_init_fn = WorkerStart(loader.worker_init_fn)
    loader.generator = torch.Generator().manual_seed(seed)  # seeds of workers; not from the model's generator
    loader.dataset.__getitems__ = SeededFetch(loader.dataset, seed, get_rank())
    return loader.placed


class BatchStream:
    """Goes through a loader's batches epoch by epoch, can say where it is, and can start there.

    Args:
        loader: the loader; its class and data set are changed as :func:`place_batches` says.
        seed: of what the samples draw.

    Attributes:
        epoch: epoch of the data.
        number: batches of this epoch that have been handed out.
        waited: seconds that :meth:`next` has taken, all together.
    """

    def __init__(self, loader: DataLoader, seed: int | None) -> None:
        self.loader = loader
        self.placed = place_batches(loader, seed or 0)
        self.epoch = 0
        self.number = 0
        self.waited = 0.0
        self._iterator: Iterator | None = None
        self._order_state: dict | None = None  # the generators before the order of this epoch was drawn

    def start_epoch(self, epoch: int) -> None:
        """Begins an epoch with its first batch; the order is drawn when that is asked for."""
        self.epoch, self.number = epoch, 0
        self._iterator = None
        self._order_state = None
        set_epoch(self.loader, epoch)

    def next(self) -> Any:
        """The next batch of the epoch; StopIteration after the last."""
        asked = time.perf_counter()
        if self._iterator is None:
            self._order_state = get_random_state()
            self._begin(0)
        batch = next(self._iterator)
        self.waited += time.perf_counter() - asked
        self.number += 1
        return batch

    def close(self) -> None:
        """Ends the loader's processes. The end of the program would do so by a SIGTERM, which they outlive."""
        for iterator in (self._iterator, getattr(self.loader, '_iterator', None)):
            shut_down = getattr(iterator, '_shutdown_workers', None)
            if shut_down is not None:
                shut_down()
        self._iterator = self.loader._iterator = None

    def _begin(self, skip: int) -> None:
        if self.placed is not None:
            self.placed.epoch, self.placed.skip = self.epoch, skip
        self._iterator = iter(self.loader)
        leave_errors_to_the_loader()
        if self.placed is not None:
            self.placed.going.begin()  # samplers draw the order when begun: with workers now, without them too
        else:
            for _ in range(skip):
                next(self._iterator, None)

    def last_batch(self) -> dict[str, Any] | None:
        """Place and indices of the batch that was handed out last, from which it can be loaded again."""
        place = (self.epoch, self.number - 1)
        if self.placed is None or place not in self.placed.recent:
            return None
        return dict(place=place, indices=self.placed.recent[place])

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is: ``epoch``, ``number``, and what the order of the epoch was drawn from."""
        return dict(epoch=self.epoch, number=self.number, order=self._order_state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes to a place. The generators are afterwards in the state that the iterator leaves; set them anew."""
        self.start_epoch(state['epoch'])
        if state['order'] is None:
            return
        set_random_state(state['order'])
        self._order_state = state['order']
        self.number = state['number']
        self._begin(self.number)


def load_again(loader: DataLoader, seed: int, rank: int, place: tuple[int, int], indices: list) -> Any:
    """A batch from what :meth:`BatchStream.last_batch` said, whatever the sampler is."""
    batch = Batch(tuple(index) if isinstance(index, list) else index for index in indices)
    batch.place = tuple(place)
    return loader.collate_fn(SeededFetch(loader.dataset, seed, rank)(batch))


def set_epoch(loader: DataLoader, epoch: int) -> None:
    """Tells the sampler the epoch, wherever it sits."""
    for sampler in (loader.sampler, loader.batch_sampler, getattr(loader.batch_sampler, 'sampler', None)):
        if hasattr(sampler, 'set_epoch'):
            sampler.set_epoch(epoch)
            return
