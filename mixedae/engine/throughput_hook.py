"""Says in the log how fast a run learns, and whether the data or the model bounds it."""

from __future__ import annotations

import datetime
import logging
import os
import time
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size, is_main_process
from mmengine.hooks import Hook, LoggerHook
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mixedae.registry import HOOKS
from object_aware.parallel import usable_cores


@HOOKS.register_module()
class ThroughputHook(Hook):
    """Images per second and the share of the time in which the model waits for the loader.

    Both join the training log as ``images_per_s`` (of all processes together) and ``data_share`` (of the process that
    waits longest), and the time left goes to every visualisation backend as ``seconds_left``. Once it is known, and
    when it changes, one sentence says whether data or model bounds the run and what to do. Times of the training
    process are taken, and of nothing else: no step waits for the device because of it. Validation does not count.

    It needs a loop of ours (``mixedae.ExactEpochLoop`` or ``mixedae.ExactIterLoop``, which ``mixedae.SafeRunner``
    takes), since MMEngine's ``data_time`` holds the saving of checkpoints and all hooks, too.

    Args:
        interval: iterations between two lines; None takes that of LoggerHook.
        warm_up: first iterations, which are left out: they start loader processes and compile.
        bound: share of waiting from which on a run is called data bound. Below two thirds of it, it is called model
            bound again.

    Raises:
        TypeError: the training loop is not one of ours.
    """

    priority = 'NORMAL'  # before LoggerHook, so that the figures stand in the line of their own iteration

    def __init__(self, interval: int | None = None, warm_up: int = 5, bound: float = 0.15) -> None:
        self.interval = interval
        self.warm_up = warm_up
        self.bound = bound
        self.verdict: str | None = None
        self._iterations = 0  # in this process
        self._begun = 0.0  # time at which the window began, moved on by pauses
        self._steps = self._images = 0  # in this window
        self._waited = 0.0  # by the stream, when the window began
        self._pause = 0.0

    def before_train(self, runner: Runner) -> None:
        self._stream = getattr(runner.train_loop, 'stream', None)
        if self._stream is None:
            raise TypeError(
                f'ThroughputHook cannot see how long {type(runner.train_loop).__name__} waits for its loader: set '
                "runner_type = 'mixedae.SafeRunner', or take the hook out (default_hooks.throughput=None)."
            )
        if self.interval is None:
            self.interval = next((hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)), 50)
        self._begin()

    def leave_out(self, seconds: float) -> None:
        """Time just spent beside the training (probes, pictures) does not count."""
        self._begun += seconds

    def before_val(self, runner: Runner) -> None:
        self._pause = time.perf_counter()

    def after_val(self, runner: Runner) -> None:
        self._begun += time.perf_counter() - self._pause

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        self._iterations += 1
        if self._iterations > self.warm_up:
            self._steps += 1
            self._images += len(data_batch['inputs'])
            if self.every_n_train_iters(runner, self.interval):
                self._report(runner)
        if not self._steps:
            self._begin()

    def _begin(self) -> None:
        self._begun, self._waited = time.perf_counter(), self._stream.waited

    def _report(self, runner: Runner) -> None:
        seconds = time.perf_counter() - self._begun
        share = (self._stream.waited - self._waited) / seconds
        pace = self._images / seconds
        if get_world_size() > 1:
            total, longest = torch.tensor(pace), torch.tensor(share)
            all_reduce(total, 'sum')
            all_reduce(longest, 'max')
            pace, share = total.item(), longest.item()
        left = seconds / self._steps * (runner.max_iters - runner.iter - 1)
        runner.message_hub.update_scalar('train/images_per_s', pace)
        runner.message_hub.update_scalar('train/data_share', share)
        if is_main_process():
            runner.visualizer.add_scalars(dict(seconds_left=left), step=runner.iter + 1, file_path=None)
        self._judge(runner, pace, share, left)
        self._steps = self._images = 0

    def _judge(self, runner: Runner, pace: float, share: float, left: float) -> None:
        verdict = 'data' if share >= (self.bound * 2 / 3 if self.verdict == 'data' else self.bound) else 'model'
        if verdict == self.verdict:
            return
        before, self.verdict = self.verdict, verdict
        kind = f'{verdict.capitalize()} bound' if before is None else f'Now {verdict} bound, no longer {before} bound'
        sentence = (
            f'{kind}: the model waits {share:.0%} of the time for the loader, {pace:,.0f} images/s, '
            f'{datetime.timedelta(seconds=round(left))} left'
        )
        if verdict == 'data':
            possible = pace / max(1 - share, 0.01)
            sentence += f'. Without waiting it would be {possible:,.0f} images/s: {advice(runner.train_dataloader)}'
        print_log(sentence + '.', logger='current', level=logging.WARNING if verdict == 'data' else logging.INFO)


def advice(loader: DataLoader) -> str:
    """What could make a loader faster on this machine."""
    cores = usable_cores()
    processes = int(os.environ.get('LOCAL_WORLD_SIZE', '1'))  # of this run on this machine; torchrun says it
    options = []
    if (loader.num_workers + 1) * processes < cores:
        options.append(
            f'raise train_dataloader.num_workers (now {loader.num_workers} for each of {processes} training processes, '
            f'on {cores} cores)'
        )
    if getattr(loader.dataset, 'cache', 0) is None:
        options.append('keep decoded scenes in memory if they fit (train_dataloader.dataset.cache_gib)')
    return ' or '.join(options) or f'the {cores} cores do all they can, take more or store smaller images'
