"""Meters that tell whether homologous recognition works; no gradient flows through them."""

from __future__ import annotations

import torch
from torch import Tensor

from mixedae.functional.attention import attention_scores, topk_keep_mask
from mixedae.functional.mixing import check_index


@torch.no_grad()
def topk_accuracy(
    q: Tensor, k: Tensor, mask: Tensor, topk: int, *, num_prefix_tokens: int = 1, cls: str = 'keep'
) -> Tensor:
    """Share of a patch query's kept patch keys that come from its own image (the paper's TopK accuracy).

    Chance is r = 1/g. A query's own key counts, as it may be kept like any other: :func:`own_key_accuracy` is what that
    alone gives.

    Args:
        q: queries ``(G, H, N, d)`` of mixed sequences.
        k: keys, the same shape.
        mask: ``(G, L)`` int64, the mixing mask.
        topk: K, a number of keys.
        num_prefix_tokens: tokens before the patches; N = prefix + L.
        cls: as in :func:`mixedae.functional.topk_attention`.

    Returns:
        ``(H,)``, one share in 0..1 for each head, over all kept patch keys of all samples.
    """
    same = _same_image(mask, q, num_prefix_tokens)
    keep = topk_keep_mask(q, k, topk, num_prefix_tokens=num_prefix_tokens, cls=cls)
    keep = keep[:, :, num_prefix_tokens:, num_prefix_tokens:]  # (G, H, L, L)
    return (keep & same).sum((0, 2, 3)) / keep.sum((0, 2, 3))


def own_key_accuracy(num_patches: int, group_size: int, topk: int) -> float:
    """TopK accuracy of queries that keep their own key and ``topk - 1`` others blindly.

    It is ``(1 + (K - 1) (L/g - 1) / (L - 1)) / K``, above chance without any recognition: with g = 4 and K = L/4 it is
    0.286 for L = 64 and 0.262 for L = 196.

    Args:
        num_patches: L.
        group_size: g.
        topk: K, a number of keys.
    """
    others = (num_patches / group_size - 1) / (num_patches - 1)
    return (1 + (topk - 1) * others) / topk


@torch.no_grad()
def own_image_attention(
    q: Tensor,
    k: Tensor,
    mask: Tensor,
    topk: int | None,
    *,
    num_prefix_tokens: int = 1,
    cls: str = 'keep',
) -> Tensor:
    """Share of the patch queries' attention to patch keys that falls on their own image.

    Args:
        q: queries ``(G, H, N, d)`` of mixed sequences.
        k: keys, the same shape.
        mask: ``(G, L)`` int64.
        topk: K, or None for global attention.
        num_prefix_tokens: tokens before the patches.
        cls: as in :func:`mixedae.functional.topk_attention`.

    Returns:
        ``(H,)``, mean over queries and samples; chance is r.
    """
    prefix = num_prefix_tokens
    same = _same_image(mask, q, prefix)
    scores = attention_scores(q[:, :, prefix:], k[:, :, prefix:], q.shape[-1] ** -0.5)  # (G, H, L, L)
    if topk is not None:
        keep = topk_keep_mask(q, k, topk, num_prefix_tokens=prefix, cls=cls)[:, :, prefix:, prefix:]
        scores = scores.masked_fill(~keep, float('-inf'))
    # With cls='compete' a query may keep no patch key at all: it has no attention to share out and counts as zero.
    weights = scores.softmax(-1).nan_to_num(0.0)
    return (weights * same).sum(-1).mean((0, 2))


def _same_image(mask: Tensor, q: Tensor, num_prefix_tokens: int) -> Tensor:
    """``(G, 1, L, L)`` bool: whether two positions of the mix belong to one image."""
    check_index(mask)
    if mask.shape != (q.shape[0], q.shape[2] - num_prefix_tokens):
        raise ValueError(
            f'mask must be (G, L) = {(q.shape[0], q.shape[2] - num_prefix_tokens)} for these queries, not '
            f'{tuple(mask.shape)}.'
        )
    return (mask.unsqueeze(-1) == mask.unsqueeze(-2)).unsqueeze(1)  # (G, 1, L, L)
