"""TopK attention on a CPU: a compiled selection between two matrix products.

Choosing K of N scores by ``torch.topk`` and comparing takes several times as long as all the rest of attention. Here
the threshold of a row is found by counting: floats are read as integers of the same order, and the interval that holds
the K-th largest is halved until just K scores lie above. Every count is one pass over a row that stays in the
first-level cache, and mostly about a dozen are enough. The integers make it end, and exactly, where scores are equal.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

_SERIAL = 1 << 18  # scores; below it starting threads costs more than they save


@functools.cache
def available() -> bool:
    """Whether numba, which compiles the selection, is installed."""
    return importlib.util.find_spec('numba') is not None


@functools.cache
def _selection(double: bool) -> Callable[..., None]:
    import numba  # half a second: only where it is used

    real, whole = (np.float64, np.int64) if double else (np.float32, np.int32)
    lowest, minus_infinity = whole(np.iinfo(whole).min), real(-np.inf)
    magnitude, sign = whole(np.iinfo(whole).max), whole(np.iinfo(whole).bits - 1)
    zero, one = whole(0), whole(1)

    def keep_topk(scores, first, last, length, prefix, topk, scale):
        factor = real(scale)
        keys = np.empty(length - prefix, whole)
        for r in range(first, last):
            if r % length < prefix:  # a prefix query attends to everything
                for j in range(length):
                    scores[r, j] *= factor
                continue
            for j in range(prefix):
                scores[r, j] *= factor
            row = scores[r, prefix:]
            bits = row.view(whole)
            low, high = magnitude, lowest
            for j in range(keys.size):
                row[j] *= factor
                bit = zero if bits[j] == lowest else bits[j]  # -0 is equal to +0
                keys[j] = bit ^ ((bit >> sign) & magnitude)
                low, high = min(low, keys[j]), max(high, keys[j])
            # low: at least K keys reach it. high: the K-th largest key is not above it; fewer than K, `above`, are.
            above = zero
            exact = topk == keys.size
            while low < high and not exact:
                middle = whole((low | high) - ((low ^ high) >> one))  # half way, rounded up, without overflow
                count = zero
                for j in range(keys.size):
                    count += whole(keys[j] >= middle)
                if count >= topk:
                    low = middle
                    exact = count == topk
                else:
                    high, above = whole(middle - one), count
            for j in range(keys.size):
                row[j] = row[j] if keys[j] >= low else minus_infinity
            if not exact:  # equal scores: the lowest indices take the slots that are left
                slots = topk - above
                for j in range(keys.size):
                    if keys[j] == low:
                        if slots > 0:
                            slots -= 1
                        else:
                            row[j] = minus_infinity

    # cached beside this file, or in the user's cache folder where that is read-only
    return numba.njit(nogil=True, cache=True)(keep_topk)


def keep_topk_(scores: Tensor, topk: int, prefix: int, scale: float = 1.0) -> Tensor:
    """Scales scores and sets all but each row's ``topk`` largest to -inf, in place; of equal ones the first stay.

    Args:
        scores: ``(..., N, N)`` float32 or float64, contiguous, on the CPU, without gradient.
        topk: K, 1..N - prefix.
        prefix: leading keys that are kept and do not count, and leading queries that keep everything.
        scale: factor on every score, rounded once as ``scores * scale`` is.

    Returns:
        ``scores``.
    """
    length = scores.shape[-1]
    rows, scale = scores.view(-1, length).numpy(), float(scale)
    select = _selection(scores.dtype == torch.float64)
    parts = min(torch.get_num_threads(), -(-scores.numel() // _SERIAL))
    if parts <= 1:
        select(rows, 0, len(rows), length, prefix, topk, scale)
        return scores
    bounds = [len(rows) * part // parts for part in range(parts + 1)]
    with ThreadPoolExecutor(parts) as pool:  # the compiled loop runs without Python's lock
        pairs = itertools.pairwise(bounds)
        for done in [pool.submit(select, rows, a, b, length, prefix, topk, scale) for a, b in pairs]:
            done.result()
    return scores


@torch.compiler.disable  # it would trace into numba
def attend(q: Tensor, k: Tensor, v: Tensor, topk: int, prefix: int, scale: float) -> Tensor:
    """:class:`TopKAttention`, eager inside ``torch.compile`` too."""
    return TopKAttention.apply(q, k, v, topk, prefix, scale)


class TopKAttention(torch.autograd.Function):
    """``softmax(TopK(scale q k^T)) v`` in float32 (float64 stays); arguments q, k, v, topk, prefix, scale."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, topk: int, prefix: int, scale: float) -> Tensor:
        dtype = torch.promote_types(q.dtype, torch.float32)
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()  # as every product needs them, in backward too
        with torch.autocast('cpu', enabled=False):
            products = q.to(dtype) @ k.to(dtype).transpose(-2, -1)  # (B, H, N, N)
            weights = keep_topk_(products, topk, prefix, scale).softmax(-1)
            out = weights @ v.to(dtype)
        ctx.save_for_backward(q, k, v, weights, out)
        ctx.scale = scale
        return out.to(v.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights, out = ctx.saved_tensors
        dtype = weights.dtype
        with torch.autocast('cpu', enabled=False):
            grad = grad.to(dtype)
            grad_v = weights.transpose(-2, -1) @ grad
            # softmax: dS = P (dP - sum(dP P)), and sum over keys of dP P = sum over channels of dO O
            grad_scores = grad @ v.to(dtype).transpose(-2, -1)
            grad_scores.sub_((grad * out).sum(-1, keepdim=True)).mul_(weights)
            grad_q = (grad_scores @ k.to(dtype)).mul_(ctx.scale)
            grad_k = (grad_scores.transpose(-2, -1) @ q.to(dtype)).mul_(ctx.scale)
        return grad_q.to(q.dtype), grad_k.to(k.dtype), grad_v.to(v.dtype), None, None, None
