"""MMEngine's two training loops, able to go on from the very batch, random state and validation where a run stopped."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from mmengine.dist import get_rank, get_world_size
from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch import nn
from torch.utils.data import DataLoader

from mixedae.engine.batches import BatchStream
from mixedae.engine.checkpoint_hook import CheckpointNotWritten, save_now
from mixedae.engine.random_state import get_random_state, of_all_ranks, set_random_state
from mixedae.engine.sharding import split_like, whole
from mixedae.registry import LOOPS

STATE_VERSION = 1


class Unbegun:
    """A loader that gives nothing: the loop by iterations of stock MMEngine 0.10 begins its loader when it is made.

    Its processes would run ahead before the place to begin at is known, and use up the order of ``InfiniteSampler``.
    """

    def __init__(self, loader: DataLoader) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator:
        return iter(())

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)


class ExactLoop(ABC):
    """What both loops share; mixed into MMEngine's.

    :meth:`state_dict` is saved in every checkpoint as ``run_state``: place in the data, random state of every process,
    whether the validation that is due at this point was done, and gradients that wait for more (gradient accumulation).

    Attributes:
        loader_error: what loader or data set raised when the run stopped for it.
    """

    def __init__(self, runner: Any, dataloader: DataLoader | dict, *args: Any, **kwargs: Any) -> None:
        if isinstance(dataloader, dict):
            different = runner._randomness_cfg.get('diff_rank_seed', False)  # as in MMEngine's BaseLoop
            dataloader = runner.build_dataloader(dataloader, seed=runner.seed, diff_rank_seed=different)
        super().__init__(runner, Unbegun(dataloader), *args, **kwargs)
        self.dataloader = dataloader
        self.stream = BatchStream(self.dataloader, self.runner.seed)
        self._resumed: dict | None = None
        self._before_validation: dict | None = None  # random state; not None while a validation runs
        self._validation_over = False
        self.loader_error: Exception | None = None

    # what a checkpoint keeps

    def state_dict(self) -> dict[str, Any]:
        """The state of the loop in all processes; all of them must call it."""
        mine = dict(
            random=self._before_validation or get_random_state(),
            stream=self.stream.state_dict(),
            gradients=self._waiting_gradients(),
        )
        return dict(
            version=STATE_VERSION,
            world_size=get_world_size(),
            batch_size=self._batch_size(),
            validated=self._validated(),
            ranks=of_all_ranks(mine),
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over a saved state; the run goes there when :meth:`run` begins."""
        self._resumed = state

    def _restore(self) -> None:
        """Goes to the saved place; after the hooks of ``before_train``, which may draw random numbers."""
        state, self._resumed = self._resumed, None
        if state is None:
            return
        now = (get_world_size(), self._batch_size())
        before = (state['world_size'], state['batch_size'])
        if now == before:
            mine = state['ranks'][get_rank()]
            self.stream.load_state_dict(mine['stream'])
            self._restore_gradients(mine['gradients'])
            set_random_state(mine['random'])
        else:
            print_log(
                f'The checkpoint was written by {before[0]} processes with batches of {before[1]}, this run has '
                f'{now[0]} with batches of {now[1]}: it goes on at the same place in the data, but it is not the run '
                'that it would have been.',
                logger='current',
                level=logging.WARNING,
            )
            place = dict(state['ranks'][0]['stream'], order=get_random_state())
            place['number'] = place['number'] * before[0] * (before[1] or 1) // (now[0] * (now[1] or 1))
            self.stream.load_state_dict(place)
        if not state['validated'] and self._between_epochs() and self._validation_is_due():
            self._validate()

    def _batch_size(self) -> int | None:
        return self.dataloader.batch_size or getattr(self.dataloader.batch_sampler, 'batch_size', None)

    def _waiting_gradients(self) -> dict | None:
        """Gradients of an unfinished accumulation; None where each step begins afresh."""
        if getattr(self.runner.optim_wrapper, '_accumulative_counts', 1) == 1:
            return None
        return {
            name: whole(parameter.grad.detach()).cpu()
            for name, parameter in self.runner.model.named_parameters()
            if parameter.grad is not None
        }

    def _restore_gradients(self, gradients: dict | None) -> None:
        for name, parameter in self.runner.model.named_parameters():
            if gradients and name in gradients:
                parameter.grad = split_like(gradients[name].clone(), parameter)

    def _next(self) -> Any:
        """The next batch. Where loader or data set fail, a run of one process first saves what it learned so far.

        Raises:
            StopIteration: the epoch is over.
            Exception: that of the loader, or of the data set in its own type, also where nothing could be saved.
        """
        try:
            return self.stream.next()
        except StopIteration:
            raise
        except Exception as error:
            self.loader_error = error
            if get_world_size() == 1 and self._iter > 0:  # with several processes the others know nothing of it
                try:
                    saved = save_now(self.runner, self._iter)
                except CheckpointNotWritten as failure:  # the error above is the one to tell
                    print_log(str(failure), logger='current', level=logging.ERROR)
                else:
                    if saved is not None:
                        print_log(f'The loader failed; {saved} has what was learned until then.', logger='current')
            raise

    # validation

    @abstractmethod
    def _done(self) -> tuple[int, int]:
        """How much is done, and how much there is in all: in epochs or iterations, as validation counts."""

    def _validation_is_due(self) -> bool:
        done, in_all = self._done()
        return (
            self.runner.val_loop is not None
            and done >= max(self.val_begin, 1)
            and (done % self.val_interval == 0 or done == in_all)
        )

    def _between_epochs(self) -> bool:
        return True

    def _validated(self) -> bool:
        """Is the checkpoint written now, at a point where validation is due, written after it?"""
        return self._validation_over

    def _validate(self) -> None:
        self.runner.call_hook('before_validation')  # of our own hooks
        self._before_validation = get_random_state()
        self.runner.val_loop.run()
        set_random_state(self._before_validation)  # what validation draws is no matter to training
        self._before_validation = None
        self._validation_over = False

    def validation_is_over(self) -> None:
        """A checkpoint that is written from now on (in ``after_val_epoch``) is one after validation."""
        self._validation_over = True


