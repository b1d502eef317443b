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
from mmengine.device import get_device
from torch import Tensor, nn

from mixedae.engine.files import explain_write_error
from mixedae.engine.sharding import part
from mixedae.layers import Block
from mixedae.models.encoder import Encoder

OPTIMIZER_COPIES = {'SGD': 1, 'Adam': 2, 'AdamW': 2, 'NAdam': 2, 'RAdam': 2, 'LAMB': 2, 'Lamb': 2}
"""Numbers of an optimiser's state for each weight."""


def check_work_dir(folder: str | os.PathLike[str]) -> None:
    """The folder of the run can be written, or made.

    Raises:
        OSError: it cannot, in one sentence.
    """
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)) as file:
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


def optimizer_copies(cfg: Config, unknown: int = 2) -> int:
    """How many numbers the optimiser keeps for each weight; ``unknown`` if it is none of ``OPTIMIZER_COPIES``."""
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer') or {}
    kind = str(optimizer.get('type')).rpartition('.')[2]
    if kind == 'SGD' and not optimizer.get('momentum'):
        return 0
    return OPTIMIZER_COPIES.get(kind, unknown)


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
    free = shutil.disk_usage(_existing(folder)).free
    if free < needed:
        raise OSError(
            f'The disk of {folder} has {_gib(free)} free, but the run needs about {_gib(needed)}: {number} checkpoints '
            f'of {_gib(size)} at once. Free some space, choose another --work-dir, or lower '
            'default_hooks.checkpoint.max_keep_ckpts.'
        )


def memory_bytes(model: nn.Module, cfg: Config) -> tuple[int, int]:
    """(sure, likely) bytes that training takes in each process; both are lower bounds.

    Sure are weights, gradients and optimiser state; of a model that is sharded, this process's part of them. ``likely``
    is, for our pre-training models, at least what the end of the forward pass holds: weights, optimiser state (the
    gradients are not there then) and :func:`activation_bytes`. Loader, CUDA context, buffers of the operations and
    fragmentation come on top.
    """
    weights = sum(map(_held, model.state_dict().values()))
    trained = sum(_held(parameter) for parameter in model.parameters() if parameter.requires_grad)
    state = optimizer_copies(cfg, unknown=0) * trained
    half = 'Amp' in str((cfg.get('optim_wrapper') or {}).get('type')) and get_device() != 'cpu'
    compiled = 'CompileHook' in str(cfg.get('custom_hooks'))
    batch_size = (cfg.get('train_dataloader') or {}).get('batch_size') or 0
    activations = activation_bytes(model, batch_size, half=half, compiled=compiled)
    sure = weights + trained + state
    return sure, max(sure, weights + state + activations)


def activation_bytes(model: nn.Module, batch_size: int, half: bool = False, compiled: bool = False) -> int:
    """What the blocks of our pre-training models keep for the backward pass at the least, in bytes; 0 for others.

    Each token of a block keeps the inputs of both LayerNorms (in float32 under autocast too), q, k, v and the output of
    the attention, the inputs of its linear maps, and the MLP's hidden values before and after GELU: for a width D and a
    hidden width of 4 D ``(8 + 14 n) D`` bytes, n = 2 in half precision and else 4. ``torch.compile`` computes much of
    that again: q, k, v, the output of the attention and the hidden values before GELU stay. With ``with_cp`` only the
    input of a block stays. Masks and scores of homologous attention come on top in some of its backends. The decoder's
    last block, which computes wanted tokens alone, is left out.
    """
    encoder, decoder = getattr(model, 'encoder', None), getattr(model, 'decoder', None)
    if not isinstance(encoder, Encoder):
        return 0
    size, group = 2 if half else 4, getattr(model, 'group_size', 1)
    mixes = batch_size // group * getattr(model, 'mixes_per_group', 1)
    tokens = mixes * (getattr(model, 'num_visible', encoder.num_patches) + 1)
    total = 0
    for block in encoder.blocks:
        width = block.norm1.normalized_shape[0]
        total += tokens * (4 * width if encoder.with_cp else _token_bytes(block, size, compiled))
    if decoder is not None:
        tokens = mixes * group * (encoder.num_patches + int(decoder.use_cls))
        total += sum(tokens * _token_bytes(block, size, compiled) for block in decoder.blocks[:-1])
    return total


def _token_bytes(block: Block, size: int, compiled: bool) -> int:
    width, hidden = block.norm1.normalized_shape[0], block.mlp.fc1.out_features
    if compiled:
        return size * (4 * width + hidden)
    return 2 * 4 * width + size * (6 * width + 2 * hidden)


def check_memory(model: nn.Module, cfg: Config) -> str | None:
    """A warning if memory is likely too small; None if it is enough.

    Raises:
        ValueError: weights, gradients and optimiser state alone do not fit.
    """
    sure, likely = memory_bytes(model, cfg)
    free, where = free_memory()
    if free is None:
        return None
    there = [value for value in model.state_dict().values() if value.is_cuda == torch.cuda.is_available()]
    free += sum(map(_held, there))  # weights that lie in that memory already are no longer free
    if sure > free:
        raise ValueError(
            f'Weights, gradients and optimiser state take {_gib(sure)}, but {where} has {_gib(free)} for them: take a '
            'smaller model.'
        )
    if likely > free:
        return (
            f'Training takes {_gib(likely)} at least (estimated), but {where} has {_gib(free)} for it: lower '
            'train_dataloader.batch_size.'
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


def _held(tensor: Tensor) -> int:
    """Bytes of what this process holds of a tensor."""
    return part(tensor).numel() * tensor.element_size()


def _existing(folder: str | os.PathLike[str]) -> Path:
    """The folder, or the nearest above it that exists: the folder of a run is made when it starts."""
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    return place
