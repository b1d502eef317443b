"""topk_attention and topk_keep_mask: which keys survive, values and gradients against tests/oracles.py."""

import math

import numpy as np
import oracles
import pytest
import torch
import torch.nn.functional as F

from mixedae.functional import topk_attention, topk_keep_mask
from mixedae.functional.attention import usable_backends

CASES = [  # L, topk, prefix tokens, cls
    (9, 3, 1, 'keep'),
    (9, 1, 1, 'keep'),
    (9, 9, 1, 'keep'),
    (8, 2, 0, 'keep'),
    (10, 4, 2, 'keep'),
    (7, 6, 2, 'keep'),
    (9, 3, 1, 'compete'),
    (9, 10, 1, 'compete'),
    (8, 2, 0, 'compete'),
    (10, 4, 2, 'compete'),
    (6, 1, 1, 'compete'),
]


def random_qkv(rng, length, prefix, batch=2, heads=2, dim=4):
    return [rng.normal(size=(batch, heads, prefix + length, dim)) for _ in range(3)]


def tensors(arrays, dtype=torch.float64):
    return [torch.from_numpy(np.ascontiguousarray(a)).to(dtype) for a in arrays]


def integer_qk(rng, batch, heads, n, dim=4, high=2):
    """Small integers: scores are exact in every precision and full of ties (d = 4, so the scale is exactly 1/2)."""
    q, k = (rng.integers(-high, high + 1, size=(batch, heads, n, dim)).astype(np.float64) for _ in range(2))
    return q, k


def kept_by_output(q, k, topk, backend, **kwargs):
    """Which keys really reach the output: with v = identity the output is the attention matrix. Needs d >= N."""
    n, dim = q.shape[2:]
    v = torch.eye(n, dim, dtype=q.dtype).expand(*q.shape[:2], n, dim)
    return topk_attention(q, k, v, topk, backend=backend, **kwargs)[..., :n] > 0


@pytest.mark.parametrize('length,topk,prefix,cls', CASES)
def test_topk_keep_mask__oracle(rng, length, topk, prefix, cls):
    q, k, _ = random_qkv(rng, length, prefix)
    expected = oracles.kept_keys(oracles.attention_scores(q, k), topk, prefix, cls)
    ours = topk_keep_mask(*tensors([q, k]), topk, num_prefix_tokens=prefix, cls=cls)
    assert ours.dtype == torch.bool
    np.testing.assert_array_equal(ours.numpy(), expected)
    if cls == 'keep':
        assert (ours[:, :, prefix:, prefix:].sum(-1) == topk).all() and ours[..., :prefix].all()
        assert ours[:, :, :prefix].all()
    else:
        assert (ours.sum(-1) == topk).all()


@pytest.mark.parametrize('length,topk,prefix,cls', CASES)
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_topk_keep_mask__ties_go_to_the_lowest_index(rng, length, topk, prefix, cls, dtype):
    q, k = integer_qk(rng, 3, 2, prefix + length)
    scores = oracles.attention_scores(q, k)
    flat = [len(set(row)) < len(row) for row in scores.reshape(-1, scores.shape[-1])]
    assert np.mean(flat) > 0.5  # the case is about ties
    expected = oracles.kept_keys(scores, topk, prefix, cls)
    ours = topk_keep_mask(*tensors([q, k], dtype), topk, num_prefix_tokens=prefix, cls=cls)
    np.testing.assert_array_equal(ours.numpy(), expected)


@pytest.mark.parametrize('length', [8, 33, 196, 300])  # sorting algorithms change with the length
def test_topk_keep_mask__all_equal_scores(length):
    q = k = torch.zeros(1, 2, 1 + length, 4)
    topk = length // 4
    ours = topk_keep_mask(q, k, topk)
    assert ours[:, :, 1:, 1 : 1 + topk].all() and not ours[:, :, 1:, 1 + topk :].any()
    compete = topk_keep_mask(q, k, topk, cls='compete')
    assert compete[..., :topk].all() and not compete[..., topk:].any()