@LOOPS.register_module()
class ExactEpochLoop(ExactLoop, EpochBasedTrainLoop):
    """``EpochBasedTrainLoop`` that can be resumed within an epoch."""

    def run(self) -> nn.Module:
        self.runner.call_hook('before_train')
        self._decide_current_val_interval()
        self._restore()
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._decide_current_val_interval()
            if self._validation_is_due():
                self._validate()
        self.runner.call_hook('after_train')
        return self.runner.model

    def run_epoch(self) -> None:
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        if self.stream.epoch != self._epoch or self.stream.number == 0:
            self.stream.start_epoch(self._epoch)
        while True:
            number = self.stream.number
            try:
                batch = self._next()
            except StopIteration:
                break
            self.run_iter(number, batch)
        self._at_epoch_end = True
        self.runner.call_hook('after_train_epoch')
        self._at_epoch_end = False
        self._epoch += 1

    _at_epoch_end = False

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        if self._at_epoch_end or self.stream.epoch < self._epoch:  # the next batch is the first of the next epoch
            following = dict(epoch=self._epoch + self._at_epoch_end, number=0, order=None)
            for rank in state['ranks']:
                rank['stream'] = following
        return state

    def _between_epochs(self) -> bool:
        return self.stream.number == 0

    def _done(self) -> tuple[int, int]:
        return self._epoch, self._max_epochs


@LOOPS.register_module()
class ExactIterLoop(ExactLoop, IterBasedTrainLoop):
    """``IterBasedTrainLoop`` that can be resumed without loading what was seen."""

    def run(self) -> nn.Module:
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        self._decide_current_val_interval()
        self.stream.start_epoch(0)
        self._restore()
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(self._next_batch())
            self._decide_current_val_interval()
            if self._validation_is_due():
                self._validate()
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')
        return self.runner.model

    def _next_batch(self) -> Any:
        try:
            return self._next()
        except StopIteration:
            self.stream.start_epoch(self.stream.epoch + 1)
        try:
            return self._next()
        except StopIteration:
            raise ValueError('train_dataloader gives no batch: its data set is smaller than one batch.') from None

    def _done(self) -> tuple[int, int]:
        return self._iter, self._max_iters
