"""Is there room for a run: can its folder be written, does the disk hold its checkpoints, memory its model?"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from mixedae.engine.files import explain_write_error

OPTIMIZER_COPIES = {'SGD': 1, 'Adam': 2, 'AdamW': 2, 'NAdam': 2, 'RAdam': 2, 'LAMB': 2, 'Lamb': 2}
"""Numbers of an optimiser's state for each weight; 2 where it is not known."""


def check_work_dir(folder: str | os.PathLike[str]) -> None:
    """The folder of the run can be written, or made.

    Raises:
        OSError: it cannot, in one sentence.
    """
    place = Path(folder).absolute()
    while not place.exists():  # the folder itself is made when the run starts
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b'x')
    except OSError as error:
        sentence = explain_write_error(error, folder)
        raise OSError(f'The work dir {sentence} Or choose another with --work-dir.') from None


def checkpoint_bytes(model: nn.Module, cfg: Config) -> int:
    """About how large a checkpoint becomes: weights, optimiser state of those that are trained, EMA."""
    weights = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    total = weights + (optimizer_copies(cfg) * trained if hook.get('save_optimizer', True) else 0)
    if any('EMAHook' in str(entry.get('type')) for entry in cfg.get('custom_hooks') or [] if isinstance(entry, dict)):
        total += weights
    return total


def optimizer_copies(cfg: Config) -> int:
    """How many numbers the optimiser keeps for each weight."""
    kind = ((cfg.get('optim_wrapper') or {}).get('optimizer') or {}).get('type')
    return OPTIMIZER_COPIES.get(str(kind).rpartition('.')[2], 2)


def checkpoints_at_once(cfg: Config, epoch_length: int | None = None) -> int:
    """How many checkpoints lie on the disk at most: those that are kept, and the new one before an old one goes."""
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    kept = hook.get('max_keep_ckpts', -1)
    if kept < 0:
        loop = cfg.get('train_cfg') or {}
        length = loop.get('max_epochs') if hook.get('by_epoch', True) else loop.get('max_iters')
        if length is None and loop.get('max_epochs') and epoch_length:
            length = loop['max_epochs'] * epoch_length
        interval = hook.get('interval', 1)
        kept = math.ceil(length / interval) if length and interval > 0 else 1
    best = hook.get('save_best')
    return kept + 1 + (len(best) if isinstance(best, (list, tuple)) else int(best is not None))


def check_disk(model: nn.Module, cfg: Config) -> None:
    """The disk has room for the checkpoints to come; those that lie there already count as room.

    Raises:
        OSError: it has not, in one sentence with both numbers.
    """
    folder = Path(cfg.work_dir)
    size, number = checkpoint_bytes(model, cfg), checkpoints_at_once(cfg)
    there = sum(path.stat().st_size for path in folder.glob('*.pth'))
    needed = max(size, size * number - there)
    free = shutil.disk_usage(folder if folder.exists() else '.').free
    if free < needed:
        raise OSError(
            f'The disk of {folder} has {_gib(free)} free, but the run needs about {_gib(needed)}: {number} checkpoints '
            f'of {_gib(size)} at once. Free some space, choose another --work-dir, or lower '
            'default_hooks.checkpoint.max_keep_ckpts.'
        )


def memory_bytes(model: nn.Module, cfg: Config) -> tuple[int, int]:
    """(sure, likely) bytes that training takes in each process.

    Sure are weights, gradients and optimiser state. To that ``likely`` adds, for our pre-training models, what the
    blocks keep for the backward pass: ``tokens * width * (34 + 5 * heads * tokens / width)`` numbers of half precision
    for each sequence and block (Korthikanti et al. 2022, eq. 2); twice that in float32. Loader, CUDA context and
    fragmentation come on top, so it is a lower bound.
    """
    weights = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    sure = weights + (1 + optimizer_copies(cfg)) * trained
    encoder = getattr(model, 'encoder', None)
    batch = (cfg.get('train_dataloader') or {}).get('batch_size', 0)
    if encoder is None or not hasattr(encoder, 'num_patches'):
        return sure, sure
    factor = 1 if 'Amp' in str((cfg.get('optim_wrapper') or {}).get('type')) else 2
    group = getattr(model, 'group_size', 1)
    mixes = batch // group * getattr(model, 'mixes_per_group', 1)
    likely = sure
    for part, sequences in ((encoder, mixes), (getattr(model, 'decoder', None), mixes * group)):
        blocks = getattr(part, 'blocks', None) or []
        for block in blocks:
            width, heads, tokens = block.norm1.normalized_shape[0], block.attn.num_heads, encoder.num_patches + 1
            likely += int(factor * sequences * tokens * width * (34 + 5 * heads * tokens / width))
    return sure, likely


def check_memory(model: nn.Module, cfg: Config) -> str | None:
    """A warning if memory is likely too small; None if it is enough.

    Raises:
        ValueError: weights, gradients and optimiser state alone do not fit.
    """
    sure, likely = memory_bytes(model, cfg)
    free, where = free_memory()
    if free is None:
        return None
    if sure > free:
        raise ValueError(
            f'Weights, gradients and optimiser state take {_gib(sure)}, but {where} has {_gib(free)} free: take a '
            'smaller model.'
        )
    if likely > free:
        return (
            f'Training takes about {_gib(likely)} (estimated), but {where} has {_gib(free)} free: lower '
            'train_dataloader.batch_size if it runs out of memory.'
        )
    return None


def free_memory() -> tuple[int | None, str]:
    """Free bytes of the device that will train, and what it is called."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0], 'the GPU'
    try:
        lines = Path('/proc/meminfo').read_text().splitlines()
    except OSError:
        return None, 'memory'
    found: dict[str, Any] = {line.split(':')[0]: line.split()[1] for line in lines if line.split()[1:]}
    return int(found['MemAvailable']) * 1024, 'the memory'


def _gib(size: float) -> str:
    return f'{size / 2**30:.1f} GiB' if size > 2**29 else f'{size / 2**20:.0f} MiB'
