"""Hooks that look at the model beside the training: they change no weight and no random number, and never end a run."""

from __future__ import annotations

import contextlib
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook, IterTimerHook
from mmengine.logging import print_log
from mmengine.optim import AmpOptimWrapper
from mmengine.runner import Runner

from mixedae.engine.meter_hook import unwrap
from mixedae.engine.random_state import get_random_state, set_random_state
from mixedae.engine.throughput_hook import ThroughputHook
from mixedae.models.pretrainer import Pretrainer


class SideHook(Hook, ABC):
    """Calls :meth:`look` every so often, on rank 0 alone; the other processes wait for it at their next step.

    The model is in evaluation mode meanwhile, no gradient is kept and every random generator is put back, so a run
    with the hook is bit for bit the run without it. A failure inside :meth:`look` is logged and switches the hook off
    for the rest of the run. The time it takes counts in the time left, not as waiting for data.

    Args:
        interval: epochs (or iterations) between two looks; the last one of the run is added.
        by_epoch: count epochs; False counts iterations, for runs with ``IterBasedTrainLoop``.
        at_start: look before the first step too, at a model that has learned nothing.
    """

    priority = 'LOW'  # after LoggerHook, before CheckpointHook

    def __init__(self, interval: int = 1, by_epoch: bool = True, at_start: bool = True) -> None:
        if interval < 1:
            raise ValueError(f'interval must be at least 1, not {interval}; to switch the hook off, remove it.')
        self.interval = interval
        self.by_epoch = by_epoch
        self.at_start = at_start
        self.on = True
        self.seconds = 0.0

    @abstractmethod
    def look(self, runner: Runner, model: Pretrainer, step: int) -> None:
        """What the hook does; ``step`` is the number of iterations done."""

    def before_train(self, runner: Runner) -> None:
        model = unwrap(runner.model)
        if not isinstance(model, Pretrainer):
            raise ValueError(
                f'{type(self).__name__} looks at pre-training (MixedAE, MAE), but this run trains a '
                f'{type(model).__name__}: remove the hook from custom_hooks.'
            )
        if 'FullySharded' in type(runner.model).__name__:  # ours and MMEngine's
            self._switch_off('one process alone has not the whole model (FullySharded)')
        if self.at_start and runner.iter == 0:
            self._run(runner, 0)

    def after_train_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
        if self.by_epoch:
            return
        if self.every_n_train_iters(runner, self.interval) or self.is_last_train_iter(runner):
            self._run(runner, runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        if self.by_epoch and (self.every_n_epochs(runner, self.interval) or self.is_last_train_epoch(runner)):
            self._run(runner, runner.iter)

    def after_train(self, runner: Runner) -> None:
        if self.seconds:
            runner.logger.info(f'{type(self).__name__} took {self.seconds:.0f} s of the run.')

    def _run(self, runner: Runner, step: int) -> None:
        if not self.on or not is_main_process():
            return
        start = time.perf_counter()
        model = unwrap(runner.model)
        try:
            with left_as_it_is(model), precision_of(runner):
                self.look(runner, model, step)
        except Exception as error:
            self._switch_off(f'{type(error).__name__}: {error}')
        seconds = time.perf_counter() - start
        self.seconds += seconds
        leave_out_of_timer(runner, seconds)

    def _switch_off(self, reason: str) -> None:
        if self.on and is_main_process():
            print_log(
                f'{type(self).__name__} is off for the rest of the run, which goes on without it: {reason}',
                logger='current',
                level=logging.WARNING,
            )
        self.on = False


@contextlib.contextmanager
def left_as_it_is(model: Pretrainer) -> Iterator[None]:
    """Evaluation mode without gradients inside; modes, meters and random generators are afterwards as they were."""
    modes = [(module, module.training) for module in model.modules()]
    measure, meters, step = model.measure, model.meters, model.step
    random = get_random_state()
    model.eval()
    model.measure = False
    try:
        with torch.no_grad():
            yield
    finally:
        set_random_state(random)
        model.measure, model.meters, model.step = measure, meters, step
        for module, mode in modes:
            module.training = mode


def precision_of(runner: Runner) -> contextlib.AbstractContextManager:
    """The mixed precision that the run trains in, if it does."""
    wrapper = runner.optim_wrapper
    if not isinstance(wrapper, AmpOptimWrapper):
        return contextlib.nullcontext()
    device = next(unwrap(runner.model).parameters()).device
    return torch.autocast(device.type, dtype=getattr(wrapper, 'cast_dtype', None))


def leave_out_of_timer(runner: Runner, seconds: float) -> None:
    """MMEngine's timer would call it waiting for data; the time left still knows of it."""
    for hook in runner.hooks:
        if isinstance(hook, ThroughputHook):
            hook.leave_out(seconds)
        elif isinstance(hook, IterTimerHook) and hasattr(hook, 't'):
            hook.t += seconds
            hook.time_sec_tot += seconds
