"""draw_mixing_mask, mix and unmix: statistics of the draw, values and gradients against tests/oracles.py."""

import itertools
import math

import numpy as np
import oracles
import pytest
import torch

from mixedae.functional import draw_mixing_mask, mix, unmix


def chi_square_limit(degrees: int, z: float = 4.3) -> float:
    """Wilson-Hilferty quantile of the chi-square distribution; z = 4.3 leaves about 1e-5 of chance."""
    a = 2 / (9 * degrees)
    return degrees * (1 - a + z * math.sqrt(a)) ** 3


@pytest.mark.parametrize(
    'group_size,length', [(2, 4), (2, 196), (3, 12), (3, 27), (4, 4), (4, 15 * 4), (4, 196), (7, 196), (7, 21)]
)
def test_draw_mixing_mask__balanced(generator, group_size, length):
    mask = draw_mixing_mask(50, length, group_size, generator=generator)
    assert mask.shape == (50, length) and mask.dtype == torch.int64
    for image in range(group_size):
        assert (mask == image).sum(1).eq(length // group_size).all()
    if length > 4:
        assert len({tuple(row.tolist()) for row in mask}) == 50  # groups are drawn apart


@pytest.mark.parametrize('length,group_size', [(4, 2), (6, 3), (6, 2)])
def test_draw_mixing_mask__uniform_over_all_assignments(generator, length, group_size):
    base = np.repeat(np.arange(group_size), length // group_size)
    cells = sorted(set(itertools.permutations(base.tolist())))
    assert len(cells) == math.factorial(length) // math.factorial(length // group_size) ** group_size
    draws = 200 * len(cells)
    mask = draw_mixing_mask(draws, length, group_size, generator=generator)
    counts = dict.fromkeys(cells, 0)
    for row in mask.tolist():
        counts[tuple(row)] += 1  # KeyError: an unbalanced mask
    chi = sum((n - 200) ** 2 / 200 for n in counts.values())
    assert min(counts.values()) > 0 and chi < chi_square_limit(len(cells) - 1)


def test_draw_mixing_mask__position_and_pair_frequencies(generator):
    draws, length, g = 20000, 12, 3
    mask = draw_mixing_mask(draws, length, g, generator=generator)
    for position in range(length):
        counts = torch.bincount(mask[:, position], minlength=g).double()
        chi = ((counts - draws / g) ** 2 / (draws / g)).sum().item()
        assert chi < chi_square_limit(g - 1), position
    p = (length / g - 1) / (length - 1)
    sigma = math.sqrt(p * (1 - p) / draws)
    for i, j in itertools.combinations(range(length), 2):
        together = (mask[:, i] == mask[:, j]).double().mean().item()
        assert abs(together - p) < 5 * sigma, (i, j)


def test_draw_mixing_mask__groups_are_independent(generator):
    mask = draw_mixing_mask(20000, 8, 2, generator=generator)
    same = (mask[::2] == mask[1::2]).double().mean().item()  # neighbours agree at a position with chance 1/g
    assert abs(same - 0.5) < 5 * math.sqrt(0.25 / 80000)


def test_draw_mixing_mask__generator():
    def draw(seed):
        return draw_mixing_mask(3, 16, 4, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    generator = torch.Generator().manual_seed(1)
    first, second = (draw_mixing_mask(3, 16, 4, generator=generator) for _ in range(2))
    assert torch.equal(first, draw(1)) and not torch.equal(first, second)


def test_draw_mixing_mask__own_generator_leaves_global_state():
    before = torch.get_rng_state()
    draw_mixing_mask(3, 16, 4, generator=torch.Generator().manual_seed(1))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(5)
    first = draw_mixing_mask(3, 16, 4)
    torch.manual_seed(5)
    assert torch.equal(first, draw_mixing_mask(3, 16, 4))


@pytest.mark.parametrize(
    'groups,length,group_size', [(1, 10, 4), (1, 7, 2), (1, 4, 8), (1, 8, 0), (1, 8, 1), (1, 8, -2)]
)
def test_draw_mixing_mask__impossible(groups, length, group_size):
    with pytest.raises(ValueError, match=r'\d'):
        draw_mixing_mask(groups, length, group_size)


@pytest.mark.parametrize('group_size,length', [(2, 4), (3, 6), (4, 12), (7, 14)])
def test_mix__oracle(rng, group_size, length):
    patches = rng.normal(size=(3, group_size, length, 5))
    mask = oracles.random_mask(rng, 3, length, group_size)
    ours = mix(torch.from_numpy(patches), torch.from_numpy(mask))
    np.testing.assert_array_equal(ours.numpy(), oracles.mix(patches, mask))


def test_mix__one_hot_sum(rng):
    """Eq 1 as a sum of masked images."""
    patches = torch.from_numpy(rng.normal(size=(2, 4, 8, 3)))
    mask = torch.from_numpy(oracles.random_mask(rng, 2, 8, 4))
    summed = sum((mask == i)[..., None] * patches[:, i] for i in range(4))
    assert torch.equal(mix(patches, mask), summed)


def test_mix__several_masks_per_group(rng):
    """Full mode: V masks on the same group give what V single calls give."""
    patches = torch.from_numpy(rng.normal(size=(2, 4, 8, 3)))
    masks = torch.from_numpy(np.stack([oracles.random_mask(rng, 4, 8, 4) for _ in range(2)]))  # (G, V, L)
    together = mix(patches, masks)
    assert together.shape == (2, 4, 8, 3)
    for v in range(4):
        assert torch.equal(together[:, v], mix(patches, masks[:, v]))


def test_mix__gradient_goes_to_the_owner_only(rng):
    patches = torch.from_numpy(rng.normal(size=(2, 4, 8, 3))).requires_grad_()
    mask = torch.from_numpy(oracles.random_mask(rng, 2, 8, 4))
    upstream = torch.from_numpy(rng.normal(size=(2, 8, 3)))
    mix(patches, mask).backward(upstream)
    for a, i, pos in np.ndindex(2, 4, 8):
        expected = upstream[a, pos] if mask[a, pos] == i else torch.zeros(3)
        assert torch.equal(patches.grad[a, i, pos], expected.double())
    assert torch.autograd.gradcheck(lambda x: mix(x, mask), patches)


@pytest.mark.parametrize('group_size,length', [(2, 4), (3, 6), (4, 12), (7, 14)])
def test_unmix__oracle(rng, group_size, length):
    tokens = rng.normal(size=(3, length, 5))
    token = rng.normal(size=5)
    mask = oracles.random_mask(rng, 3, length, group_size)
    ours = unmix(torch.from_numpy(tokens), torch.from_numpy(mask), group_size, torch.from_numpy(token))
    np.testing.assert_array_equal(ours.numpy(), oracles.unmix(tokens, mask, group_size, token))


def test_unmix__gradient(rng):
    tokens = torch.from_numpy(rng.normal(size=(2, 8, 3))).requires_grad_()
    token = torch.from_numpy(rng.normal(size=3)).requires_grad_()
    mask = torch.from_numpy(oracles.random_mask(rng, 2, 8, 4))
    upstream = torch.from_numpy(rng.normal(size=(2, 4, 8, 3)))
    unmix(tokens, mask, 4, token).backward(upstream)
    expected_token = torch.zeros(3).double()
    for a, pos in np.ndindex(2, 8):
        assert torch.equal(tokens.grad[a, pos], upstream[a, mask[a, pos], pos])
        expected_token += sum(upstream[a, i, pos] for i in range(4) if i != mask[a, pos])
    torch.testing.assert_close(token.grad, expected_token)
    assert torch.autograd.gradcheck(lambda x, t: unmix(x, mask, 4, t), (tokens, token))


def test_unmix__then_mix_is_the_identity(rng):
    tokens = torch.from_numpy(rng.normal(size=(2, 12, 3)))
    mask = torch.from_numpy(oracles.random_mask(rng, 2, 12, 4))
    assert torch.equal(mix(unmix(tokens, mask, 4, torch.zeros(3).double()), mask), tokens)


def test_mix_unmix__non_contiguous(rng):
    mask = oracles.random_mask(rng, 2, 8, 4)
    strided = torch.from_numpy(np.stack([mask, mask], -1))[..., 0]
    assert not strided.is_contiguous()
    patches = torch.from_numpy(rng.normal(size=(2, 3, 8, 4))).permute(0, 3, 2, 1)
    np.testing.assert_array_equal(mix(patches, strided).numpy(), oracles.mix(patches.numpy(), mask))
    tokens = torch.from_numpy(rng.normal(size=(2, 3, 8))).transpose(1, 2)
    token = torch.from_numpy(rng.normal(size=(6,)))[::2]
    np.testing.assert_array_equal(
        unmix(tokens, strided, 4, token).numpy(), oracles.unmix(tokens.numpy(), mask, 4, token.numpy())
    )


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_mix_unmix__half_keeps_values(rng, dtype):
    mask = torch.from_numpy(oracles.random_mask(rng, 2, 8, 4))
    patches = torch.randn(2, 4, 8, 3).to(dtype)
    mixed = mix(patches, mask)
    assert mixed.dtype == dtype
    parts = unmix(mixed, mask, 4, torch.zeros(3, dtype=dtype))
    assert parts.dtype == dtype
    owns = torch.stack([mask == i for i in range(4)], 1)[..., None]
    assert torch.equal(parts, patches * owns)


def test_unmix__autocast_with_float32_mask_token(rng):
    """Under autocast the tokens are bf16 and the mask-token parameter float32: that must work."""
    mask = torch.from_numpy(oracles.random_mask(rng, 2, 8, 4))
    tokens, token = torch.randn(2, 8, 3).bfloat16(), torch.randn(3)
    parts = unmix(tokens, mask, 4, token)
    expected = oracles.unmix(tokens.double().numpy(), mask.numpy(), 4, token.double().numpy())
    np.testing.assert_allclose(parts.double().numpy(), expected, rtol=8e-3)


MASK = torch.tensor([[0, 0, 1, 1]])


@pytest.mark.parametrize(
    'patches,mask',
    [
        (torch.zeros(1, 2, 4, 3), MASK[:, :3]),  # L differs
        (torch.zeros(2, 2, 4, 3), MASK),  # G differs
        (torch.zeros(1, 2, 4, 3), MASK[0]),  # no group axis
        (torch.zeros(1, 2, 4, 3), MASK.float()),
        (torch.zeros(1, 2, 4, 3), MASK.bool()),
        (torch.zeros(1, 2, 4, 3), MASK.int()),
        (torch.zeros(2, 4, 3), MASK),
    ],
)
def test_mix__bad_arguments(patches, mask):
    with pytest.raises((ValueError, TypeError), match=r'\w+ .*\w'):
        mix(patches, mask)


@pytest.mark.parametrize(
    'tokens,mask,token',
    [
        (torch.zeros(1, 4, 3), MASK[:, :3], torch.zeros(3)),
        (torch.zeros(2, 4, 3), MASK, torch.zeros(3)),
        (torch.zeros(1, 4, 3), MASK.float(), torch.zeros(3)),
        (torch.zeros(1, 4, 3), MASK, torch.zeros(2)),
        (torch.zeros(1, 4, 3), MASK, torch.zeros(1)),  # would broadcast silently
    ],
)
def test_unmix__bad_arguments(tokens, mask, token):
    with pytest.raises((ValueError, TypeError), match=r'\w+ .*\w'):
        unmix(tokens, mask, 2, token)
