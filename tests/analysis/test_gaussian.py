"""Exact mutual information in Gaussian models against Monte Carlo, regression and closed forms."""

import itertools
import math

import numpy as np
import pytest

from mixedae.analysis.gaussian import (
    conditional_information,
    information,
    log_det,
    mixing_information,
    pair_covariance,
    pair_indices,
)

MASK = np.array([0, 1, 1, 0])


def random_covariance(rng, n):
    factor = rng.normal(size=(n, n))
    return factor @ factor.T + 0.3 * np.eye(n)


def log_density(x, cov):
    inverse = np.linalg.inv(cov)
    return -0.5 * np.einsum('ni,ij,nj->n', x, inverse, x) - 0.5 * math.log(np.linalg.det(2 * math.pi * cov))


def test_information__monte_carlo(rng):
    """The definition: the mean of ln p(a, b) - ln p(a) - ln p(b) over samples."""
    cov = random_covariance(rng, 5)
    x = rng.multivariate_normal(np.zeros(5), cov, size=200_000)
    a, b = np.array([0, 3]), np.array([1, 2, 4])
    ratio = log_density(x[:, [0, 3, 1, 2, 4]], cov[np.ix_([0, 3, 1, 2, 4], [0, 3, 1, 2, 4])])
    ratio -= log_density(x[:, a], cov[np.ix_(a, a)]) + log_density(x[:, b], cov[np.ix_(b, b)])
    error = ratio.std() / len(ratio) ** 0.5
    assert information(cov, a, b) == pytest.approx(ratio.mean(), abs=5 * error)
    assert error < 0.01


def test_information__by_regression(rng):
    """I(a; b) = ½ ln |Σ_b| / |Σ_b given a|, the residuals of b's regression on a."""
    cov = random_covariance(rng, 5)
    x = rng.multivariate_normal(np.zeros(5), cov, size=100_000)
    a, b = x[:, :2], x[:, 2:]
    residual = b - a @ np.linalg.lstsq(a, b, rcond=None)[0]
    expected = 0.5 * (np.linalg.slogdet(b.T @ b)[1] - np.linalg.slogdet(residual.T @ residual)[1])
    assert information(cov, np.arange(2), np.arange(2, 5)) == pytest.approx(expected, abs=0.02)


def test_information__two_variables():
    for rho in (-0.9, 0, 0.3, 0.99):
        cov = np.array([[1, rho], [rho, 1]])
        assert information(cov, [0], [1]) == pytest.approx(-0.5 * math.log(1 - rho**2))


def test_conditional_information__chain_rule(rng):
    cov = random_covariance(rng, 6)
    a, b, c = np.array([0, 1]), np.array([2, 3]), np.array([4, 5])
    both = information(cov, a, np.concatenate([b, c]))
    assert both == pytest.approx(information(cov, a, c) + conditional_information(cov, a, b, c))
    assert conditional_information(cov, a, b, c) == pytest.approx(conditional_information(cov, b, a, c))
    assert conditional_information(cov, a, b, c) >= 0


def test_log_det__not_positive_definite():
    assert log_det(np.diag([2.0, 3.0])) == pytest.approx(math.log(6))
    with pytest.raises(ValueError, match='not positive definite'):
        log_det(np.ones((2, 2)))


def test_pair_covariance__entries():
    cov = pair_covariance((2, 3), within=1.5, between=0.4)
    assert cov.shape == (12, 12)
    distance = math.sqrt(1 + 4)  # from row 0, column 0 to row 1, column 2
    assert cov[0, 5] == pytest.approx(math.exp(-distance / 1.5))
    assert cov[0, 6] == pytest.approx(0.4) and cov[0, 11] == pytest.approx(0.4 * math.exp(-distance / 1.5))
    assert np.linalg.eigvalsh(cov).min() > 0
    np.testing.assert_array_equal(pair_covariance((2, 2), within=0), np.eye(8))


def test_pair_indices__channels():
    parts = pair_indices(np.array([0, 1, 0]), channels=2)
    assert parts['visible'].tolist() == [0, 1, 4, 5] and parts['hidden'].tolist() == [2, 3]
    assert parts['other'].tolist() == [8, 9] and parts['image'].tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize('within', [0.0, 2.0])
@pytest.mark.parametrize('target,noise', [('image', 0.1), ('hidden', 0.0), ('hidden', 0.2)])
def test_mixing_information__independent_images_gain_nothing(within, target, noise):
    cov = pair_covariance((2, 2), within, between=0.0)
    values = mixing_information(cov, MASK, noise=noise, target=target)
    assert values['gap'] == pytest.approx(0, abs=1e-12)
    assert values['masked'] > 0 or within == 0


