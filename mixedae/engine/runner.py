"""MMEngine's Runner with safe checkpoint reading, and with training on a machine without a GPU."""

from __future__ import annotations

import copy
import logging
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmengine.runner.checkpoint import _load_checkpoint_to_model

from mixedae.checkpoints import CheckpointError, read_file, state_dict_of
from mixedae.registry import RUNNERS


@RUNNERS.register_module()
class SafeRunner(Runner):
    """``runner_type = 'mixedae.SafeRunner'``: all our configs name it, so mm's own train and test scripts use it too.

    - Checkpoints of ``load_from``, ``resume`` and testing are read by :func:`mixedae.checkpoints.read_file`, which
      never runs code from a file. MMEngine's reader falls back to full unpickling, and its ``resume`` executes a config
      text that it finds in the file; that text is dropped here.
    - A checkpoint that shares no weight with the model is an error, not a warning.
    - Without a GPU mixed precision (``AmpOptimWrapper``) is replaced by full precision, with one line that says so.
    """

    _resuming = False

    @classmethod
    def from_cfg(cls, cfg: Config) -> SafeRunner:
        cfg = copy.deepcopy(cfg)
        adapt_to_device(cfg)
        return super().from_cfg(cfg)

    def load_checkpoint(
        self,
        filename: str,
        map_location: Any = 'cpu',
        strict: bool = False,
        revise_keys: list = [(r'^module.', '')],  # noqa: B006  (MMEngine's signature)
    ) -> dict:
        """Reads a checkpoint safely and loads it into the model; the whole checkpoint is returned."""
        checkpoint = read_file(filename, map_location)
        if self._resuming and 'iter' not in (checkpoint.get('meta') or {}):
            raise CheckpointError(
                f'{filename} holds weights but no training state, so training cannot be resumed from it; '
                'use load_from or init_cfg to start from its weights.'
            )
        weights = state_dict_of(checkpoint, filename)
        checkpoint.setdefault('state_dict', weights)
        if isinstance(checkpoint.get('meta'), dict):
            checkpoint['meta'].pop('config', None)  # Runner.resume would execute it
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        model = self.model.module if is_model_wrapper(self.model) else self.model
        wanted = model.state_dict().keys()
        if not any(name.removeprefix('module.') in wanted for name in checkpoint['state_dict']):
            raise CheckpointError(
                f'{filename} shares no weight with this model. A pre-training checkpoint goes into the backbone: '
                'set model.backbone.init_cfg = dict(type="Pretrained", checkpoint=FILE) instead of load_from.'
            )
        checkpoint = _load_checkpoint_to_model(model, checkpoint, strict, revise_keys=revise_keys)
        self._has_loaded = True
        self.logger.info(f'Load checkpoint from {filename}')
        return checkpoint

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """MMEngine's resume; a file without a training state is an error."""
        self._resuming = True
        try:
            super().resume(filename, *args, **kwargs)
        finally:
            self._resuming = False


def adapt_to_device(cfg: Config) -> None:
    """Turns ``AmpOptimWrapper`` into ``OptimWrapper`` in place where there is no accelerator."""
    wrapper = cfg.get('optim_wrapper')
    kind = str((wrapper or {}).get('type'))
    if kind.rpartition('.')[2] != 'AmpOptimWrapper' or get_device() != 'cpu':
        return
    wrapper['type'] = kind.replace('AmpOptimWrapper', 'OptimWrapper')  # with its scope, if it has one
    for key in ('loss_scale', 'dtype', 'use_fsdp'):
        wrapper.pop(key, None)
    threads = torch.get_num_threads()
    print_log(
        f'No GPU here: training in float32 on {threads} CPU threads, without mixed precision.', level=logging.WARNING
    )
