"""Homologous attention (Eq 6): each query attends to its K best keys only.

``A = softmax(TopK(q k^T / sqrt(d))) v``. The paper leaves open what happens to [CLS] and on ties; ours:

- the selection is made per head and per query, on float32 scores, among the *patch* keys; exactly K survive, the lowest
  index first where scores are equal;
- ``cls='keep'``: prefix keys ([CLS]) are always visible and take no slot, and prefix queries attend to everything;
- ``cls='compete'``: prefix tokens are keys and queries like any other (K of all N keys for every query).

Selecting has no gradient; the gradient flows through the kept scores alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mixedae.functional.compiling import is_compiling
from mixedae.kernels import choosing, topk_cpu

BACKENDS = ('auto', 'reference', 'sdpa', 'cpu', 'triton')
NEEDS = {
    'cpu': 'needs numba and tensors on a CPU',
    'triton': (
        'needs Triton 3.0 or newer and float32 or 16-bit tensors on a GPU, '
        'of 256 tokens and 128 channels a head at most and no more than its shared memory holds'
    ),
}


def topk_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    topk: int,
    *,
    num_prefix_tokens: int = 1,
    cls: str = 'keep',
    scale: float | None = None,
    backend: str = 'auto',
) -> Tensor:
    """Attention in which exactly ``topk`` keys survive for each query.

    Args:
        q: queries ``(B, H, N, d)``, N = prefix tokens + L patches.
        k: keys, the same shape.
        v: values, the same shape.
        topk: K, a number of keys (not a ratio), 1..L (``cls='keep'``) or 1..N (``cls='compete'``).
        num_prefix_tokens: how many tokens before the patches ([CLS], registers).
        cls: ``'keep'`` or ``'compete'``, see the module's text.
        scale: factor on the scores, ``d ** -0.5`` if None.
        backend: ``'reference'`` writes Eq 6 out in float32; ``'sdpa'`` selects, then calls PyTorch's fused attention
            with the selection as a boolean mask; ``'cpu'`` selects in a compiled loop, which needs numba
            (:mod:`mixedae.kernels.topk_cpu`); ``'triton'`` is one fused kernel on a GPU
            (:mod:`mixedae.kernels.topk_triton`); ``'auto'`` takes what :func:`fastest_backend` names.

    Returns:
        ``(B, H, N, d)`` in the dtype of ``v``.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, not '{backend}'.")
    if v.dim() != 4 or v.shape[:3] != k.shape[:3]:
        raise ValueError(f'v must be (B, H, N, d) like k, {tuple(k.shape)}, not {tuple(v.shape)}.')
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    prefix = _check(q, k, topk, num_prefix_tokens, cls)
    if backend == 'auto':
        alike = v.shape == q.shape and q.dtype == k.dtype == v.dtype
        backend = fastest_backend(q, topk, prefix) if alike or q.device.type == 'cpu' else 'sdpa'
    if backend in ('cpu', 'triton'):
        if backend not in usable_backends(q):
            raise ValueError(f"backend '{backend}' {NEEDS[backend]}: use 'auto'.")
        if backend == 'triton':
            if v.shape != q.shape:
                raise ValueError(f"backend 'triton' needs v of the shape of q, {tuple(q.shape)}, not {tuple(v.shape)}.")
            return choosing.triton_kernel().attend(q, k, v, topk, prefix, scale).to(v.dtype)
        return topk_cpu.attend(q, k, v, topk, prefix, scale)
    keep = topk_keep_mask(q, k, topk, num_prefix_tokens=num_prefix_tokens, cls=cls, scale=scale)
    if backend == 'reference':
        return _attend(q, k, v, keep, scale)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=keep, scale=scale)


