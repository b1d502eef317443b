"""A training step kept in a file (weights, batch, random state), to be done again and looked into."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor

from mixedae.engine.files import write_checkpoint
from mixedae.engine.sharding import whole

KIND = 'mixedae capture of a training step'


def plain(value: Any) -> bool:
    """Is it made of tensors, arrays, numbers, text and containers of them, so that it can be read without code?"""
    if isinstance(value, dict):
        return type(value) is dict and all(plain(key) and plain(entry) for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return type(value) in (list, tuple) and all(plain(entry) for entry in value)
    return value is None or type(value) in (Tensor, np.ndarray, int, float, bool, str)


def write_capture(runner: Runner, batch: Any, random_state: dict | None, outputs: dict | None) -> Path:
    """Keeps the step that has just been left out; every process writes its own file.

    A batch of plain tensors is kept as it is. One of mmdet's or mmseg's data samples is kept by its place in the data:
    the samples' random numbers come from the place alone, so it can be loaded again.
    """
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    stream = getattr(runner.train_loop, 'stream', None)
    config = getattr(runner.cfg, 'filename', None)
    content = dict(
        kind=KIND,
        rank=get_rank(),
        iter=runner.iter,
        seed=runner.seed,
        random=random_state,
        state_dict={name: whole(value.detach()).cpu() for name, value in model.state_dict().items()},
        batch=batch if plain(batch) else None,
        place=None if stream is None else stream.last_batch(),
        losses={key: float(torch.as_tensor(value).detach()) for key, value in (outputs or {}).items()},
        config=os.path.join(runner.work_dir, os.path.basename(config)) if config else None,
    )
    folder = Path(runner.work_dir) / 'captures'
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f'step_{runner.iter + 1}_rank_{get_rank()}.pth'
    write_checkpoint(path, content)
    return path