@pytest.mark.parametrize('within', [0.0, 2.0])
@pytest.mark.parametrize('target,noise', [('image', 0.1), ('hidden', 0.0), ('hidden', 0.2)])
def test_mixing_information__dependent_images_gain(within, target, noise):
    gaps = []
    for between in (-0.5, 0.2, 0.5, 0.8, 0.95):
        values = mixing_information(pair_covariance((2, 2), within, between), MASK, noise=noise, target=target)
        gaps.append(values['gap'])
    assert min(gaps) > 1e-3
    assert gaps[1] < gaps[2] < gaps[3] < gaps[4]
    assert gaps[0] == pytest.approx(gaps[2])  # the sign of the correlation does not matter


def test_mixing_information__masking_lowers_and_mixing_raises():
    """Eq 5 in full: seen whole > mixed > masked, and the masked value does not know of the other image."""
    rows = [mixing_information(pair_covariance((2, 2), 2.0, b), MASK, noise=0.1) for b in (0.0, 0.5, 0.9)]
    for row in rows:
        assert row['full'] > row['mixed'] >= row['masked'] - 1e-12
        assert row['masked'] == pytest.approx(rows[0]['masked']) and row['full'] == pytest.approx(rows[0]['full'])
    assert rows[0]['mixed'] == pytest.approx(rows[0]['masked']) and rows[2]['mixed'] > rows[1]['mixed']


def test_mixing_information__closed_form_without_correlation_inside():
    """Patches independent inside: each hidden patch is told -½ ln(1 - ρ²) by its partner, nothing by the others."""
    for between in (0.3, 0.7):
        values = mixing_information(pair_covariance((2, 2), 0.0, between), MASK, target='hidden')
        assert values['masked'] == pytest.approx(0, abs=1e-12)
        assert values['mixed'] == pytest.approx(2 * -0.5 * math.log(1 - between**2))
        noisy = mixing_information(pair_covariance((2, 2), 0.0, between), MASK, noise=0.25)
        assert noisy['masked'] == pytest.approx(2 * 0.5 * math.log(1 + 1 / 0.25))
        assert noisy['gap'] == pytest.approx(2 * -0.5 * math.log(1 - between**2 / 1.25))


def test_mixing_information__gap_is_the_conditional_information():
    """With noise that vanishes, Eq 5's gap is I(X2 hidden; X1 hidden | X1 visible)."""
    cov = pair_covariance((2, 2), 2.0, 0.6)
    parts = pair_indices(MASK)
    limit = conditional_information(cov, parts['other'], parts['hidden'], parts['visible'])
    assert mixing_information(cov, MASK, target='hidden')['gap'] == pytest.approx(limit)
    assert mixing_information(cov, MASK, noise=1e-7)['gap'] == pytest.approx(limit, rel=1e-4)


def test_mixing_information__monte_carlo(rng):
    """Masked and mixed samples drawn and scored by the definition, for every balanced mask of four patches."""
    cov, noise = pair_covariance((2, 2), 1.0, 0.7), 0.3
    x = rng.multivariate_normal(np.zeros(8), cov, size=60_000)
    observed = x + noise**0.5 * rng.normal(size=x.shape)
    for ones in itertools.combinations(range(4), 2):
        mask = np.array([int(i in ones) for i in range(4)])
        exact = mixing_information(cov, mask, noise=noise)
        image = x[:, :4]
        for name, sample in (
            ('masked', observed[:, :4][:, mask == 0]),
            ('mixed', np.where(mask == 0, observed[:, :4], observed[:, 4:])),
        ):
            both = np.concatenate([image, sample], axis=1)
            fitted = [np.cov(part, rowvar=False) for part in (image, sample, both)]
            ratio = log_density(both, fitted[2]) - log_density(image, fitted[0]) - log_density(sample, fitted[1])
            assert exact[name] == pytest.approx(ratio.mean(), abs=6 * ratio.std() / len(ratio) ** 0.5 + 1e-3)


@pytest.mark.parametrize(
    'change,message',
    [
        (dict(noise=0.0), 'noise'),
        (dict(noise=-1.0, target='hidden'), 'noise'),
        (dict(target='all'), 'target'),
        (dict(mask=np.array([0, 1, 2, 0])), 'mask'),
        (dict(mask=np.array([0, 1])), 'covariance of 4'),
    ],
)
def test_mixing_information__bad_arguments(change, message):
    arguments = dict(cov=pair_covariance((2, 2)), mask=MASK, noise=0.1) | change
    with pytest.raises(ValueError, match=message):
        mixing_information(**arguments)


@pytest.mark.parametrize('options', [dict(between=1.0), dict(between=-1.0), dict(within=-1.0)])
def test_pair_covariance__bad_arguments(options):
    with pytest.raises(ValueError, match='must'):
        pair_covariance((2, 2), **options)
