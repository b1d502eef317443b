"""Choosing positions: values, gradients and the error."""

import pytest
import torch

from mixedae.functional.positions import positions_of, take


def test_positions_of__ascending_numbers_of_the_chosen(generator):
    chosen = torch.rand(3, 2, 7, generator=generator).argsort(-1) < 4
    found = positions_of(chosen, 4)
    assert found.shape == (3, 2, 4) and found.dtype == torch.int64
    for row, numbers in zip(chosen.flatten(0, 1).tolist(), found.flatten(0, 1).tolist()):
        assert numbers == [position for position, yes in enumerate(row) if yes]


def test_positions_of__another_number_of_them():
    chosen = torch.tensor([[True, False, True], [True, True, True]])
    with pytest.raises(ValueError, match='Every row must choose 2 of its 3'):
        positions_of(chosen, 2)


@pytest.mark.parametrize('lead', [(), (3,), (2, 3)])
@pytest.mark.parametrize('contiguous', [True, False])
def test_take__values_and_gradient(lead, contiguous, generator):
    x = torch.randn(*lead, 5, 4, generator=generator).double()
    if not contiguous:
        x = x.transpose(-1, -2).contiguous().transpose(-1, -2)
    x.requires_grad_()
    positions = torch.rand(*lead, 5, generator=generator).argsort(-1)[..., :3]
    positions[..., 2] = positions[..., 0]  # twice the same: its gradient is the sum
    taken = take(x, positions)
    expected = x.gather(-2, positions.unsqueeze(-1).expand(*lead, 3, 4))
    assert torch.equal(taken, expected)
    grad = torch.randn(*lead, 3, 4, generator=generator).double()
    ours, theirs = (torch.autograd.grad(out, x, grad)[0] for out in (taken, expected))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize('position', [-1, 5])
def test_take__outside_the_sequence(position):
    """The next sequence's tokens would be taken instead."""
    positions = torch.tensor([[0, position], [1, 2]])
    with pytest.raises(IndexError, match=r'0\.\.4'):
        take(torch.zeros(2, 5, 3), positions)


def test_take__as_gather_under_compile(generator, monkeypatch):
    x = torch.randn(2, 5, 3, generator=generator)
    positions = torch.tensor([[4, 0], [1, 1]])
    expected = take(x, positions)
    monkeypatch.setattr(torch.compiler, 'is_compiling', lambda: True)
    assert torch.equal(take(x, positions), expected)
