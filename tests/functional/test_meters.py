"""topk_accuracy and own_image_attention against tests/oracles.py and known cases."""

import numpy as np
import oracles
import pytest
import torch

from mixedae.functional import own_image_attention, own_key_accuracy, topk_accuracy

CASES = [
    (8, 2, 2, 1, 'keep'),
    (12, 4, 3, 1, 'keep'),
    (12, 3, 12, 1, 'keep'),
    (12, 3, 4, 0, 'keep'),
    (12, 4, 3, 2, 'keep'),
    (12, 4, 4, 1, 'compete'),
    (8, 2, 3, 2, 'compete'),
]  # L, g, topk, prefix, cls


@pytest.mark.parametrize('length,group_size,topk,prefix,cls', CASES)
def test_topk_accuracy__oracle(rng, length, group_size, topk, prefix, cls):
    q, k = rng.normal(size=(2, 3, 2, prefix + length, 4))
    mask = oracles.random_mask(rng, 3, length, group_size)
    ours = topk_accuracy(*map(torch.from_numpy, (q, k, mask)), topk, num_prefix_tokens=prefix, cls=cls)
    assert ours.shape == (2,)
    expected = oracles.topk_accuracy(q, k, mask, topk, num_prefix_tokens=prefix, cls=cls)
    np.testing.assert_allclose(ours.double().numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize('length,group_size,topk,prefix,cls', CASES)
def test_own_image_attention__oracle(rng, length, group_size, topk, prefix, cls):
    q, k = rng.normal(size=(2, 3, 2, prefix + length, 4))
    mask = oracles.random_mask(rng, 3, length, group_size)
    for keys in (topk, None):
        ours = own_image_attention(*map(torch.from_numpy, (q, k, mask)), keys, num_prefix_tokens=prefix, cls=cls)
        assert ours.shape == (2,)
        expected = oracles.own_image_attention(q, k, mask, keys, num_prefix_tokens=prefix, cls=cls)
        np.testing.assert_allclose(ours.double().numpy(), expected, rtol=1e-6)


def test_topk_accuracy__ties_count_the_lowest_keys(rng):
    """All scores equal: patches 0..K-1 are kept by every query, so the share follows from the mask alone."""
    q = torch.zeros(2, 3, 13, 4)
    mask = torch.from_numpy(oracles.random_mask(rng, 2, 12, 3))
    share = (mask[:, :, None] == mask[:, None, :4]).double().mean()
    torch.testing.assert_close(topk_accuracy(q, q, mask, 4).double(), share.expand(3))


def test_meters__perfect_and_worst_queries():
    """Queries that point at their own image give 1; queries that point away from it give 0."""
    mask = torch.arange(4).repeat(5)[None]  # g = 4, L = 20
    own = torch.zeros(1, 1, 21, 4)
    own[0, 0, 1:] = 60 * torch.eye(4)[mask[0]]
    assert topk_accuracy(own, own, mask, 5).tolist() == [1.0]
    torch.testing.assert_close(own_image_attention(own, own, mask, 5), torch.ones(1))
    torch.testing.assert_close(own_image_attention(own, own, mask, None), torch.ones(1))
    assert topk_accuracy(-own, own, mask, 15).tolist() == [0.0]
    torch.testing.assert_close(own_image_attention(-own, own, mask, 15), torch.zeros(1))


def test_meters__all_keys_is_chance(rng):
    q, k = torch.from_numpy(rng.normal(size=(2, 2, 2, 21, 4)))
    mask = torch.from_numpy(oracles.random_mask(rng, 2, 20, 4))
    torch.testing.assert_close(topk_accuracy(q, k, mask, 20).double(), torch.full((2,), 0.25).double())


def test_meters__random_features_are_near_chance(generator):
    q, k = (torch.randn(64, 2, 49, 16, generator=generator) for _ in range(2))
    mask = torch.stack([torch.arange(4).repeat(12)[torch.randperm(48, generator=generator)] for _ in range(64)])
    for value in (topk_accuracy(q, k, mask, 12), own_image_attention(q, k, mask, 12)):
        np.testing.assert_allclose(value.numpy(), 0.25, atol=0.02)


@pytest.mark.parametrize('length,group_size,topk', [(64, 4, 16), (36, 3, 20)])
def test_own_key_accuracy__is_what_blind_queries_that_keep_themselves_get(rng, length, group_size, topk):
    """Random scores, but each patch's own key far above all others."""
    noise = torch.from_numpy(rng.normal(size=(60, 1, length, length)))
    q = noise + 1e3 * torch.eye(length, dtype=torch.float64)  # with keys = unit vectors these are the scores
    k = torch.eye(length, dtype=torch.float64).expand_as(q)
    mask = torch.from_numpy(oracles.random_mask(rng, 60, length, group_size))
    found = topk_accuracy(q, k, mask, topk, num_prefix_tokens=0).item()
    expected = own_key_accuracy(length, group_size, topk)
    assert found == pytest.approx(expected, abs=0.004) and expected > 1 / group_size + 0.01


def test_own_key_accuracy__ends():
    assert own_key_accuracy(64, 4, 1) == 1.0  # nothing but itself
    assert own_key_accuracy(64, 4, 64) == 0.25  # all keys
    assert own_key_accuracy(196, 4, 49) == pytest.approx(0.262, abs=5e-4)


def test_topk_accuracy__heads_are_separate():
    mask = torch.arange(2).repeat(4)[None]
    q = torch.zeros(1, 2, 9, 4)
    q[0, :, 1:, :2] = torch.eye(2)[mask[0]]
    q[0, 1] *= -1
    k = q.abs()
    assert topk_accuracy(q, k, mask, 4).tolist() == [1.0, 0.0]


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_meters__half_precision_selects_on_float32(rng, dtype):
    q, k = (torch.from_numpy(x).to(dtype) for x in rng.normal(size=(2, 2, 2, 13, 8)))
    mask = oracles.random_mask(rng, 2, 12, 3)
    exact = q.double().numpy(), k.double().numpy()
    with torch.autocast('cpu', dtype):
        accuracy = topk_accuracy(q, k, torch.from_numpy(mask), 4)
        share = own_image_attention(q, k, torch.from_numpy(mask), 4)
    np.testing.assert_allclose(accuracy.double().numpy(), oracles.topk_accuracy(*exact, mask, 4), rtol=1e-5)
    np.testing.assert_allclose(share.double().numpy(), oracles.own_image_attention(*exact, mask, 4), rtol=1e-4)


def test_meters__carry_no_gradient(rng):
    q, k = torch.from_numpy(rng.normal(size=(2, 1, 1, 9, 4))).requires_grad_()
    mask = torch.from_numpy(oracles.random_mask(rng, 1, 8, 2))
    assert not topk_accuracy(q, k, mask, 2).requires_grad
    assert not own_image_attention(q, k, mask, 2).requires_grad


Q = torch.zeros(1, 2, 9, 4)
MASK = torch.arange(2).repeat(4)[None]


@pytest.mark.parametrize('meter', [topk_accuracy, own_image_attention])
@pytest.mark.parametrize(
    'mask,topk,options',
    [
        (MASK[:, :7], 2, {}),
        (MASK.expand(2, 8), 2, {}),
        (MASK[0], 2, {}),
        (MASK, 9, {}),
        (MASK, 0, {}),
        (MASK, 2, dict(num_prefix_tokens=0)),
        (MASK, 2, dict(cls='drop')),
        (MASK.float(), 2, {}),
    ],
)
def test_meters__bad_arguments(meter, mask, topk, options):
    with pytest.raises((ValueError, TypeError), match=r'\w+ .*\w'):
        meter(Q, Q, mask, topk, **options)
