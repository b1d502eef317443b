"""A block that computes the wanted tokens only gives their values and gradients."""

import pytest
import torch

from mixedae.layers import Attention, Block


@pytest.mark.parametrize(
    'options',
    [{}, dict(qkv_bias=False), dict(init_values=0.3)],
    ids=['plain', 'no bias of q, k, v', 'layer scale'],
)
def test_block__wanted_tokens(options, generator):
    torch.manual_seed(0)
    block = Block(12, 3, **options).double()
    x = torch.randn(2, 7, 12, generator=generator).double().requires_grad_()
    wanted = torch.tensor([[4, 1, 6], [0, 5, 2]])
    grad = torch.randn(2, 3, 12, generator=generator).double()
    sources = (x, *block.parameters())
    everything = block(x)
    expected = torch.stack([everything[row, wanted[row]] for row in range(2)])
    some = block(x, wanted=wanted)
    torch.testing.assert_close(some, expected)
    ours, theirs = (torch.autograd.grad(out, sources, grad) for out in (some, expected))
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b)


def test_attention__homologous_takes_no_wanted_tokens():
    attention = Attention(12, 3, topk_ratio=0.5)
    with pytest.raises(ValueError, match='computes all tokens'):
        attention(torch.zeros(1, 5, 12), torch.tensor([[1]]))
