"""What is different about training without a GPU: how processes talk, no mixed precision, no SyncBatchNorm."""

from __future__ import annotations

import datetime
import logging
import os
import subprocess

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.model import revert_sync_batchnorm
from mmengine.utils import digit_version
from torch import nn


def init_gloo(launcher: str, timeout: float | None) -> None:
    """Starts the process group on machines without a GPU, where MMEngine would ask for one."""
    if launcher == 'slurm':
        names = dict(RANK='SLURM_PROCID', WORLD_SIZE='SLURM_NTASKS', LOCAL_RANK='SLURM_LOCALID')
        os.environ.update({name: os.environ[slurm] for name, slurm in names.items()})
        os.environ.setdefault('MASTER_PORT', '29500')
        if 'MASTER_ADDR' not in os.environ:
            command = ['scontrol', 'show', 'hostnames', os.environ['SLURM_NODELIST']]
            os.environ['MASTER_ADDR'] = subprocess.check_output(command, text=True).split()[0]
    options = {} if timeout is None else dict(timeout=datetime.timedelta(seconds=timeout))
    torch.distributed.init_process_group('gloo', **options)


def adapt_to_device(cfg: Config) -> None:
    """Turns ``AmpOptimWrapper`` into ``OptimWrapper`` in place where there is no accelerator.

    Fused optimisers are left out with PyTorch before 2.4, which has them on GPUs only.
    """
    wrapper = cfg.get('optim_wrapper')
    optimizer = (wrapper or {}).get('optimizer') or {}
    if optimizer.get('fused') and get_device() == 'cpu' and digit_version(torch.__version__) < digit_version('2.4'):
        optimizer.pop('fused')
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


def without_sync_norms(model: nn.Module) -> nn.Module:
    """The model with BatchNorm for SyncBatchNorm (PyTorch's, mmcv's), which needs GPUs; weights and buffers stay."""
    count = sum(type(module).__name__ == 'SyncBatchNorm' for module in model.modules())
    if not count:
        return model
    print_log(
        f'No GPU here: {count} SyncBatchNorm layers become BatchNorm, so each process normalises with the statistics '
        'of its own batch.',
        logger='current',
        level=logging.WARNING,
    )
    return revert_sync_batchnorm(model)