def test_topk_keep_mask__long_rows_with_ties(rng):
    q, k = integer_qk(rng, 1, 1, 197, high=1)
    expected = oracles.kept_keys(oracles.attention_scores(q, k), 49, 1, 'keep')
    np.testing.assert_array_equal(topk_keep_mask(*tensors([q, k], torch.float32), 49).numpy(), expected)


def test_topk_keep_mask__signed_zero_is_a_tie():
    q = torch.tensor([[1.0, 0.0]]).expand(1, 1, 4, 2)
    k = torch.tensor([[-0.0, 0.0], [0.0, 0.0], [-0.0, 0.0], [0.0, 0.0]])[None, None]
    assert topk_keep_mask(q, k, 2, num_prefix_tokens=0)[0, 0, 0].tolist() == [True, True, False, False]


@pytest.mark.parametrize('cls', ['keep', 'compete'])
@pytest.mark.parametrize('backend', usable_backends(torch.empty(1, 1, 2, 2)) + ('auto',))
def test_topk_attention__minus_infinite_scores(rng, backend, cls):
    """Keys at -inf lose to finite ones, fill up to K when too few are finite, and weigh nothing."""
    q, k, v = random_qkv(rng, 8, 1, batch=1)
    q[..., 0] = np.abs(q[..., 0]) + 0.1
    for gone in ([3, 5], [1, 2, 3, 4, 5, 6], list(range(1, 9))):
        bad = k.copy()
        bad[:, :, gone, 0] = -np.inf
        with np.errstate(invalid='ignore'):
            keep = oracles.kept_keys(oracles.attention_scores(q, bad), 4, 1, cls)
            expected = oracles.topk_attention(q, bad, v, 4, cls=cls, keep=keep)
        kept = topk_keep_mask(*tensors([q, bad]), 4, cls=cls)
        np.testing.assert_array_equal(kept.numpy(), keep)
        ours = topk_attention(*tensors([q, bad, v]), 4, cls=cls, backend=backend)
        np.testing.assert_allclose(ours.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize('length,topk,prefix,cls', CASES)
@pytest.mark.parametrize('backend', usable_backends(torch.empty(1, 1, 2, 2)) + ('auto',))
def test_topk_attention__values_and_gradients(rng, length, topk, prefix, cls, backend):
    arrays = random_qkv(rng, length, prefix)
    upstream = rng.normal(size=arrays[0].shape)
    options = dict(num_prefix_tokens=prefix, cls=cls)
    q, k, v = (t.requires_grad_() for t in tensors(arrays))
    out = topk_attention(q, k, v, topk, backend=backend, **options)
    np.testing.assert_allclose(out.detach().numpy(), oracles.topk_attention(*arrays, topk, **options), atol=1e-12)
    out.backward(torch.from_numpy(upstream))
    for ours, expected in zip((q, k, v), oracles.topk_attention_grad(*arrays, upstream, topk, **options)):
        np.testing.assert_allclose(ours.grad.numpy(), expected, atol=1e-11)


def test_oracle__hand_gradient_agrees_with_finite_differences(rng):
    """The oracle's derivation is itself checked, with the selection held fixed."""
    q, k, v = random_qkv(rng, 5, 1, batch=1, heads=1, dim=2)
    upstream = rng.normal(size=q.shape)
    keep = oracles.kept_keys(oracles.attention_scores(q, k), 2, 1, 'keep')

    def value(**changed):
        return float((oracles.topk_attention(**(dict(q=q, k=k, v=v) | changed), topk=2, keep=keep) * upstream).sum())

    for name, grad in zip('qkv', oracles.topk_attention_grad(q, k, v, upstream, 2)):
        numeric = oracles.finite_difference(lambda x, n=name: value(**{n: x}), dict(q=q, k=k, v=v)[name])
        np.testing.assert_allclose(grad, numeric, atol=1e-8)


@pytest.mark.parametrize('cls', ['keep', 'compete'])
@pytest.mark.parametrize('backend', usable_backends(torch.empty(1, 1, 2, 2)) + ('auto',))
def test_topk_attention__gradcheck(rng, backend, cls):
    q, k, v = (t.requires_grad_() for t in tensors(random_qkv(rng, 6, 1, batch=1, dim=2)))
    assert torch.autograd.gradcheck(lambda *x: topk_attention(*x, 2, cls=cls, backend=backend), (q, k, v))


@pytest.mark.parametrize('backend', usable_backends(torch.empty(1, 1, 2, 2)) + ('auto',))
def test_topk_attention__dropped_keys_have_no_gradient(rng, backend):
    q, k, v = (t.requires_grad_() for t in tensors(random_qkv(rng, 8, 1, batch=1, heads=1)))
    keep = topk_keep_mask(q, k, 2)[0, 0, 4]
    out = topk_attention(q, k, v, 2, backend=backend)
    for grad in torch.autograd.grad(out[0, 0, 4].sum(), (k, v)):
        assert (grad[0, 0][~keep] == 0).all() and (grad[0, 0][keep] != 0).all()


@pytest.mark.parametrize('prefix,cls', [(0, 'keep'), (1, 'keep'), (2, 'keep'), (1, 'compete')])
@pytest.mark.parametrize('backend', usable_backends(torch.empty(1, 1, 2, 2)) + ('auto',))
def test_topk_attention__all_keys_is_plain_attention(rng, prefix, cls, backend):
    q, k, v = (t.requires_grad_() for t in tensors(random_qkv(rng, 9, prefix)))
    topk = 9 + (prefix if cls == 'compete' else 0)
    ours = topk_attention(q, k, v, topk, num_prefix_tokens=prefix, cls=cls, backend=backend)
    plain = F.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(ours, plain)
    upstream = torch.from_numpy(rng.normal(size=ours.shape))
    for a, b in zip(torch.autograd.grad(ours, (q, k, v), upstream), torch.autograd.grad(plain, (q, k, v), upstream)):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('backend', usable_backends(torch.empty(1, 1, 2, 2)) + ('auto',))
def test_topk_attention__scale(rng, backend):
    arrays = random_qkv(rng, 6, 1, batch=1)
    ours = topk_attention(*tensors(arrays), 2, scale=2.5, backend=backend)
    np.testing.assert_allclose(ours.numpy(), oracles.topk_attention(*arrays, 2, scale=2.5), atol=1e-12)


@pytest.mark.parametrize('cls', ['keep', 'compete'])
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize('backend', usable_backends(torch.empty(1, 1, 2, 2)) + ('auto',))
def test_topk_attention__every_backend_keeps_the_same_keys(rng, backend, cls, dtype):
    """Bit for bit, on ties and on random scores: read off the output, not off the helper."""
    n, dim = 13, 16
    q, k = integer_qk(rng, 2, 2, n, dim, high=1)
    random = [rng.normal(size=(2, 2, n, dim)) for _ in range(2)]
    for pair in ((q, k), random):
        a, b = tensors(pair, dtype)
        expected = topk_keep_mask(a, b, 5, cls=cls)
        assert torch.equal(kept_by_output(a, b, 5, backend, cls=cls), expected)


@pytest.mark.parametrize('dim', [8, 32, 80])  # d ** -0.5 is no power of two
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize('backend', usable_backends(torch.empty(1, 1, 2, 2)) + ('auto',))
def test_topk_attention__ties_under_the_default_scale(rng, backend, dtype, dim):
    """Whole q and k have exact products; scaling afterwards leaves equal ones equal."""
    q, k = integer_qk(rng, 2, 2, 33, dim)
    q, k = tensors([q, k], dtype)
    products = oracles.attention_scores(q.double().numpy(), k.double().numpy(), scale=1.0)
    keep = oracles.kept_keys(products, 8, 1, 'keep')
    np.testing.assert_array_equal(topk_keep_mask(q, k, 8).numpy(), keep)
    weights = topk_attention(q, k, torch.eye(33, dtype=dtype).expand(2, 2, 33, 33), 8, backend=backend)
    np.testing.assert_array_equal((weights > 0).numpy(), keep)


@pytest.mark.parametrize('dtype,unit', [(torch.bfloat16, 16.0), (torch.float16, 64.0)])
@pytest.mark.parametrize('stored,autocast', [('half', True), ('half', False), ('float32', True)])
@pytest.mark.parametrize('backend', usable_backends(torch.empty(1, 1, 2, 2)) + ('auto',))
def test_topk_attention__selects_on_float32_scores(backend, autocast, stored, dtype, unit):
    """Scores unit² + j/4 (halved by the scale) round to one value in half precision: rounding first would keep the
    lowest keys, float32 keeps the highest."""
    n, dim, topk = 9, 16, 3
    q, k = torch.zeros(1, 1, n, dim), torch.zeros(1, 1, n, dim)
    q[..., 0], q[..., 1], k[..., 0] = unit, 1.0, unit
    k[..., 1] = torch.arange(n) / 4
    low = q.to(dtype) @ k.to(dtype).transpose(-2, -1)
    assert low.unique().numel() < n / 2  # half precision cannot tell the keys apart
    if stored == 'half':
        q, k = q.to(dtype), k.to(dtype)
        assert torch.equal(k.float()[0, 0, :, 1], torch.arange(n) / 4)  # nothing lost before the product
    with torch.autocast('cpu', dtype, enabled=autocast):
        keep = topk_keep_mask(q, k, topk, num_prefix_tokens=0)
        used = kept_by_output(q, k, topk, backend, num_prefix_tokens=0)
    expected = torch.arange(n) >= n - topk
    assert torch.equal(keep, expected.expand(1, 1, n, n))
    assert torch.equal(used, keep)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize('backend', usable_backends(torch.empty(1, 1, 2, 2)) + ('auto',))
def test_topk_attention__low_precision_values_and_gradients(rng, backend, dtype):
    arrays = random_qkv(rng, 9, 1)
    q, k, v = (t.requires_grad_() for t in tensors(arrays, dtype))
    exact = [t.detach().double().numpy() for t in (q, k, v)]
    upstream = torch.from_numpy(rng.normal(size=arrays[0].shape)).to(dtype)
    with torch.autocast('cpu', dtype if dtype != torch.float32 else torch.bfloat16, enabled=dtype != torch.float32):
        out = topk_attention(q, k, v, 3, backend=backend)
    assert out.dtype == dtype and out.shape == q.shape
    tolerance = dict(atol=4 * torch.finfo(dtype).eps)
    np.testing.assert_allclose(out.detach().double().numpy(), oracles.topk_attention(*exact, 3), **tolerance)
    out.backward(upstream)
    for ours, expected in zip((q, k, v), oracles.topk_attention_grad(*exact, upstream.double().numpy(), 3)):
        size = np.abs(expected).max()
        np.testing.assert_allclose(ours.grad.double().numpy() / size, expected / size, atol=6 * torch.finfo(dtype).eps)


@pytest.mark.parametrize('backend', usable_backends(torch.empty(1, 1, 2, 2)) + ('auto',))
def test_topk_attention__large_scores_stay_finite(backend):
    q = torch.full((1, 1, 5, 4), 200.0)
    k = torch.full((1, 1, 5, 4), 200.0) * torch.tensor([1, 1, -1, 1, -1.0])[:, None]
    v = torch.arange(20.0).view(1, 1, 5, 4)
    q.requires_grad_()
    out = topk_attention(q, k, v, 2, backend=backend)
    torch.testing.assert_close(out[0, 0, 1], (v[0, 0, 0] + v[0, 0, 1] + v[0, 0, 3]) / 3)
    assert torch.autograd.grad(out.sum(), q)[0].isfinite().all()


@pytest.mark.parametrize('backend', usable_backends(torch.empty(1, 1, 2, 2)) + ('auto',))
def test_topk_attention__non_contiguous(rng, backend):
    packed = torch.from_numpy(rng.normal(size=(2, 10, 3, 2, 4)))  # (B, N, 3, H, d), as the qkv layer gives it
    q, k, v = packed.permute(2, 0, 3, 1, 4).unbind(0)
    assert not q.is_contiguous()
    expected = oracles.topk_attention(q.numpy(), k.numpy(), v.numpy(), 3)
    np.testing.assert_allclose(topk_attention(q, k, v, 3, backend=backend).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize('backend', usable_backends(torch.empty(1, 1, 2, 2)) + ('auto',))
def test_topk_attention__permuting_patches_permutes_the_output(rng, backend):
    q, k, v = tensors(random_qkv(rng, 9, 1))
    order = torch.cat([torch.tensor([0]), 1 + torch.from_numpy(rng.permutation(9))])
    straight = topk_attention(q, k, v, 3, backend=backend)
    permuted = topk_attention(q[:, :, order], k[:, :, order], v[:, :, order], 3, backend=backend)
    torch.testing.assert_close(permuted, straight[:, :, order])


def test_topk_attention__selection_is_per_head_and_per_query(rng):
    q, k, _ = tensors(random_qkv(rng, 12, 1))
    keep = topk_keep_mask(q, k, 3)[:, :, 1:, 1:]
    assert not torch.equal(keep[:, 0], keep[:, 1])
    assert not torch.equal(keep[:, :, 0], keep[:, :, 1])
    alone = topk_keep_mask(q[1:, 1:], k[1:, 1:], 3)[:, :, 1:, 1:]
    assert torch.equal(alone, keep[1:, 1:])


QKV = torch.zeros(1, 2, 9, 4)


@pytest.mark.parametrize(
    'topk,options',
    [
        (9, {}),
        (0, {}),
        (-1, {}),
        (10, dict(cls='compete')),
        (8, dict(num_prefix_tokens=2)),
        (3, dict(cls='drop')),
        (3, dict(num_prefix_tokens=-1)),
        (3, dict(num_prefix_tokens=9)),
    ],
)
def test_topk_attention__bad_options(topk, options):
    with pytest.raises(ValueError, match=r'\w+ .*\w'):
        topk_attention(QKV, QKV, QKV, topk, **options)
    with pytest.raises(ValueError, match=r'\w+ .*\w'):
        topk_keep_mask(QKV, QKV, topk, **options)


def test_topk_attention__unknown_backend():
    with pytest.raises(ValueError, match='cuda_magic'):
        topk_attention(QKV, QKV, QKV, 3, backend='cuda_magic')


@pytest.mark.parametrize(
    'q,k,v',
    [
        (QKV[0], QKV[0], QKV[0]),
        (QKV, QKV[:, :, :5], QKV[:, :, :5]),
        (QKV, QKV[..., :2], QKV),
        (QKV, QKV, QKV[:, :, :5]),
        (QKV, QKV[:, :1], QKV),
    ],
)
def test_topk_attention__bad_shapes(q, k, v):
    with pytest.raises(ValueError, match=r'\w+ .*\w'):
        topk_attention(q, k, v, 2)


def test_topk_attention__default_scale_is_inverse_root_of_head_width(rng):
    q, k, v = tensors(random_qkv(rng, 6, 1, dim=9))
    torch.testing.assert_close(topk_attention(q, k, v, 2), topk_attention(q, k, v, 2, scale=1 / math.sqrt(9)))
