"""Ties a pretext task to MMEngine's Runner: seeds, checks before the first step, meters, and plain warnings."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from mmengine.dist import all_reduce, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mixedae.functional import own_key_accuracy
from mixedae.models.pretrainer import Pretrainer
from mixedae.registry import HOOKS


@HOOKS.register_module()
class PretrainMeterHook(Hook):
    """Measures TopK accuracy and own-image attention, and says in plain words when a run is broken.

    Every ``interval`` iterations the model measures each block. The last block's TopK accuracy joins the training log
    as ``topk_acc``; all blocks go to every visualisation backend as ``topk_acc/layer_00`` .. and
    ``own_attention/layer_00`` .. . The hook also hands the Runner's seed and iteration to the model, on which its masks
    depend.

    Args:
        interval: iterations between two measurements.
        warn_after: share of the run after which accuracy at chance is called broken.
        margin: how far above chance (an absolute share) the accuracy must be by then; not below what a patch has that
            finds nothing but itself.
    """

    priority = 'NORMAL'  # before LoggerHook, so that a measurement stands in the line of its own iteration

    def __init__(self, interval: int = 50, warn_after: float = 0.25, margin: float = 0.02) -> None:
        self.interval = interval
        self.warn_after = warn_after
        self.margin = margin
        self._warned: set[str] = set()

    def before_train(self, runner: Runner) -> None:
        model = unwrap(runner.model)
        model.seed = runner.seed if runner.seed is not None else model.seed
        group_size = getattr(model, 'group_size', 1)
        batch_size = runner.train_dataloader.batch_size
        if batch_size is not None and batch_size % group_size:
            raise ValueError(
                f'batch_size {batch_size} of train_dataloader is not a multiple of the group size {group_size}: '
                f'choose {max(1, batch_size // group_size) * group_size}, say.'
            )
        if group_size > 1 and batch_size is not None and not runner.train_dataloader.drop_last:
            raise ValueError(
                'train_dataloader must set drop_last=True: the last batch of an epoch may not fill its groups of '
                f'{group_size}.'
            )

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        model = unwrap(runner.model)
        model.step = runner.iter
        model.measure = self.every_n_train_iters(runner, self.interval) or runner.iter == 0

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        model = unwrap(runner.model)
        if not model.measure:
            return
        model.measure = False
        loss = torch.as_tensor((outputs or {}).get('loss', 0.0)).item()
        if not math.isfinite(loss):
            self._warn(
                'loss',
                f'The loss is {loss} at iteration {runner.iter + 1}: the run is broken. Lower the learning rate, '
                f'lengthen the warm-up, or train in bf16 instead of fp16.',
            )
        if not model.meters:
            return
        step = runner.iter + 1
        scalars = {}
        for name, values in model.meters.items():
            all_reduce(values, op='mean')
            layers = values.tolist()
            scalars.update({f'{name}/layer_{i:02d}': value for i, value in enumerate(layers)})
        last = layer_accuracy(model)[-1]
        runner.message_hub.update_scalar('train/topk_acc', last)
        if is_main_process():
            runner.visualizer.add_scalars(scalars, step=step, file_path=None)
        if model.contrastive_weight and step >= self.warn_after * runner.max_iters:
            patches, attention = model.encoder.num_patches, model.encoder.blocks[-1].attn
            topk = attention.num_kept(patches + 1) or patches // model.group_size
            own_key = own_key_accuracy(patches, model.group_size, topk)
            self._check_accuracy(last, 1 / model.group_size, own_key, step)

    def _check_accuracy(self, accuracy: float, chance: float, own_key: float, step: int) -> None:
        if accuracy < max(chance + self.margin, own_key):
            self._warn(
                'topk_acc',
                f'At iteration {step} the TopK accuracy of the last layer is {accuracy:.1%}; chance is {chance:.1%}, '
                f'and a patch that finds nothing but itself has {own_key:.1%}: patches do not find the patches of '
                'their own image. Look at contrastive_weight, the learning rate, and whether the images of a group '
                'differ.',
            )

    def _warn(self, key: str, message: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            print_log(message, logger='current', level=logging.WARNING)


def layer_accuracy(model: Pretrainer) -> list[float]:
    """TopK accuracy of each block at the last measurement."""
    return model.meters['topk_acc'].tolist()


def unwrap(model: Any) -> Pretrainer:
    """The pretext task inside a distributed wrapper."""
    return model.module if is_model_wrapper(model) else model
