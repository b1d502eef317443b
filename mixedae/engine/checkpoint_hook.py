"""MMEngine's checkpoint hook, so that at every moment the newest complete checkpoint is there and named."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process, master_only
from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log
from mmengine.runner import Runner

from mixedae.checkpoints import read_file
from mixedae.engine.files import explain_write_error, remove_unfinished, write_checkpoint, write_text
from mixedae.registry import HOOKS

FAILURES_TO_STOP = 3
EXTRA = 'extra_checkpoints'
"""Entry of the message hub: checkpoints outside the interval (a signal, a dead loader), until the next regular one."""


class CheckpointNotWritten(RuntimeError):
    """Checkpoints could not be written several times in a row; the text is one sentence for the user."""


class _LaterRemoval:
    """A file backend that only notes what to remove; it is removed once the new checkpoint is there."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.paths: list[str] = []

    def remove(self, path: str) -> None:
        self.paths.append(str(path))

    rmtree = remove

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """``CheckpointHook`` with the same options, under :class:`mixedae.engine.SafeRunner`, which writes the files.

    - The new checkpoint is complete on the disk before ``last_checkpoint`` names it (replaced at once, never half
      written), and only then are old ones removed. So there is room needed for ``max_keep_ckpts`` + 1.
    - A checkpoint that cannot be written (full disk, read-only folder) is an error in the log; the run goes on and
      tries again at the next interval, and stops after ``FAILURES_TO_STOP`` failures in a row.
    - What a killed run left half written is removed.
    """

    _failures = 0
    last_saved_iter = -1

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        if is_main_process() and os.path.isdir(self.out_dir):
            for name in remove_unfinished(self.out_dir):
                print_log(f'Removed {name}: an earlier run was stopped while it wrote it.', logger='current')

    def after_val_epoch(self, runner: Runner, metrics: dict) -> None:
        loop = runner._train_loop  # not `train_loop`, which would build one for a validation alone
        if hasattr(loop, 'validation_is_over'):
            loop.validation_is_over()
        super().after_val_epoch(runner, metrics)

    def save_now(self, runner: Runner, finished_iters: int) -> str:
        """Saves outside the interval, for a run that has to stop; the path.

        All that a run needs to go on is saved, also where the checkpoints at intervals hold weights alone
        (``save_optimizer=False``).

        Args:
            runner: the runner.
            finished_iters: iterations that are done.
        """
        if self.last_saved_iter == finished_iters and self.save_optimizer and self.save_param_scheduler:
            return str(self.last_ckpt)
        name = f'iter_{finished_iters}.pth'
        runner.message_hub.update_info(EXTRA, [*runner.message_hub.runtime_info.get(EXTRA, []), name])
        self._save(runner, name, dict(epoch=runner.epoch, iter=finished_iters), by_epoch=False, whole=True)
        if self._failures:
            raise CheckpointNotWritten(f'{self.last_ckpt} could not be written.')
        return str(self.last_ckpt)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        kept = None
        extra = runner.message_hub.runtime_info.get(EXTRA, [])
        runner.message_hub.update_info(EXTRA, [])
        if self.max_keep_ckpts > 0:
            kept = list(self.keep_ckpt_ids)
            if step not in kept:
                kept.append(step)
            self.keep_ckpt_ids.clear()
            self.keep_ckpt_ids.extend(kept[-self.max_keep_ckpts :])
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        written = self._save(runner, self.filename_tmpl.format(step), meta, self.by_epoch)
        if kept is None:
            return
        if not written:  # nothing is removed, and the step is no checkpoint
            runner.message_hub.update_info(EXTRA, extra)
            self.keep_ckpt_ids.clear()
            self.keep_ckpt_ids.extend(other for other in kept[-self.max_keep_ckpts - 1 :] if other != step)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
            return
        old = [self.filename_tmpl.format(other) for other in kept[: -self.max_keep_ckpts]] + list(extra)
        self._remove([self.file_backend.join_path(self.out_dir, name) for name in old])

    def _save(self, runner: Runner, name: str, meta: dict, by_epoch: bool, whole: bool = False) -> bool:
        """Writes a checkpoint (``whole``: with all that training needs) and names it; False if that failed."""
        path = self.file_backend.join_path(self.out_dir, name)
        before, self.last_ckpt = self.last_ckpt, path
        runner.message_hub.update_info('last_ckpt', path)
        error = None
        try:
            runner.save_checkpoint(
                self.out_dir,
                name,
                self.file_client_args,
                save_optimizer=self.save_optimizer or whole,
                save_param_scheduler=self.save_param_scheduler or whole,
                meta=meta,
                by_epoch=by_epoch,
                backend_args=self.backend_args,
                **self.args,
            )
        except OSError as failure:  # in all processes
            error = explain_write_error(failure, path)
        if error is None:
            self._name(runner, path)
            self._failures = 0
            self.last_saved_iter = meta['iter']
            return True
        self.last_ckpt = before
        runner.message_hub.update_info('last_ckpt', before)
        self._failures += 1
        sentence = f'{error} The checkpoints before it are untouched; the newest is {before or "none yet"}.'
        if self._failures >= FAILURES_TO_STOP:
            raise CheckpointNotWritten(f'{sentence} That was failure {self._failures} in a row, so the run stops.')
        runner.logger.error(f'{sentence} The run goes on and tries again at the next interval.')
        return False

    @master_only
    def _name(self, runner: Runner, path: str) -> None:
        try:
            write_text(os.path.join(runner.work_dir, 'last_checkpoint'), path)
        except OSError as failure:  # resuming looks at the checkpoints themselves as well
            runner.logger.error(explain_write_error(failure, os.path.join(runner.work_dir, 'last_checkpoint')))

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        """MMEngine's; the previous best is removed only after the new one is there."""
        if not self.save_best:
            return
        backend, info = self.file_backend, runner.message_hub.runtime_info
        before = {key: value for key, value in info.items() if key.startswith('best_')}
        paths = {key: getattr(self, key) for key in ('best_ckpt_path', 'best_ckpt_path_dict') if hasattr(self, key)}
        paths = {key: dict(value) if isinstance(value, dict) else value for key, value in paths.items()}
        later = self.file_backend = _LaterRemoval(backend)
        try:
            super()._save_best_checkpoint(runner, metrics)
        except OSError as failure:  # in all processes
            later.paths.clear()
            for key in [key for key in info if key.startswith('best_')]:
                runner.message_hub.pop_info(key)
            runner.message_hub.update_info_dict(before)
            vars(self).update(paths)
            runner.logger.error(f'{explain_write_error(failure, self.out_dir)} The best checkpoint before it stays.')
        finally:
            self.file_backend = backend
        several = getattr(self, 'best_ckpt_path_dict', None)
        now = set(map(str, several.values() if several is not None else [self.best_ckpt_path]))
        self._remove([path for path in later.paths if path not in now])

    def _remove(self, paths: list[str]) -> None:
        if not is_main_process():
            return
        for path in paths:
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)
            elif self.file_backend.isdir(path):
                self.file_backend.rmtree(path)

    @master_only
    def _publish_model(self, runner: Runner, ckpt_path: str) -> None:
        """MMEngine's, with safe reading and whole writing."""
        checkpoint = read_file(ckpt_path)
        dropped = [key for key in checkpoint if key not in self.published_keys]
        for key in dropped:
            del checkpoint[key]
        path = Path(ckpt_path)
        unnamed = path.with_name(f'{path.stem}-published.pth')
        write_checkpoint(unnamed, checkpoint)
        digest = hashlib.sha256(unnamed.read_bytes()).hexdigest()
        final = path.with_name(f'{path.stem}-{digest[:8]}.pth')
        os.replace(unnamed, final)
        print_log(f'{path} is published as {final}, without {", ".join(dropped) or "leaving anything out"}.', 'current')


def save_now(runner: Runner, finished_iters: int) -> str | None:
    """Saves with the run's checkpoint hook, outside its interval; the path, None if the run saves no checkpoints."""
    saver = next((hook for hook in runner.hooks if isinstance(hook, SafeCheckpointHook)), None)
    return None if saver is None else saver.save_now(runner, finished_iters)
