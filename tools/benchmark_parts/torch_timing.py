"""Timing of PyTorch work on a CPU or a GPU, and how much of it is kept for backward."""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

from .common import Timing, interleave, ratio


def add_device_arguments(parser: argparse.ArgumentParser, repeats: int) -> None:
    """``--device``, ``--dtype``, ``--threads``, ``--repeats``."""
    parser.add_argument('--device', default='cpu', help='cpu (default) or cuda')
    parser.add_argument(
        '--dtype',
        choices=('float32', 'bfloat16'),
        help='precision of products (default: float32 on a CPU, bfloat16 autocast on a GPU)',
    )
    parser.add_argument('--threads', type=int, default=1, help='CPU threads (default: 1)')
    parser.add_argument(
        '--repeats', type=int, default=repeats, help='timed runs of each contender (default: %(default)s)'
    )


def prepare(args: argparse.Namespace) -> tuple[Any, Any]:
    """Device and dtype of the arguments; sets the number of threads.

    Raises:
        ValueError: a GPU was asked for and there is none, or ``--threads`` is below 1.
    """
    import torch

    if args.threads < 1:
        raise ValueError(f'--threads must be at least 1, not {args.threads}.')
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    if device.type == 'cuda' and not torch.cuda.is_available():
        raise ValueError('--device cuda, but PyTorch finds no GPU here: leave it out to measure on the CPU.')
    name = args.dtype or ('bfloat16' if device.type == 'cuda' else 'float32')
    return device, getattr(torch, name)


def take_turns(
    contenders: Mapping[str, Callable[[], Any]], repeats: int, device: Any, warmup: int = 2, calls: int = 1
) -> dict[str, Timing]:
    """Times contenders in turns: process time on a CPU with one thread, else the clock, after synchronising a GPU.

    Args:
        contenders: name → function that does the work once.
        repeats, warmup: timed turns, and those that go before.
        device: a torch.device.
        calls: of a contender in a turn; the times are those of one.
    """
    import torch

    finish = functools.partial(torch.cuda.synchronize, device) if device.type == 'cuda' else None
    turns = {name: functools.partial(_call, way, calls) for name, way in contenders.items()}
    times = interleave(turns, repeats, warmup=warmup, finish=finish)
    by_process = device.type == 'cpu' and torch.get_num_threads() == 1
    taken = {name: timing.cpu if by_process else timing.wall for name, timing in times.items()}
    each = {name: tuple(value / calls for value in seconds) for name, seconds in taken.items()}
    return {name: Timing(seconds, seconds) for name, seconds in each.items()}


def calls_for(contenders: Mapping[str, Callable[[], Any]], device: Any, least: float = 0.01) -> int:
    """How many calls make a turn of the fastest contender at least ``least`` seconds long on a GPU; 1 on a CPU."""
    import torch

    if device.type != 'cuda':
        return 1
    for way in contenders.values():
        way()  # what is compiled at the first call
    calls = 1
    while True:
        seconds = []
        for way in contenders.values():
            torch.cuda.synchronize(device)
            start = time.perf_counter()
            _call(way, calls)
            torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - start)
        if min(seconds) >= least:
            return calls
        calls *= 2


def _call(way: Callable[[], Any], calls: int) -> None:
    for _ in range(calls):
        way()


def slowdown(slow: Timing, base: Timing) -> tuple[float, float, float]:
    """(median, lower, upper quartile) of how many times as long ``slow`` takes as ``base``, turn by turn."""
    return ratio(base, slow)


def kept_for_backward(forward: Callable[[], Any]) -> int:
    """Bytes of the tensors that a forward pass keeps for its backward pass, each storage counted once.

    Parameters are not counted. The same on every device, unlike the peak of an allocator.
    """
    import torch

    seen: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        whole = tensor if tensor._base is None else tensor._base  # a transposed weight is a view of the weight
        if not isinstance(whole, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        kept = forward()  # alive until counted: a freed storage's address could come again
    total = sum(seen.values())
    del kept
    return total
