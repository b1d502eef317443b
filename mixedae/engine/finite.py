"""Steps whose loss or gradient is not finite are left out; after too many in a row the run stops, to be looked into."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from mixedae.engine.capture import write_capture
from mixedae.engine.random_state import get_random_state
from mixedae.engine.sharding import part
from mixedae.registry import HOOKS, OPTIM_WRAPPERS


class NotFinite(RuntimeError):
    """Too many steps in a row were not finite; the text is one sentence for the user."""


def all_finite(tensors: Iterable[Tensor], device: torch.device | str = 'cpu') -> Tensor:
    """Is every number finite? One bool tensor on the device of the tensors; nothing is waited for.

    Without tensors the answer is yes, on ``device``. On the CPU the sum of each tensor is looked at, which is the
    fastest there; numbers so large that it overflows (a mean of 1e32 over a million) count as not finite.
    """
    tensors = [tensor._values() if tensor.is_sparse else tensor for tensor in tensors]
    device = tensors[0].device if tensors else device
    tensors = [tensor for tensor in tensors if tensor.numel()]
    if not tensors:
        return torch.ones((), dtype=torch.bool, device=device)
    if tensors[0].device.type == 'cpu':
        return torch.stack([tensor.sum().isfinite() for tensor in tensors]).all()
    largest = torch._foreach_norm(tensors, float('inf'))  # a few kernels for all of them
    return torch.stack([value.to(tensors[0].device, torch.float32) for value in largest]).isfinite().all()


class Guard:
    """Mixed into MMEngine's optimiser wrappers: a step that is not finite changes nothing.

    Neither weights nor optimiser state are changed by such a step, bit for bit; the buffers of the model (running
    statistics) take nothing from a batch whose loss is not finite. With several processes they agree, with gradient
    accumulation the whole accumulated step is left out. The decision is one number that is brought from the device for
    each step; gradient clipping of MMEngine brings one of its own at the same place.

    Attributes:
        skipped: steps left out since the start of the process.
        in_a_row: of those, the last ones without a good step between.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.skipped = 0
        self.in_a_row = 0
        self._bad_loss: Tensor | None = None
        self._buffers: list[Tensor] = []
        self._saved: list[Tensor] = []

    def initialize_count_status(self, model: nn.Module, init_counts: int, max_counts: int) -> None:
        super().initialize_count_status(model, init_counts, max_counts)
        self._buffers = list(model.buffers())
        self._saved = [buffer.clone() for buffer in self._buffers]

    def update_params(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        bad = ~loss.detach().isfinite().all()
        self._bad_loss = bad if self._bad_loss is None else self._bad_loss | bad
        super().update_params(loss, *args, **kwargs)
        for buffer, saved in zip(self._buffers, self._saved):  # on the device, without waiting for `bad`
            saved.copy_(torch.where(bad.to(saved.device), saved, buffer))
            buffer.copy_(saved)

    def step(self, **kwargs: Any) -> None:
        bad_loss, self._bad_loss = self._bad_loss, None
        if not self._is_bad(bad_loss):
            OptimWrapper.step(self, **kwargs)  # clipping and the optimiser
            self.in_a_row = 0
        elif self._counts(bad_loss):
            self.skipped += 1
            self.in_a_row += 1

    def _is_bad(self, bad_loss: Tensor | None) -> bool:
        """Is this step to be left out? The one look at the device.

        Args:
            bad_loss: one bool, on the device: is any of the step's losses not finite; None without a loss.
        """
        bad = ~all_finite(self._gradients(), self.optimizer.param_groups[0]['params'][0].device)
        return agreed(bad if bad_loss is None else bad | bad_loss.to(bad.device))

    def _counts(self, bad_loss: Tensor | None) -> bool:
        """Is a step that was left out one of the bad ones? Arguments as in :meth:`_is_bad`."""
        return True

    def _gradients(self) -> list[Tensor]:
        groups = self.optimizer.param_groups
        return [part(p.grad) for group in groups for p in group['params'] if p.grad is not None]


def as_float(value: Any) -> float:
    """A number of the log."""
    return float(value.detach()) if isinstance(value, Tensor) else float(value)


def agreed(flag: Tensor) -> bool:
    """Is it so in any process?"""
    flag = flag.to(torch.int32)
    if get_world_size() > 1:
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag.item())


