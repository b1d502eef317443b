"""Normalised cuts against dense solvers and planted blocks."""

import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage
import torch

from object_aware.boxes.ncut import affinity, cut, label_components, second_eigenvector


def random_weights(batch, length, seed=0):
    raw = torch.rand(batch, length, length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return raw + raw.transpose(1, 2) + 0.01


def oracle(weights):
    """Second smallest (lambda, y) of (D - W) y = lambda D y by LAPACK's generalised solver, one graph."""
    degree = np.diag(weights.sum(1))
    values, vectors = scipy.linalg.eigh(degree - weights, degree)
    return values[1], vectors[:, 1]


def planted(sizes, strong=1.0, weak=1e-5):
    """One graph of blocks: strong edges inside, weak ones between."""
    block = np.repeat(np.arange(len(sizes)), sizes)
    return torch.from_numpy(np.where(block[:, None] == block[None], strong, weak))[None], block


def test_affinity__is_one_or_eps_by_the_cosine():
    features = torch.tensor([[[1.0, 0.0], [2.0, 0.0], [1.0, 1.0], [-1.0, 0.0], [0.0, 0.0]]])
    expected = torch.full((5, 5), 1e-5, dtype=torch.float64)
    for i, j in ((0, 0), (0, 1), (1, 1), (2, 2), (3, 3), (0, 2), (1, 2)):
        expected[i, j] = expected[j, i] = 1.0
    assert torch.equal(affinity(features, 0.5)[0], expected)
    assert affinity(features, 0.71)[0, 0, 2] == 1e-5  # cos 45 degrees = 0.7071
    with pytest.raises(ValueError, match=r'\(B, L, C\)'):
        affinity(features[0])
    with pytest.raises(ValueError, match='eps must be above 0'):
        affinity(features, eps=0)


def test_affinity__is_exactly_symmetric(generator):
    features = torch.randn(3, 50, 17, generator=generator)
    weights = affinity(features, 0.0)
    assert torch.equal(weights, weights.transpose(1, 2))


@pytest.mark.parametrize('length', [2, 3, 9, 40])
def test_second_eigenvector__equals_the_generalised_solver(length):
    weights = random_weights(4, length)
    y, value = second_eigenvector(weights)
    for graph in range(4):
        expected_value, expected = oracle(weights[graph].numpy())
        assert value[graph] == pytest.approx(expected_value, abs=1e-12)
        expected = expected * np.sign(expected[np.abs(expected).argmax()])
        np.testing.assert_allclose(y[graph], expected, atol=1e-9)  # scipy normalises by y^T D y = 1, too


def test_second_eigenvector__solves_the_equation_and_is_orthogonal_to_the_first():
    weights = random_weights(1, 30, seed=1)
    y, value = second_eigenvector(weights)
    degree = weights.sum(-1)
    left = degree * y - (weights @ y[..., None])[..., 0]
    torch.testing.assert_close(left, value[:, None] * degree * y, atol=1e-10, rtol=0)
    assert abs(float((degree * y).sum())) < 1e-10
    assert float((degree * y * y).sum()) == pytest.approx(1.0)


def test_second_eigenvector__of_active_nodes_is_that_of_the_graph_without_the_others():
    weights = random_weights(3, 20, seed=2)
    active = torch.rand(3, 20, generator=torch.Generator().manual_seed(3)) > 0.4
    y, value = second_eigenvector(weights, active)
    for graph in range(3):
        rows = np.flatnonzero(active[graph])
        expected_value, expected = oracle(weights[graph].numpy()[np.ix_(rows, rows)])
        assert value[graph] == pytest.approx(expected_value, abs=1e-12)
        expected = expected * np.sign(expected[np.abs(expected).argmax()])
        np.testing.assert_allclose(y[graph, rows], expected, atol=1e-9)
        assert (y[graph][~active[graph]] == 0).all()


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_second_eigenvector__separates_nearly_disconnected_blocks(dtype):
    weights, block = planted((11, 25))
    y, value = second_eigenvector(weights, dtype=dtype)
    # lambda of two blocks of a and b nodes: eps (a + b) up to terms of eps squared, here at most 1e-5 * 36 / 11
    assert 0 <= float(value) < 1e-4 or dtype == torch.float32
    small, large = y[0, block == 0], y[0, block == 1]
    assert float(small.std()) < 1e-3 * float(small.mean()) and float(large.std()) < 1e-3 * abs(float(large.mean()))
    assert float(small.mean()) > 0 > float(large.mean())  # the smaller block stands out


def test_cut__finds_the_planted_object_and_then_the_next():
    grid = (8, 8)
    block = np.zeros(grid, dtype=int)
    block[2:5, 1:4], block[4:7, 5:7] = 1, 2
    flat = block.ravel()
    weights = torch.from_numpy(np.where(flat[:, None] == flat[None], 1.0, 1e-5))[None]
    active = torch.ones(1, 64, dtype=torch.bool)
    found = []
    for _ in range(2):
        result = cut(weights, grid, active)
        labels = label_components(result.foreground.view(1, *grid)).view(1, -1)
        own = labels == labels.gather(1, result.seed[:, None])
        found.append(set(flat[own[0].numpy()].tolist()))
        assert (result.foreground == (result.field > 0)).all() and bool(result.foreground[0, result.seed[0]])
        assert own.sum() in (9, 6)
        active &= ~own
    assert found in ([{1}, {2}], [{2}, {1}])


def test_cut__corner_rule_turns_a_frame_around():
    grid = (6, 6)
    frame = np.zeros(grid, dtype=int)
    frame[1:5, 1:5] = 1  # 16 inside, 20 in the frame; make the frame stand out by cutting the inside's weight
    flat = frame.ravel()
    strong = np.where(flat == 1, 2.0, 0.5)[:, None]
    weights = torch.from_numpy(np.where(flat[:, None] == flat[None], strong, 1e-4))[None]
    corners = [0, 5, 30, 35]
    plain, ruled = cut(weights, grid, corner_rule=False), cut(weights, grid)
    assert plain.foreground[0, corners].all()
    assert not ruled.foreground[0, corners].any()
    assert torch.equal(ruled.foreground[0], torch.from_numpy(flat == 1))
    assert torch.equal(ruled.field, -plain.field)
    with pytest.raises(ValueError, match='does not have 36 nodes'):
        cut(weights, (5, 6))


@pytest.mark.parametrize('share', [0.3, 0.55, 0.8])
def test_label_components__equals_scipy(rng, share):
    mask = rng.random((5, 9, 13)) < share
    labels = label_components(torch.from_numpy(mask)).numpy()
    for one, label in zip(mask, labels):
        expected, count = scipy.ndimage.label(one)
        assert len(np.unique(label)) - 1 == count or (count and one.all())
        assert ((label > 0) == one).all()
        for number in range(1, count + 1):
            inside = label[expected == number]
            assert (inside == inside[0]).all() and inside[0] == 1 + np.flatnonzero((expected == number).ravel())[0]


def test_label_components__follows_a_spiral_and_keeps_diagonals_apart():
    spiral = torch.zeros(1, 5, 5, dtype=torch.bool)
    spiral[0, 0, :] = spiral[0, :, 4] = spiral[0, 4, :] = True
    spiral[0, 2:, 0] = spiral[0, 2, :3] = True
    assert label_components(spiral).unique().tolist() == [0, 1]
    assert label_components(torch.eye(3, dtype=torch.bool)[None]).unique().tolist() == [0, 1, 5, 9]
