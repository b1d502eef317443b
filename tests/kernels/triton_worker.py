"""Run by test_topk_triton.py with TRITON_INTERPRET=1: the kernel beside the plain definition (no bfloat16 there)."""

import sys

import torch

from mixedae.functional import topk_attention
from mixedae.kernels.topk_triton import TopKAttention
from tools.benchmark_parts.torch_timing import kept_for_backward

CASES = [  # sequences, heads, tokens, channels, K, prefix; the scale is d ** -0.5, for most no power of two
    (1, 2, 17, 16, 4, 1),
    (2, 1, 65, 8, 16, 1),
    (1, 1, 40, 32, 7, 0),
    (2, 2, 10, 16, 9, 1),
    (1, 1, 33, 80, 5, 2),
]


def inputs(shape, ties, dtype):
    """q, k, v as the projection gives them, views of one packed tensor (B, N, 3, H, d), and a gradient."""
    sequences, heads, tokens, width = shape
    packed = torch.randn(sequences, tokens, 3, heads, width)
    q, k, v = packed.permute(2, 0, 3, 1, 4).unbind(0)
    grad = torch.randn(shape)
    if ties:  # whole numbers: sums are exact in any order, so equal scores are equal everywhere
        q, k = q.round(), k.round()
    if ties == 2:
        k = torch.zeros_like(k)
    q, k, v, grad = (x.to(dtype) for x in (q, k, v, grad))
    return q.requires_grad_(), k.requires_grad_(), v.requires_grad_(), grad


def check_kept(batch=1, heads=2, tokens=65, width=8):
    """Backward needs q, k, v, the output and three numbers a row; nothing of size tokens x tokens is kept."""
    q, k, v, _ = inputs((batch, heads, tokens, width), 0, torch.float32)
    kept = kept_for_backward(lambda: TopKAttention.apply(q, k, v, 16, 1, 0.25))
    expected = 4 * batch * heads * tokens * (4 * width + 3)
    if kept != expected:
        sys.exit(f'{kept} bytes are kept, not {expected}')


def main():
    torch.manual_seed(0)
    for *shape, topk, prefix in CASES:
        for ties in (0, 1, 2):
            for dtype, tolerance in ((torch.float32, 2e-6), (torch.float16, 5e-3)):
                if dtype == torch.float16 and ties == 0:
                    continue  # rounding decides between neighbours
                q, k, v, grad = inputs(shape, ties, dtype)
                scale = shape[-1] ** -0.5
                ours = TopKAttention.apply(q, k, v, topk, prefix, scale)
                plain = topk_attention(
                    q, k, v, topk, num_prefix_tokens=prefix, scale=scale, backend='reference', cls='keep'
                )
                pairs = zip(
                    (ours, *torch.autograd.grad(ours, (q, k, v), grad)),
                    (plain, *torch.autograd.grad(plain, (q, k, v), grad)),
                )
                worst = max((a.float() - b.float()).abs().max().item() for a, b in pairs)
                print(shape, topk, prefix, ties, dtype, worst)
                if not worst < tolerance:
                    sys.exit(f'{worst} is above {tolerance}')
    check_kept()


if __name__ == '__main__':
    main()
