"""Attention weights of one block, as they are in the forward pass: TopK attention where the block has it."""

from __future__ import annotations

import torch
from torch import Tensor

from mixedae.functional import topk_keep_mask
from mixedae.functional.attention import attention_scores
from mixedae.layers import Block
from mixedae.models.encoder import Encoder


def block_attention(block: Block, x: Tensor) -> Tensor:
    """Weights ``(B, H, N, N)`` of a block at its input ``x (B, N, D)``, each row a query; keys not kept have 0."""
    q, k, _ = block.attn.project_qkv(block.norm1(x))
    scores = attention_scores(q, k, q.shape[-1] ** -0.5)
    topk = block.attn.num_kept(x.shape[1])
    if topk is not None:
        keep = topk_keep_mask(q, k, topk, num_prefix_tokens=block.attn.num_prefix_tokens, cls=block.attn.cls)
        scores = scores.masked_fill(~keep, float('-inf'))
    return scores.softmax(-1)


@torch.no_grad()
def patch_attention(encoder: Encoder, tokens: Tensor, layer: int = -1) -> Tensor:
    """How each patch attends to the patches in one block, mean over heads.

    Args:
        encoder: the encoder.
        tokens: patch tokens ``(B, L, D)`` with their positions (and segment embeddings) added.
        layer: number of the block, negative ones count from the end.

    Returns:
        ``(B, L, L)`` float32, each row a query. A row sums to 1 minus the attention paid to [CLS].
    """
    wanted, found = layer % len(encoder.blocks), []

    def probe(number: int, block: Block, x: Tensor) -> None:
        if number == wanted:
            first = block.attn.num_prefix_tokens
            found.append(block_attention(block, x)[:, :, first:, first:].mean(1))

    encoder(tokens, probe)
    return found[0].float()
