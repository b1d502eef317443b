"""What ``backend='auto'`` takes on a GPU: the Triton kernel where it has proved itself there, else ``'sdpa'``.

Once for each device, dtype, N, d, K and prefix the kernel is compiled, compared with Eq 6 in float64 and timed against
``'sdpa'``, forward and backward. Whatever fails on the way costs a line in the log and nothing else. Each process
chooses for itself: their results agree to rounding, and naming the backend makes them take the same. In PyTorch's
deterministic mode there is no trial, for a clock must not decide the bits of a resumed run.
"""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import torch
from mmengine.logging import print_log
from torch import Tensor

SHAPE = (8, 12)  # sequences and heads of the trial
TURNS = 7
TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 3e-2}  # of the largest value

_chosen: dict[tuple, str] = {}


@functools.cache
def triton_kernel() -> ModuleType | None:
    """The module with the Triton kernel; None where Triton is missing, too old or broken."""
    try:
        from mixedae.kernels import topk_triton
    except Exception as error:  # a broken Triton raises anything
        print_log(f'TopK attention goes without Triton: {_line(error)}', logger='current', level=logging.WARNING)
        return None
    return topk_triton


@torch.compiler.disable
def choose(
    q: Tensor, topk: int, prefix: int, attend: Callable[..., Tensor], seconds: Callable[..., float] | None = None
) -> str:
    """``'triton'`` or ``'sdpa'`` for queries ``(B, H, N, d)`` like these.

    Args:
        q: the queries; only device, dtype, N and d count.
        topk: K.
        prefix: tokens that take no part in the selection.
        attend: ``topk_attention``.
        seconds: how long a call takes on a device, as :func:`gpu_seconds` says.
    """
    if torch.are_deterministic_algorithms_enabled():
        return 'sdpa'
    key = (q.device, q.dtype, *q.shape[2:], topk, prefix)
    if key not in _chosen:
        if q.is_cuda and torch.cuda.is_current_stream_capturing():
            return 'sdpa'  # a trial waits for the device
        with ThreadPoolExecutor(1) as pool:  # a thread of its own has none of the caller's modes, hooks and streams
            _chosen[key] = pool.submit(_trial, *key, attend, seconds or gpu_seconds).result()
    return _chosen[key]


def _trial(
    device: torch.device,
    dtype: torch.dtype,
    length: int,
    width: int,
    topk: int,
    prefix: int,
    attend: Callable[..., Tensor],
    seconds: Callable[..., float],
) -> str:
    what = f'TopK attention ({length} tokens of {width} channels, K = {topk}, {dtype}, {device})'
    try:
        generator = torch.Generator(device).manual_seed(0)
        shape = (*SHAPE, length, width)
        q, k, v, grad = (torch.randn(shape, generator=generator, device=device).to(dtype) for _ in range(4))
        q, k = q.round(), k.round()  # exact products, with many ties

        def run(backend: str, dtype: torch.dtype = dtype) -> tuple[Tensor, ...]:
            inputs = [x.to(dtype).requires_grad_() for x in (q.detach(), k.detach(), v.detach())]
            out = attend(*inputs, topk, num_prefix_tokens=prefix, backend=backend)
            return out, *torch.autograd.grad(out, inputs, grad.to(dtype))

        for ours, exact in zip(run('triton'), run('reference', torch.float64)):
            error = ((ours - exact).abs().max() / exact.abs().max()).item()
            if not error < TOLERANCE[dtype]:
                raise ValueError(f'its results are off by {error:.1e} of the largest')
        times = {backend: seconds(functools.partial(run, backend), device) for backend in ('triton', 'sdpa')}
    except Exception as error:
        print_log(f'{what}: sdpa, since triton failed: {_line(error)}', logger='current', level=logging.WARNING)
        return 'sdpa'
    winner = min(times, key=times.get)
    taken = ', '.join(f'{backend} {1000 * time:.2f} ms' for backend, time in times.items())
    print_log(f'{what}: {winner} ({taken}).', logger='current')
    return winner


def gpu_seconds(call: Callable[[], object], device: torch.device) -> float:
    """The median of a few calls, by the device's own clock."""
    with torch.cuda.device(device):
        call()
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(TURNS + 1)]
        marks[0].record()
        for mark in marks[1:]:
            call()
            mark.record()
        marks[-1].synchronize()
    return sorted(start.elapsed_time(end) for start, end in itertools.pairwise(marks))[TURNS // 2] / 1000


def _line(error: Exception) -> str:
    return f'{type(error).__name__}: {error}'.strip().partition('\n')[0]
