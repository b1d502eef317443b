"""MMEngine's Runner with safe checkpoints, exact resuming, guards, and with training on a machine without a GPU."""

from __future__ import annotations

import copy
import os
import time
from typing import Any

import mmengine
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import broadcast_object_list, is_distributed, is_main_process
from mmengine.fileio import FileClient, get_file_backend
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from mmengine.runner.checkpoint import _load_checkpoint_to_model
from mmengine.utils import apply_to, get_git_hash
from torch import nn

from mixedae.checkpoints import CheckpointError, read_file, state_dict_of
from mixedae.engine.environment import write_environment
from mixedae.engine.files import explain_write_error, write_checkpoint
from mixedae.engine.quarantine_hook import place_quarantine
from mixedae.engine.replacing import ours
from mixedae.engine.resume import choose_checkpoint, training_state
from mixedae.engine.schedule_checks import check_resumed, ends_of_schedulers
from mixedae.engine.sharding import give_parts, is_sharded, split_optimizer, split_weights, whole
from mixedae.engine.without_gpu import adapt_to_device, init_gloo, without_sync_norms
from mixedae.registry import RUNNERS


@RUNNERS.register_module()
class SafeRunner(Runner):
    """``runner_type = 'mixedae.SafeRunner'``: all our configs name it, so mm's own train and test scripts use it too.

    - Checkpoints of ``load_from``, ``resume`` and testing are read by :func:`mixedae.checkpoints.read_file`, which
      never runs code from a file. MMEngine's reader falls back to full unpickling, and its ``resume`` executes a config
      text that it finds in the file; that text is dropped here.
    - Checkpoints are written whole or not at all, and hold what an exact resume needs (:mod:`mixedae.engine.loops`).
      ``resume`` without a file takes the newest valid checkpoint of the work directory.
    - MMEngine's checkpoint hook, training loops and optimiser wrappers are replaced by ours
      (:mod:`mixedae.engine.replacing`).
    - SIGTERM and SIGUSR1 save and end the run (:class:`mixedae.engine.StopHook`); steps with numbers that are not
      finite are left out (:class:`mixedae.engine.FiniteHook`). Both are set in ``cfg.reliability``.
    - A checkpoint that shares no weight with the model is an error, not a warning.
    - Without a GPU mixed precision (``AmpOptimWrapper``) is replaced by full precision, with one line that says so.

    Attributes:
        resumed_from: path of the checkpoint that the run goes on from; None for a new run.
    """

    resumed_from: str | None = None
    _resuming = False
    _found: tuple[str, dict] | None = None  # a checkpoint that has been read already

    @classmethod
    def from_cfg(cls, cfg: Config) -> SafeRunner:
        cfg = copy.deepcopy(cfg)
        adapt_to_device(cfg)
        place_quarantine(cfg)
        return super().from_cfg(cfg)

    # processes

    def setup_env(self, env_cfg: dict) -> None:
        """MMEngine's; without a GPU the processes talk over gloo, and a taken port has a sentence."""
        try:
            if self.distributed and not is_distributed() and get_device() == 'cpu':
                init_gloo(self.launcher, (env_cfg.get('dist_cfg') or {}).get('timeout'))
            super().setup_env(env_cfg)
        except RuntimeError as error:
            text = str(error)
            if 'EADDRINUSE' not in text and 'address already in use' not in text:
                raise
            raise OSError(
                f'The port {os.environ.get("MASTER_PORT")} is in use by another program (another run?): set '
                'MASTER_PORT, or `--master_port` of torchrun, to a free one.'
            ) from None

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """MMEngine's; also without a GPU, with no ``SyncBatchNorm`` then.

        PyTorch cannot accumulate gradients with ``static_graph``: it is left out.
        """
        if not self.distributed:
            return super().wrap_model(model_wrapper_cfg, model)
        sync_bn = None
        if get_device() == 'cpu':
            model = without_sync_norms(model)
            sync_bn = self.cfg.pop('sync_bn', None)  # MMEngine would make them of all batch norms
        wrapper = dict(type='mmengine.MMDistributedDataParallel')
        if model_wrapper_cfg is None:
            wrapper.update(
                broadcast_buffers=False, find_unused_parameters=self.cfg.get('find_unused_parameters', False)
            )
        wrapper.update(model_wrapper_cfg or {})
        if wrapper.get('static_graph') and (self.cfg.get('optim_wrapper') or {}).get('accumulative_counts', 1) > 1:
            wrapper['static_graph'] = False
        if get_device() == 'cpu' and 'DistributedDataParallel' in str(wrapper['type']):
            wrapper.setdefault('device_ids', None)  # MMEngine would name a GPU
        try:
            return super().wrap_model(wrapper, model)
        finally:
            if sync_bn is not None:  # a checkpoint's config is for other machines too
                self.cfg['sync_bn'] = sync_bn

    def _init_model_weights(self) -> None:
        if not is_sharded(self.model):  # that wrapper has initialised them while they were whole
            super()._init_model_weights()

    # parts

    def register_hook(self, hook: Hook | dict, priority: Any = None) -> None:
        super().register_hook(ours(hook), priority)

    def register_hooks(self, default_hooks: dict | None = None, custom_hooks: list | None = None) -> None:
        """The config's hooks, then ours."""
        super().register_hooks(default_hooks, custom_hooks)
        options = self.cfg.get('reliability') or {}
        self.register_hook(dict(type='mixedae.StopHook', **(options.get('stop') or {})))
        self.register_hook(dict(type='mixedae.FiniteHook', **(options.get('finite') or {})))
        self.register_hook(dict(type='mixedae.QuarantineHook'))

    def build_train_loop(self, loop: Any) -> Any:
        if isinstance(loop, dict) and 'by_epoch' in loop:
            loop = dict(loop)
            loop['type'] = 'EpochBasedTrainLoop' if loop.pop('by_epoch') else 'IterBasedTrainLoop'
        return super().build_train_loop(ours(loop))

    def build_optim_wrapper(self, optim_wrapper: Any) -> Any:
        if isinstance(optim_wrapper, dict) and 'optimizer' in optim_wrapper:
            optim_wrapper = ours(dict(optim_wrapper, type=optim_wrapper.get('type', 'OptimWrapper')))
        return super().build_optim_wrapper(optim_wrapper)

    # reading

    def load_checkpoint(
        self,
        filename: str,
        map_location: Any = 'cpu',
        strict: bool = False,
        revise_keys: list = [(r'^module.', '')],  # noqa: B006  (MMEngine's signature)
    ) -> dict:
        """Reads a checkpoint safely and loads it into the model; the whole checkpoint is returned."""
        found, self._found = self._found, None
        if found is not None and found[0] == str(filename):
            checkpoint = found[1]
        else:
            checkpoint = read_file(filename, map_location)
        if self._resuming:
            training_state(checkpoint, filename)
        weights = state_dict_of(checkpoint, filename)
        checkpoint.setdefault('state_dict', weights)
        if isinstance(checkpoint.get('meta'), dict):
            checkpoint['meta'].pop('config', None)  # Runner.resume would execute it
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        model = self.model.module if is_model_wrapper(self.model) else self.model
        wanted = {name.removeprefix('module.') for name in model.state_dict()}  # a test-time model wraps ours
        if not any(name.removeprefix('module.') in wanted for name in checkpoint['state_dict']):
            raise CheckpointError(
                f'{filename} shares no weight with this model. A pre-training checkpoint goes into the backbone: '
                'set model.backbone.init_cfg = dict(type="Pretrained", checkpoint=FILE) instead of load_from.'
            )
        if is_sharded(self.model):
            checkpoint['state_dict'] = split_weights(checkpoint['state_dict'], model)
            if self._resuming and 'optimizer' in checkpoint:
                checkpoint['optimizer'] = split_optimizer(checkpoint['optimizer'], self.optim_wrapper.optimizer)
        checkpoint = _load_checkpoint_to_model(model, checkpoint, strict, revise_keys=revise_keys)
        self._has_loaded = True
        self.logger.info(f'Load checkpoint from {filename}')
        return checkpoint

    def train(self) -> nn.Module:
        """MMEngine's; which checkpoint to go on from, and so the seed, is settled before the data is arranged."""
        if self._resume and not self._has_loaded:
            self._find_checkpoint()
        if is_main_process():
            try:
                write_environment(self)
            except OSError as error:
                self.logger.warning(explain_write_error(error, self.log_dir))
        try:
            return super().train()
        finally:
            stream = getattr(self._train_loop, 'stream', None)
            if stream is not None:
                stream.close()

    def _find_checkpoint(self) -> None:
        if self._load_from is None:
            choice = [None]
            if is_main_process():  # one process chooses for all
                choice = [choose_checkpoint(self.work_dir, self.logger)]
            broadcast_object_list(choice)
            if isinstance(choice[0], CheckpointError):
                raise choice[0]
            if choice[0] is None:
                self.logger.info(f'{self.work_dir} has no checkpoint to go on from: the run starts at the beginning.')
                self._resume = False
                return
            self._load_from = choice[0]
        checkpoint = read_file(self._load_from)
        self._found = (self._load_from, checkpoint)
        self.resumed_from = self._load_from
        seed = training_state(checkpoint, self._load_from).get('seed')
        if seed is not None and seed != self._randomness_cfg.get('seed'):
            self.logger.info(f'The seed is {seed}, as in {self._load_from}.')
            self._randomness_cfg.update(seed=seed)
            self.set_randomness(**self._randomness_cfg)

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """MMEngine's resume, and then to the very place in the data and the state of the random generators."""
        self._resuming = True
        try:
            found = self._found
            if found is None or found[0] != str(filename):
                found = self._found = (str(filename), read_file(filename))
            planned = ends_of_schedulers(self)
            super().resume(filename, *args, **kwargs)
        finally:
            self._resuming = False
        check_resumed(self, str(filename), planned)
        state = found[1].get('run_state')
        if state is not None and hasattr(self.train_loop, 'load_state_dict'):
            self.train_loop.load_state_dict(state)
        else:
            self.logger.warning(
                f'{filename} does not say where in the data the run was, or the training loop is not one of ours: the '
                'run goes on with the weights and the optimiser of the checkpoint, not as the run that it would have '
                'been.'
            )

    # writing

    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        file_client_args: dict | None = None,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        meta: dict | None = None,
        by_epoch: bool = True,
        backend_args: dict | None = None,
    ) -> None:
        """MMEngine's, with the state of the run, written whole or not at all. All processes must call it.

        Raises:
            OSError: it could not be written; in all processes.
        """
        loop = self._train_loop
        state = loop.state_dict() if save_optimizer and hasattr(loop, 'state_dict') else None  # of all processes
        failure = [None]
        if is_main_process():
            meta = dict(meta or {})
            meta.setdefault('epoch', self.epoch + 1 if by_epoch else self.epoch)
            meta.setdefault('iter', self.iter if by_epoch else self.iter + 1)
            checkpoint = self._collect(meta, save_optimizer, save_param_scheduler)
            if state is not None:
                checkpoint['run_state'] = state
            self.call_hook('before_save_checkpoint', checkpoint=checkpoint)
            try:
                self._write(checkpoint, out_dir, filename, file_client_args, backend_args)
            except OSError as error:
                failure = [(error.errno, error.strerror or str(error))]
        elif is_sharded(self.model):
            give_parts(self.model.module.state_dict())
            if save_optimizer:
                give_parts(self.optim_wrapper.state_dict())
        broadcast_object_list(failure)
        if failure[0] is not None:
            raise OSError(*failure[0])

    def _collect(self, meta: dict, save_optimizer: bool, save_param_scheduler: bool) -> dict[str, Any]:
        """A checkpoint with MMEngine's entries, on the CPU."""
        meta.update(
            cfg=self.cfg.pretty_text,
            seed=self.seed,
            experiment_name=self.experiment_name,
            time=time.strftime('%Y%m%d_%H%M%S', time.localtime()),
            mmengine_version=mmengine.__version__ + get_git_hash(),
        )
        if hasattr(self.train_dataloader.dataset, 'metainfo'):
            meta.update(dataset_meta=self.train_dataloader.dataset.metainfo)
        model = self.model.module if is_model_wrapper(self.model) else self.model
        checkpoint = dict(
            meta=meta, state_dict=to_cpu(model.state_dict()), message_hub=to_cpu(self.message_hub.state_dict())
        )
        if save_optimizer:
            if not isinstance(self.optim_wrapper, OptimWrapper):
                raise TypeError(f'optim_wrapper is a {type(self.optim_wrapper).__name__}, not an OptimWrapper.')
            checkpoint['optimizer'] = to_cpu(self.optim_wrapper.state_dict())
        schedulers = self.param_schedulers
        if save_param_scheduler and isinstance(schedulers, dict):
            checkpoint['param_schedulers'] = {
                name: [scheduler.state_dict() for scheduler in several] for name, several in schedulers.items()
            }
        elif save_param_scheduler and schedulers is not None:
            checkpoint['param_schedulers'] = [scheduler.state_dict() for scheduler in schedulers]
        return checkpoint

    @staticmethod
    def _write(
        checkpoint: dict, out_dir: str, filename: str, file_client_args: dict | None, backend_args: dict | None
    ) -> None:
        if '://' not in str(out_dir) and not file_client_args and not backend_args:
            os.makedirs(out_dir, exist_ok=True)
            write_checkpoint(os.path.join(out_dir, filename), checkpoint)
            return
        if file_client_args:
            backend = FileClient.infer_client(file_client_args, out_dir)
        else:
            backend = get_file_backend(out_dir, backend_args=backend_args)
        from mmengine.runner import save_checkpoint

        path = backend.join_path(out_dir, filename)  # not a local disk: as MMEngine does it
        save_checkpoint(checkpoint, path, file_client_args=file_client_args, backend_args=backend_args)


def to_cpu(values: Any) -> Any:
    """The same containers with all tensors on the CPU."""
    metadata = getattr(values, '_metadata', None)
    values = apply_to(values, lambda value: isinstance(value, torch.Tensor), lambda tensor: whole(tensor).cpu())
    if metadata is not None:
        values._metadata = metadata
    return values