def fastest_backend(q: Tensor, topk: int, prefix: int) -> str:
    """The backend that ``'auto'`` takes for queries like these, of which ``prefix`` take no part in the selection.

    ``'cpu'`` on a CPU with numba; on a GPU whichever of ``'triton'`` and ``'sdpa'`` wins a trial
    (:mod:`mixedae.kernels.choosing`); ``'sdpa'`` elsewhere and inside ``torch.compile``.
    """
    if is_compiling():  # asked first: what follows cannot be traced
        return 'sdpa'
    usable = usable_backends(q)
    if 'triton' in usable:
        return choosing.choose(q, topk, prefix, topk_attention)
    return 'cpu' if 'cpu' in usable else 'sdpa'


@torch.compiler.disable
def usable_backends(q: Tensor) -> tuple[str, ...]:
    """The backends that can be used with queries like these."""
    usable = ['reference', 'sdpa']
    if q.device.type == 'cpu' and topk_cpu.available():
        usable.append('cpu')
    if q.device.type == 'cuda' and (kernel := choosing.triton_kernel()) is not None and kernel.fits(q):
        usable.append('triton')
    return tuple(usable)


@torch.no_grad()
def topk_keep_mask(
    q: Tensor,
    k: Tensor,
    topk: int,
    *,
    num_prefix_tokens: int = 1,
    cls: str = 'keep',
    scale: float | None = None,
) -> Tensor:
    """Which keys each query may see: ``(B, H, N, N)`` bool, arguments as in :func:`topk_attention`."""
    prefix = _check(q, k, topk, num_prefix_tokens, cls)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores = attention_scores(q[:, :, prefix:], k[:, :, prefix:], scale)  # (B, H, L, L)
    chosen = select_topk(scores, topk)
    if not prefix:
        return chosen
    keep = chosen.new_ones(*q.shape[:2], q.shape[2], q.shape[2])
    keep[:, :, prefix:, prefix:] = chosen
    return keep


def select_topk(scores: Tensor, topk: int) -> Tensor:
    """Marks exactly the ``topk`` largest scores of each row, the lowest index first among equals.

    Args:
        scores: ``(..., N)``, without NaN.
        topk: 1..N.

    Returns:
        ``(..., N)`` bool with ``topk`` True in each row.
    """
    if topk == scores.shape[-1]:
        return torch.ones_like(scores, dtype=torch.bool)
    threshold = scores.topk(topk, dim=-1).values[..., -1:]  # the K-th largest, exactly
    above = scores > threshold
    ties = scores == threshold
    slots = topk - above.sum(-1, keepdim=True, dtype=torch.int32)  # how many of the ties still fit
    return above | (ties & (ties.cumsum(-1, dtype=torch.int32) <= slots))


def attention_scores(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """``q k^T * scale`` in float32 (float64 stays), whatever autocast says: ``(B, H, N, N)``.

    The product comes first: scores of equal products are equal then, whatever the scale, in every backend.
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        return (q.to(dtype) @ k.to(dtype).transpose(-2, -1)).mul_(scale)


def _attend(q: Tensor, k: Tensor, v: Tensor, keep: Tensor, scale: float) -> Tensor:
    scores = attention_scores(q, k, scale).masked_fill(~keep, float('-inf'))
    with torch.autocast(q.device.type, enabled=False):
        return (scores.softmax(-1) @ v.to(scores.dtype)).to(v.dtype)


def _check(q: Tensor, k: Tensor, topk: int, num_prefix_tokens: int, cls: str) -> int:
    """Checks the arguments; returns how many leading tokens stand outside the competition."""
    if cls not in ('keep', 'compete'):
        raise ValueError(f"cls must be 'keep' or 'compete', not '{cls}'.")
    if q.dim() != 4 or q.shape != k.shape:
        raise ValueError(f'q and k must both be (B, H, N, d), not {tuple(q.shape)} and {tuple(k.shape)}.')
    if not 0 <= num_prefix_tokens < q.shape[2]:
        raise ValueError(f'num_prefix_tokens must lie in 0..{q.shape[2] - 1}, not {num_prefix_tokens}.')
    prefix = num_prefix_tokens if cls == 'keep' else 0
    if not 1 <= topk <= q.shape[2] - prefix:
        raise ValueError(f'topk must lie in 1..{q.shape[2] - prefix} (the keys that compete), not {topk}.')
    return prefix
