"""The estimator on data whose truth is known, the windows of pairs, and the command line."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mixedae.analysis.gaussian import mixing_information, pair_covariance
from mixedae.analysis.mutual_information import (
    PAIR_KINDS,
    crop_pairs,
    estimate_mixing,
    log_density,
    pair_windows,
    patch_features,
    shrunk_covariance,
)
from mixedae.functional import draw_mixing_mask

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tools.analysis import mutual_information as tool


def gaussian_pairs(rng, count, between):
    """(first, second) of (count, 4, 1) drawn from the Gaussian model, and the model's covariance."""
    cov = pair_covariance((2, 2), 2.0, between)
    x = rng.multivariate_normal(np.zeros(8), cov, size=count)
    return x[:, :4, None], x[:, 4:, None], cov


@pytest.mark.parametrize('between', [0.0, 0.6])
def test_estimate_mixing__recovers_the_gaussian_model(rng, between):
    first, second, cov = gaussian_pairs(rng, 8000, between)
    result = estimate_mixing(first, second, np.arange(8000) // 2, masks=6)
    masks = draw_mixing_mask(6, 4, 2, generator=torch.Generator().manual_seed(0)).numpy()  # those that it draws
    truth = {k: np.mean([mixing_information(cov, m, target='hidden')[k] for m in masks]) / 2 for k in ('masked', 'gap')}
    assert result['masked'] == pytest.approx(truth['masked'], abs=0.02)
    assert result['gap'] == pytest.approx(truth['gap'], abs=0.02)
    assert result['held_out_gap'] == pytest.approx(result['gap'], abs=0.02)
    assert result['shrinkage'] < 0.01
    if between:
        assert result['held_out_gap'] > 10 * result['held_out_gap_error']
    else:
        assert abs(result['held_out_gap']) < 4 * result['held_out_gap_error'] + 2e-3
    assert result['mixed'] == pytest.approx(result['masked'] + result['gap'])


def test_estimate_mixing__plug_in_is_too_high_and_held_out_is_not(rng):
    """Independent pairs, few samples: the fitted value invents information, the held-out one does not."""
    results = [estimate_mixing(*gaussian_pairs(rng, 60, 0.0)[:2], np.arange(60), masks=3) for _ in range(20)]
    fitted, held_out = (np.array([r[key] for r in results]) for key in ('gap', 'held_out_gap'))
    assert fitted.min() > 0 and fitted.mean() > 5 * fitted.std() / 20**0.5
    assert held_out.mean() < 2 * held_out.std() / 20**0.5


def test_estimate_mixing__bad_arguments(rng):
    first, second, _ = gaussian_pairs(rng, 10, 0.0)
    with pytest.raises(ValueError, match='folds need'):
        estimate_mixing(first, second, np.zeros(10, int))
    with pytest.raises(ValueError, match='do not fit'):
        estimate_mixing(first, second[:5], np.arange(10))


def test_shrunk_covariance__formula_of_ledoit_and_wolf(rng):
    x = rng.normal(size=(30, 4)) @ rng.normal(size=(4, 4))
    cov, shrinkage = shrunk_covariance(x)
    z = (x - x.mean(0)) / x.std(0)
    sample = sum(np.outer(row, row) for row in z) / 30
    mu = np.trace(sample) / 4
    d2 = ((sample - mu * np.eye(4)) ** 2).sum()
    b2 = sum(((np.outer(row, row) - sample) ** 2).sum() for row in z) / 30**2
    assert shrinkage == pytest.approx(min(b2, d2) / d2)
    expected = (1 - shrinkage) * sample + shrinkage * mu * np.eye(4)
    np.testing.assert_allclose(cov, expected * np.outer(x.std(0), x.std(0)))


def test_shrunk_covariance__more_values_than_samples(rng):
    cov, shrinkage = shrunk_covariance(rng.normal(size=(10, 40)))
    assert np.linalg.eigvalsh(cov).min() > 0 and 0.3 < shrinkage <= 1
    with pytest.raises(ValueError, match='does not vary'):
        shrunk_covariance(np.ones((5, 2)))


def test_log_density__one_dimension():
    x = np.array([[0.0], [2.0]])
    expected = -0.5 * np.array([0.0, 4.0]) / 4 - 0.5 * np.log(2 * np.pi * 4)
    np.testing.assert_allclose(log_density(x, np.array([[4.0]])), expected)


@pytest.mark.parametrize('size', [(100, 100), (640, 480), (50, 300)])
def test_pair_windows__geometry(rng, size):
    for _ in range(200):
        windows = pair_windows(size, rng, share=0.4, shift=0.25)
        side = 0.4 * min(size)
        for window in windows.values():
            np.testing.assert_allclose(window[2:] - window[:2], side)
            assert (window[:2] > -1e-9).all() and (window[2:] < np.array(size) + 1e-9).all()
        first, apart, moved = windows['first'], windows['apart'], windows['overlapping']
        inside = np.minimum(first[2:], apart[2:]) - np.maximum(first[:2], apart[:2])
        assert inside.min() < 1e-9  # no common area
        assert (np.abs(moved[:2] - first[:2]) <= 0.25 * side + 1e-9).all()


def write_scenes(folder, count, rng, size=(60, 48)):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        coarse = rng.integers(0, 256, size=(4, 5, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize(size, Image.Resampling.BILINEAR)
        noise = np.asarray(picture).astype(int) + rng.integers(-8, 9, size=(size[1], size[0], 3))
        Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(folder / f'{i:03d}.png')
    return sorted(folder.iterdir())


def test_crop_pairs__partners(tmp_path, rng):
    paths = write_scenes(tmp_path, 3, rng)
    pairs = crop_pairs(paths, size=16, per_scene=2, seed=1)
    assert pairs['scene'].tolist() == [0, 0, 1, 1, 2, 2]
    assert all(pairs[k].shape == (6, 3, 16, 16) and pairs[k].dtype == np.uint8 for k in ('first', *PAIR_KINDS))
    np.testing.assert_array_equal(pairs['different scenes'][2], pairs['first'][0])
    again = crop_pairs(paths, size=16, per_scene=2, seed=1)
    assert all(np.array_equal(pairs[k], again[k]) for k in pairs)
    with pytest.raises(ValueError, match='at least 2'):
        crop_pairs(paths[:1])


def test_patch_features__is_a_pca(rng):
    crops = rng.integers(0, 256, size=(50, 3, 8, 8), dtype=np.uint8)
    (features,), kept = patch_features([crops], 4, 5)
    assert features.shape == (50, 4, 5) and 0 < kept < 1
    flat = features.reshape(-1, 5)
    np.testing.assert_allclose(np.cov(flat, rowvar=False), np.eye(5), atol=1e-9)
    (full,), everything = patch_features([crops], 4, 48)
    assert everything == pytest.approx(1) and full.shape == (50, 4, 48)
    with pytest.raises(ValueError, match='cannot be kept'):
        patch_features([crops], 4, 49)
    with pytest.raises(ValueError, match='fewer components'):
        patch_features([np.full((5, 3, 8, 8), 7, np.uint8)], 4, 2)


def test_mutual_information_tool(tmp_path, rng, capsys):
    write_scenes(tmp_path / 'images', 40, rng)
    out = tmp_path / 'out'
    options = ['--grid', '2', '--patch-size', '4', '--components', '2', '--per-scene', '4', '--masks', '4']
    assert tool.main(['--images', str(tmp_path / 'images'), '--out', str(out), *options]) == 0
    assert (out / 'gaussian.png').stat().st_size > 2000 and (out / 'patches.png').stat().st_size > 2000
    numbers = json.loads((out / 'mutual_information.json').read_text())
    rows = numbers['exact']['rows']
    assert rows[0]['gap'] == pytest.approx(0, abs=1e-9) and rows[10]['gap'] > 0.1
    results = numbers['patches']['results']
    assert set(results) == set(PAIR_KINDS) and len(numbers['limits']) >= 4
    assert results['one scene, overlapping']['gap'] > results['different scenes']['gap'] + 0.05
    assert numbers['patches']['pairs'] == 160
    assert 'unseen scenes' in capsys.readouterr().out


def test_mutual_information_tool__bad_input(tmp_path, capsys):
    assert tool.main(['--images', str(tmp_path / 'none'), '--out', str(tmp_path / 'out')]) == 2
    assert capsys.readouterr().err.startswith('error: Image folder')
    assert tool.main(['--grid', '3', '--out', str(tmp_path / 'out')]) == 2
    assert 'error: 9 patches' in capsys.readouterr().err