@OPTIM_WRAPPERS.register_module()
class GuardedOptimWrapper(Guard, OptimWrapper):
    """``OptimWrapper`` that leaves out steps whose loss or gradient is not finite."""


@OPTIM_WRAPPERS.register_module()
class GuardedAmpOptimWrapper(Guard, AmpOptimWrapper):
    """``AmpOptimWrapper`` that leaves out steps whose loss or gradient is not finite.

    bfloat16 has the range of float32 and needs no loss scaler: there is none unless ``loss_scale`` asks for one.
    With a scaler, gradients that overflow are its business: the step is left out and the scale lowered. They count as
    bad only where that does not help: the scale is down to 1, or fixed.

    Args:
        loss_scale, dtype, kwargs: as MMEngine's; ``'dynamic'`` with bfloat16 is no scaler.
    """

    def __init__(
        self, loss_scale: str | float | dict = 'dynamic', dtype: str | torch.dtype | None = None, **kwargs: Any
    ) -> None:
        if loss_scale == 'dynamic' and dtype in ('bfloat16', torch.bfloat16):
            loss_scale = dict(enabled=False)
        super().__init__(loss_scale=loss_scale, dtype=dtype, **kwargs)

    def step(self, **kwargs: Any) -> None:
        self.loss_scaler.unscale_(self.optimizer)  # these two do nothing without a scaler, and never wait
        super().step(**kwargs)
        self.loss_scaler.update(self._scale_update_param)

    def _counts(self, bad_loss: Tensor | None) -> bool:
        if bad_loss is not None and agreed(bad_loss):
            return True
        return self._scale_update_param is not None or self.loss_scaler.get_scale() <= 1  # 1 without a scaler

    def load_state_dict(self, state_dict: dict) -> None:
        """Also takes the state of a run without a scaler, which a scaler refuses."""
        super().load_state_dict({key: value for key, value in state_dict.items() if key != 'loss_scaler' or value})


@HOOKS.register_module()
class FiniteHook(Hook):
    """Counts the steps that were left out, says so, and after ``limit`` in a row captures the step and stops the run.

    The number of steps left out stands in the message hub as ``skipped_steps`` and comes along when a run is resumed.

    Args:
        limit: steps in a row after which the run stops; 0 never stops it.
    """

    priority = 'VERY_HIGH'

    def __init__(self, limit: int = 10) -> None:
        self.limit = limit
        self._seen = 0
        self._state: dict | None = None
        self._inputs: Any = None

    def before_train(self, runner: Runner) -> None:
        self._seen = getattr(runner.optim_wrapper, 'skipped', 0)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self._state = get_random_state()  # on the CPU, some microseconds

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        skipped = getattr(runner.optim_wrapper, 'skipped', 0)
        if skipped == self._seen:
            return
        total = runner.message_hub.runtime_info.get('skipped_steps', 0) + skipped - self._seen
        self._seen = skipped
        runner.message_hub.update_info('skipped_steps', total)
        in_a_row = runner.optim_wrapper.in_a_row
        losses = ', '.join(f'{key} {as_float(value):.4g}' for key, value in (outputs or {}).items())
        runner.logger.warning(
            f'Iteration {runner.iter + 1}: loss or gradient is not finite ({losses}); the step is left out, '
            f'the weights are as before ({in_a_row} in a row, {total} in all).'
        )
        if not self.limit or in_a_row < self.limit:
            return
        path = write_capture(runner, data_batch, self._state, outputs)
        raise NotFinite(
            f'{in_a_row} steps in a row were not finite, so the run stops at iteration {runner.iter + 1}. The last one '
            f'is kept (process {get_rank()}): `python tools/replay.py {path}` says where the first wrong number is.'
        )
