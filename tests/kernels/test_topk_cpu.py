"""The compiled selection against a sort, on rows that are hard for a search by halving."""

import numpy as np
import pytest
import torch

from mixedae.functional import attention
from mixedae.kernels import topk_cpu

pytestmark = pytest.mark.skipif(not topk_cpu.available(), reason='numba is not installed')


def kept_by_sorting(rows, topk):
    """Stable sort of the negated scores: the K first, the lowest index first among equals."""
    kept = np.zeros(rows.shape, dtype=bool)
    for row, marks in zip(rows, kept):
        marks[sorted(range(len(row)), key=lambda j: (-row[j], j))[:topk]] = True
    return kept


def hard_rows(rng, count, length, dtype):
    """Rows with equal scores, both zeros, infinities, tiny and huge values, and neighbouring floats."""
    tiny, huge = np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max
    special = np.array([0.0, -0.0, np.inf, -np.inf, tiny, -tiny, huge, -huge, 1.0, np.nextafter(dtype(1), dtype(2))])
    rows = rng.standard_normal((count, length)).astype(dtype)
    mixed = rng.random((count, length)) < rng.random((count, 1))
    rows[mixed] = rng.choice(special.astype(dtype), mixed.sum())
    rows[0] = 0.0
    rows[1] = -np.inf
    rows[2] = np.arange(length)[::-1]
    return rows


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
@pytest.mark.parametrize('topk', [1, 2, 7, 22, 23])
def test_keep_topk__hard_rows(dtype, topk):
    rows = hard_rows(np.random.default_rng(topk), 23 * 8, 23, dtype)
    expected = np.where(kept_by_sorting(rows, topk), rows, -np.inf)
    ours = topk_cpu.keep_topk_(torch.from_numpy(rows.reshape(8, 23, 23).copy()), topk, prefix=0)
    np.testing.assert_array_equal(ours.numpy().reshape(-1, 23), expected)


def test_keep_topk__prefix_is_left_alone():
    rows = np.random.default_rng(0).standard_normal((3, 10, 10)).astype(np.float32)
    ours = topk_cpu.keep_topk_(torch.from_numpy(rows.copy()), 3, prefix=2).numpy()
    np.testing.assert_array_equal(ours[:, :2], rows[:, :2])
    np.testing.assert_array_equal(ours[..., :2], rows[..., :2])
    inner = rows[:, 2:, 2:].reshape(-1, 8)
    np.testing.assert_array_equal(ours[:, 2:, 2:].reshape(-1, 8), np.where(kept_by_sorting(inner, 3), inner, -np.inf))


def test_keep_topk__nan_ends():
    rows = torch.full((1, 6, 6), float('nan'))
    assert topk_cpu.keep_topk_(rows, 2, prefix=0).isnan().any()


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_keep_topk__scale_rounds_as_a_product_of_tensors(dtype):
    scores = torch.from_numpy(np.random.default_rng(2).standard_normal((4, 21, 21))).to(dtype)
    scale = 80**-0.5
    scaled = topk_cpu.keep_topk_(scores.clone(), 5, prefix=2, scale=scale)
    assert torch.equal(scaled, topk_cpu.keep_topk_(scores * scale, 5, prefix=2))
    assert torch.equal(scaled[:, :2], scores[:, :2] * scale)


def test_keep_topk__threads_share_the_rows(monkeypatch):
    rows = torch.from_numpy(hard_rows(np.random.default_rng(1), 31 * 7, 31, np.float32)).view(7, 31, 31)
    alone = topk_cpu.keep_topk_(rows.clone(), 5, prefix=1, scale=0.3)
    monkeypatch.setattr(topk_cpu, '_SERIAL', 64)
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 5)
    assert torch.equal(topk_cpu.keep_topk_(rows.clone(), 5, prefix=1, scale=0.3), alone)


def test_fastest_backend__cpu_with_and_without_numba(monkeypatch):
    q = torch.randn(1, 2, 9, 4)
    with_numba = attention.topk_attention(q, q, q, 3)
    assert attention.fastest_backend(q, 3, 1) == 'cpu'
    monkeypatch.setattr(topk_cpu, 'available', lambda: False)
    assert attention.fastest_backend(q, 3, 1) == 'sdpa'
    torch.testing.assert_close(attention.topk_attention(q, q, q, 3), with_numba)
