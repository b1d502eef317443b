"""SIGTERM and SIGUSR1 (what batch systems send before they take a machine away): save, and end with a known code."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from mmengine.dist import get_world_size
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner

from mixedae.engine.checkpoint_hook import save_now
from mixedae.registry import HOOKS

EXIT_CODE = 75
"""Exit code of a run that was asked to stop, has saved, and can be resumed (EX_TEMPFAIL of sysexits.h: try again)."""


class Stopped(SystemExit):
    """Ends the process with ``EXIT_CODE``; the checkpoint is written."""

    def __init__(self) -> None:
        super().__init__(EXIT_CODE)


@HOOKS.register_module()
class StopHook(Hook):
    """On a signal: finish the iteration, save a checkpoint, end with exit code 75. A second signal ends at once.

    With several processes it is enough that one of them gets the signal: they agree after every iteration, over a
    process group of their own on the CPU, so that no GPU is waited for. A signal that comes while a checkpoint is being
    written lets it be finished. During validation one process alone stops at the next batch (the validation is done
    again after resuming); several processes stop when it is over.

    Args:
        signals: names of the signals.
    """

    priority = 'LOWEST'  # after everything that belongs to the iteration, checkpoints included

    def __init__(self, signals: Sequence[str] = ('SIGTERM', 'SIGUSR1')) -> None:
        unknown = [name for name in signals if not hasattr(signal, name)]
        if unknown:
            raise ValueError(f'reliability.stop.signals names {unknown[0]}, which is no signal of this system.')
        self.signals = [getattr(signal, name) for name in signals]
        self.received: int | None = None
        self._before: dict[int, Any] = {}
        self._group: Any = None

    def before_train(self, runner: Runner) -> None:
        self.received = None
        if get_world_size() > 1:
            self._group = dist.new_group(backend='gloo')
        if threading.current_thread() is threading.main_thread():
            for number in self.signals:
                self._before[number] = signal.signal(number, self._receive)

    def _receive(self, number: int, frame: Any) -> None:
        if self.received is not None:
            os._exit(128 + number)
        self.received = number
        os.write(2, f'{signal.Signals(number).name}: saving after this iteration; once more to end at once.\n'.encode())

    def _agreed(self) -> bool:
        """Has any process got a signal?"""
        if self._group is None:
            return self.received is not None
        flag = torch.tensor(int(self.received is not None))
        dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._group)
        return bool(flag)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        if self._agreed():
            self._stop(runner, runner.iter + 1)

    def before_validation(self, runner: Runner) -> None:
        """Called by our loops: the iteration is counted already."""
        if self._agreed():
            self._stop(runner, runner.iter)

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence | None = None
    ) -> None:
        if self._group is not None or self.received is None or getattr(runner, '_train_loop', None) is None:
            return
        if isinstance(runner._train_loop, dict):  # validation alone: there is nothing to save
            return
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):  # gives the model its own weights back, which validation had swapped
                hook.after_val_epoch(runner)
        self._stop(runner, runner.iter)

    def _stop(self, runner: Runner, finished_iters: int) -> None:
        path = save_now(runner, finished_iters)
        if path is not None:
            runner.logger.warning(
                f'Stopped by a signal after iteration {finished_iters}. {path} is saved; --resume goes on from it.'
            )
        runner.visualizer.close()
        self._restore()
        raise Stopped

    def after_train(self, runner: Runner) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
