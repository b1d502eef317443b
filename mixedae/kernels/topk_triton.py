"""TopK attention on a GPU as one Triton kernel forward and one backward.

A program holds the whole score rows of a tile of queries in registers, finds each row's threshold there by counting (as
in :mod:`mixedae.kernels.topk_cpu`: floats as integers of the same order, the interval halved until it is exact), and
goes on to softmax and values. Nothing of size N x N is written. Backward computes the scores anew, by the same
instructions on the same tiles, so that comparing them with the stored threshold selects the same keys again.

Rows that do not fit in registers (N > ``MAX_TOKENS``) are left to the other backends.

Run so far in Triton's interpreter and compiled for compute 8.0 and 9.0, but not on a GPU: ``'auto'`` uses it where it
has proved itself first (:mod:`mixedae.kernels.choosing`).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

if int(triton.__version__.partition('.')[0]) < 3:
    raise ImportError(f'the kernel needs Triton 3.0 or newer (input_precision), not {triton.__version__}')

MAX_TOKENS = 256
MAX_WIDTH = 128
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@triton.jit
def _score_tile(q, k, scale, N: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr):
    """Scores of a tile of queries and their order-preserving integers."""
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
    scores = tl.where(scores == 0.0, 0.0, scores)  # -0 is equal to +0
    bits = scores.to(tl.int32, bitcast=True)
    return scores, bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _forward_kernel(
    Q, K, V, OUT, LSE, THRESHOLD, LAST_TIE, scale,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row,
    H: tl.constexpr, N: tl.constexpr, D: tl.constexpr, TOPK: tl.constexpr, PREFIX: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # one axis of programs, tiles of a head side by side: the others end at 65,535
    TILES: tl.constexpr = (N + BLOCK_M - 1) // BLOCK_M
    head = (tl.program_id(0) // TILES).to(tl.int64)
    sequence, part = head // H, head % H
    rows = tl.program_id(0) % TILES * BLOCK_M + tl.arange(0, BLOCK_M)
    columns, channels = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D)
    row_ok = (rows[:, None] < N) & (channels[None, :] < D)
    key_ok = (columns[:, None] < N) & (channels[None, :] < D)
    q_at = sequence * q_batch + part * q_head + rows[:, None] * q_row + channels[None, :]
    k_at = sequence * k_batch + part * k_head + columns[:, None] * k_row + channels[None, :]
    v_at = sequence * v_batch + part * v_head + columns[:, None] * v_row + channels[None, :]
    q = tl.load(Q + q_at, mask=row_ok, other=0.0)
    k = tl.load(K + k_at, mask=key_ok, other=0.0)
    scores, keys = _score_tile(q, k, scale, N, BLOCK_N, PRECISION)

    competes = (columns >= PREFIX) & (columns < N)
    lowest: tl.constexpr = -2147483648
    highest: tl.constexpr = 2147483647
    keys = tl.where(competes[None, :], keys, lowest)
    low = tl.min(tl.where(competes[None, :], keys, highest), axis=1)  # at least K keys reach it
    high = tl.max(keys, axis=1)  # the K-th largest is not above it
    if TOPK == N - PREFIX:
        high = low
    while tl.max((low < high).to(tl.int32), axis=0) > 0:
        middle = (low | high) - ((low ^ high) >> 1)  # half way, rounded up, without overflow
        count = tl.sum((keys >= middle[:, None]).to(tl.int32), axis=1)
        searching = low < high
        enough = count >= TOPK
        low = tl.where(searching & enough, middle, low)
        high = tl.where(searching & (count == TOPK), middle, tl.where(searching & (count < TOPK), middle - 1, high))
    above = keys > low[:, None]
    ties = (keys == low[:, None]) & competes[None, :]
    slots = TOPK - tl.sum(above.to(tl.int32), axis=1)
    # Of equal scores the lowest indices stay: up to the column of the last tie that has a slot.
    rank = tl.cumsum(ties.to(tl.int32), axis=1)
    last_tie = tl.max(tl.where(ties & (rank <= slots[:, None]), columns[None, :], -1), axis=1)
    keep = above | (ties & (columns[None, :] <= last_tie[:, None]))
    keep = keep | (columns[None, :] < PREFIX) | ((rows[:, None] < PREFIX) & (columns[None, :] < N))

    scores = tl.where(keep, scores, float('-inf'))
    top = tl.max(scores, axis=1)
    weights = tl.exp(scores - tl.where(top == float('-inf'), 0.0, top)[:, None])
    total = tl.sum(weights, axis=1)
    v = tl.load(V + v_at, mask=key_ok, other=0.0)
    out = tl.dot((weights / total[:, None]).to(v.dtype), v, input_precision=PRECISION)
    row_at = head * N * D + rows[:, None] * D + channels[None, :]
    tl.store(OUT + row_at, out.to(OUT.dtype.element_ty), mask=row_ok)
    at = head * N + rows
    tl.store(LSE + at, top + tl.log(total), mask=rows < N)
    tl.store(THRESHOLD + at, low, mask=rows < N)
    tl.store(LAST_TIE + at, last_tie, mask=rows < N)


@triton.jit
def _backward_kernel(
    Q, K, V, OUT, GRAD, LSE, THRESHOLD, LAST_TIE, GRAD_Q, GRAD_K, GRAD_V, scale,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row,
    H: tl.constexpr, N: tl.constexpr, D: tl.constexpr, PREFIX: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0).to(tl.int64)
    sequence, part = head // H, head % H
    columns, channels = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D)
    base = head * N * D
    key_at = base + columns[:, None] * D + channels[None, :]
    key_ok = (columns[:, None] < N) & (channels[None, :] < D)
    k_at = sequence * k_batch + part * k_head + columns[:, None] * k_row + channels[None, :]
    v_at = sequence * v_batch + part * v_head + columns[:, None] * v_row + channels[None, :]
    k = tl.load(K + k_at, mask=key_ok, other=0.0)
    v = tl.load(V + v_at, mask=key_ok, other=0.0)
    grad_k = tl.zeros((BLOCK_N, BLOCK_D), dtype=tl.float32)
    grad_v = tl.zeros((BLOCK_N, BLOCK_D), dtype=tl.float32)
    for start in range(0, N, BLOCK_M):
        rows = start + tl.arange(0, BLOCK_M)
        row_at = base + rows[:, None] * D + channels[None, :]
        row_ok = (rows[:, None] < N) & (channels[None, :] < D)
        q_at = sequence * q_batch + part * q_head + rows[:, None] * q_row + channels[None, :]
        q = tl.load(Q + q_at, mask=row_ok, other=0.0)
        scores, keys = _score_tile(q, k, scale, N, BLOCK_N, PRECISION)
        at = head * N + rows
        threshold = tl.load(THRESHOLD + at, mask=rows < N, other=0)
        last_tie = tl.load(LAST_TIE + at, mask=rows < N, other=0)
        keep = (keys > threshold[:, None]) | ((keys == threshold[:, None]) & (columns[None, :] <= last_tie[:, None]))
        keep = keep | (columns[None, :] < PREFIX) | (rows[:, None] < PREFIX)
        keep = keep & (columns[None, :] < N) & (rows[:, None] < N)
        lse = tl.load(LSE + at, mask=rows < N, other=0.0)
        weights = tl.where(keep, tl.exp(scores - lse[:, None]), 0.0)

        grad = tl.load(GRAD + row_at, mask=row_ok, other=0.0)
        out = tl.load(OUT + row_at, mask=row_ok, other=0.0)
        grad_v += tl.dot(tl.trans(weights.to(grad.dtype)), grad, input_precision=PRECISION)
        grad_weights = tl.dot(grad, tl.trans(v), input_precision=PRECISION)
        # softmax: dS = P (dP - sum(dP P)), and sum over keys of dP P = sum over channels of dO O
        inner = tl.sum(grad.to(tl.float32) * out.to(tl.float32), axis=1)
        grad_scores = (weights * (grad_weights - inner[:, None]) * scale).to(k.dtype)
        grad_q = tl.dot(grad_scores, k, input_precision=PRECISION)
        tl.store(GRAD_Q + row_at, grad_q.to(GRAD_Q.dtype.element_ty), mask=row_ok)
        grad_k += tl.dot(tl.trans(grad_scores), q, input_precision=PRECISION)
    tl.store(GRAD_K + key_at, grad_k.to(GRAD_K.dtype.element_ty), mask=key_ok)
    tl.store(GRAD_V + key_at, grad_v.to(GRAD_V.dtype.element_ty), mask=key_ok)


def fits(q: Tensor) -> bool:
    """Whether the kernel can take queries ``(B, H, N, d)`` like these on their GPU."""
    length, width = q.shape[2:]
    if q.dtype not in DTYPES or length > MAX_TOKENS or width > MAX_WIDTH:
        return False
    gpu = torch.cuda.get_device_properties(q.device)
    return shared_bytes(length, width, q.dtype) <= getattr(gpu, 'shared_memory_per_block_optin', 48 * 1024)


def shared_bytes(length: int, width: int, dtype: torch.dtype) -> int:
    """The shared memory that a program of the backward kernel, the larger one, takes at most.

    Operands of products lie there: keys, values and their tile of queries, outputs and gradients, once more for 16-bit
    ones, and the weights of the tile. The compiler asks for as much or less (``tests/kernels/test_topk_triton.py``).
    """
    sizes = tiles(length, width)
    rows, columns, channels = (sizes[key] for key in ('BLOCK_M', 'BLOCK_N', 'BLOCK_D'))
    copies = 2 if dtype == torch.float32 else 3
    return dtype.itemsize * (copies * (columns + rows) * channels + rows * columns)


def tiles(length: int, width: int) -> dict[str, Any]:
    """Tile sizes and warps for N tokens of d channels; bfloat16 of 64 channels compiles without spilling on 9.0."""
    block_n = max(16, triton.next_power_of_2(length))
    return dict(
        BLOCK_M=16,
        BLOCK_N=block_n,
        BLOCK_D=max(16, triton.next_power_of_2(width)),
        num_warps=4 if block_n <= 64 else 8,
        num_stages=1,
    )


@torch.compiler.disable
def attend(q: Tensor, k: Tensor, v: Tensor, topk: int, prefix: int, scale: float) -> Tensor:
    """:class:`TopKAttention`, eager inside ``torch.compile`` too."""
    return TopKAttention.apply(q, k, v, topk, prefix, scale)


class TopKAttention(torch.autograd.Function):
    """``softmax(TopK(scale q k^T)) v``; arguments q, k, v, topk, prefix, scale. Scores and sums are float32."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, topk: int, prefix: int, scale: float) -> Tensor:
        q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k.to(q.dtype), v.to(q.dtype)))
        batch, heads, length, width = q.shape
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        lse = torch.empty(batch * heads, length, dtype=torch.float32, device=q.device)
        threshold = torch.empty(batch * heads, length, dtype=torch.int32, device=q.device)
        last_tie = torch.empty_like(threshold)
        options = tiles(length, width)
        grid = (triton.cdiv(length, options['BLOCK_M']) * batch * heads,)
        precision = 'ieee' if q.dtype == torch.float32 else 'tf32'  # of no meaning for 16-bit inputs
        with torch.cuda.device_of(q):  # Triton launches on the current device
            _forward_kernel[grid](
                q, k, v, out, lse, threshold, last_tie, scale, *q.stride()[:3], *k.stride()[:3], *v.stride()[:3],
                H=heads, N=length, D=width, TOPK=topk, PREFIX=prefix, PRECISION=precision, **options,
            )  # fmt: skip
        ctx.save_for_backward(q, k, v, out, lse, threshold, last_tie)
        ctx.prefix, ctx.scale, ctx.precision = prefix, scale, precision
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse, threshold, last_tie = ctx.saved_tensors
        batch, heads, length, width = q.shape
        grad = grad.to(q.dtype).contiguous()
        grad_q, grad_k, grad_v = (torch.empty_like(out) for _ in range(3))
        with torch.cuda.device_of(q):
            _backward_kernel[(batch * heads,)](
                q, k, v, out, grad, lse, threshold, last_tie, grad_q, grad_k, grad_v, ctx.scale,
                *q.stride()[:3], *k.stride()[:3], *v.stride()[:3],
                H=heads, N=length, D=width, PREFIX=ctx.prefix, PRECISION=ctx.precision, **tiles(length, width),
            )  # fmt: skip
        return grad_q, grad_k, grad_v, None, None, None
