"""The two losses: values, gradients and known values against tests/oracles.py."""

import math

import numpy as np
import oracles
import pytest
import torch

from mixedae.functional import homologous_contrastive_loss, normalize_patches, patchify, reconstruction_loss

RATIOS = [(2, 8), (3, 12), (4, 8), (4, 20), (7, 14)]  # g, L


def simplex_features(mask: torch.Tensor, group_size: int) -> torch.Tensor:
    """Perfect clusters: each image's patches coincide, the images' directions form a regular simplex. (G, L, g)."""
    corners = torch.eye(group_size, dtype=torch.float64) - 1 / group_size
    return corners[mask]


# ------------------------------------------------------------------------------------------------------- contrastive
@pytest.mark.parametrize('positives', ['separate', 'averaged'])
@pytest.mark.parametrize('temperature', [0.25, 1.0])
@pytest.mark.parametrize('group_size,length', RATIOS)
def test_contrastive__oracle(rng, group_size, length, temperature, positives):
    features = rng.normal(size=(3, length, 6))
    mask = oracles.random_mask(rng, 3, length, group_size)
    ours = homologous_contrastive_loss(
        torch.from_numpy(features), torch.from_numpy(mask), temperature=temperature, positives=positives
    )
    assert ours.shape == ()
    assert ours.item() == pytest.approx(oracles.contrastive_loss(features, mask, temperature, positives), rel=1e-12)


@pytest.mark.parametrize('positives', ['separate', 'averaged'])
def test_contrastive__gradient(rng, positives):
    features = rng.normal(size=(2, 6, 3))
    mask = oracles.random_mask(rng, 2, 6, 3)
    x = torch.from_numpy(features).requires_grad_()
    homologous_contrastive_loss(x, torch.from_numpy(mask), positives=positives).backward()
    numeric = oracles.finite_difference(lambda f: oracles.contrastive_loss(f, mask, positives=positives), features)
    np.testing.assert_allclose(x.grad.numpy(), numeric, atol=1e-8)
    assert torch.autograd.gradcheck(
        lambda f: homologous_contrastive_loss(f, torch.from_numpy(mask), positives=positives), x
    )


@pytest.mark.parametrize('positives', ['separate', 'averaged'])
def test_contrastive__equal_features_give_log_of_the_others(positives):
    mask = torch.arange(4).repeat(49)[None]
    loss = homologous_contrastive_loss(torch.ones(1, 196, 8).double(), mask, positives=positives)
    assert loss.item() == pytest.approx(math.log(195), rel=1e-12)


def test_contrastive__random_features_start_near_log_of_the_others(generator):
    """METHOD: with random features the loss starts near ln(L-1); the spread of the cosines adds about 1/(2 D τ²)."""
    mask = torch.arange(4).repeat(49)[None].expand(8, -1)
    wide = homologous_contrastive_loss(torch.randn(8, 196, 4096, generator=generator), mask)
    assert wide.item() == pytest.approx(math.log(195), abs=0.01)
    usual = homologous_contrastive_loss(torch.randn(8, 196, 128, generator=generator), mask)
    assert usual.item() == pytest.approx(math.log(195) + 1 / (2 * 128 * 0.25**2), abs=0.02)


@pytest.mark.parametrize('positives', ['separate', 'averaged'])
@pytest.mark.parametrize(
    'group_size,length,temperature', [(2, 196, 0.25), (4, 196, 0.25), (7, 196, 0.25), (3, 12, 0.5)]
)
def test_contrastive__perfect_clusters_give_the_minimum(rng, group_size, length, temperature, positives):
    mask = torch.from_numpy(oracles.random_mask(rng, 2, length, group_size))
    loss = homologous_contrastive_loss(simplex_features(mask, group_size), mask, temperature, positives)
    floor = oracles.contrastive_minimum(length, group_size, temperature)
    assert loss.item() == pytest.approx(floor, rel=1e-12)
    if group_size == 2:  # opposite directions: ln[(rL - 1) + (1 - r) L e^(-2/τ)]
        assert floor == pytest.approx(math.log(97 + 98 * math.exp(-2 / 0.25)), rel=1e-12)
    if (group_size, length) == (4, 196):
        assert floor == pytest.approx(math.log(48 + 147 * math.exp(-16 / 3)), rel=1e-12)
        assert 3.87 < floor < 3.89  # "about ln(rL)"


def test_contrastive__nothing_falls_below_the_minimum(rng):
    """Gradient descent from noise runs down to the closed-form minimum and not through it."""
    mask = torch.from_numpy(oracles.random_mask(rng, 1, 12, 3))
    x = torch.from_numpy(rng.normal(size=(1, 12, 5))).requires_grad_()
    optimizer = torch.optim.Adam([x], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        loss = homologous_contrastive_loss(x, mask)
        loss.backward()
        optimizer.step()
        assert loss.item() > oracles.contrastive_minimum(12, 3) - 1e-9
    assert loss.item() == pytest.approx(oracles.contrastive_minimum(12, 3), abs=1e-3)


def test_contrastive__separate_is_never_below_averaged(rng):
    """Jensen: the mean of the logs is at most the log of the mean."""
    features = torch.from_numpy(rng.normal(size=(4, 12, 5)))
    mask = torch.from_numpy(oracles.random_mask(rng, 4, 12, 3))
    separate, averaged = (homologous_contrastive_loss(features, mask, positives=p) for p in ('separate', 'averaged'))
    assert separate > averaged


def test_contrastive__invariances(rng):
    features = torch.from_numpy(rng.normal(size=(2, 12, 5)))
    mask = torch.from_numpy(oracles.random_mask(rng, 2, 12, 4))
    loss = homologous_contrastive_loss(features, mask)
    order = torch.from_numpy(rng.permutation(12))
    relabel = torch.tensor([2, 0, 3, 1])
    scaled = features * torch.from_numpy(rng.uniform(0.5, 3, size=(2, 12, 1)))
    torch.testing.assert_close(homologous_contrastive_loss(features[:, order], mask[:, order]), loss)
    torch.testing.assert_close(homologous_contrastive_loss(features, relabel[mask]), loss)
    torch.testing.assert_close(homologous_contrastive_loss(scaled, mask), loss)  # features are normalised inside


def test_contrastive__samples_do_not_meet(rng):
    """No negatives from another mixed sample: the batch value is the mean, the gradient stays at home."""
    features = torch.from_numpy(rng.normal(size=(3, 12, 5))).requires_grad_()
    mask = torch.from_numpy(oracles.random_mask(rng, 3, 12, 4))
    alone = [homologous_contrastive_loss(features[i : i + 1], mask[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(homologous_contrastive_loss(features, mask), sum(alone) / 3)
    (grad,) = torch.autograd.grad(alone[0], features)
    assert (grad[1:] == 0).all() and (grad[0] != 0).any()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('autocast', [True, False])
def test_contrastive__half_precision_is_computed_in_float32(rng, dtype, autocast):
    features = torch.from_numpy(rng.normal(size=(2, 48, 16))).to(dtype).requires_grad_()
    mask = oracles.random_mask(rng, 2, 48, 4)
    with torch.autocast('cpu', dtype, enabled=autocast):
        loss = homologous_contrastive_loss(features, torch.from_numpy(mask))
    expected = oracles.contrastive_loss(features.detach().double().numpy(), mask)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert features.grad.isfinite().all() and features.grad.any()


def test_contrastive__autocast_of_float32_features(rng):
    features = torch.from_numpy(rng.normal(size=(2, 48, 16))).float()
    mask = torch.from_numpy(oracles.random_mask(rng, 2, 48, 4))
    plain = homologous_contrastive_loss(features, mask)
    with torch.autocast('cpu', torch.bfloat16):
        torch.testing.assert_close(homologous_contrastive_loss(features, mask), plain, rtol=1e-6, atol=1e-6)


def test_contrastive__zero_feature_is_finite():
    features = torch.zeros(1, 8, 4, requires_grad=True)
    loss = homologous_contrastive_loss(features, torch.arange(2).repeat(4)[None])
    loss.backward()
    assert loss.isfinite() and features.grad.isfinite().all()


def test_contrastive__non_contiguous(rng):
    features = torch.from_numpy(rng.normal(size=(2, 5, 12))).transpose(1, 2)
    mask = torch.from_numpy(oracles.random_mask(rng, 12, 2, 2)).t()[:, :].contiguous().t()
    mask = torch.from_numpy(oracles.random_mask(rng, 2, 12, 4).T.copy()).t()
    assert not mask.is_contiguous() and not features.is_contiguous()
    expected = oracles.contrastive_loss(features.numpy(), mask.numpy())
    assert homologous_contrastive_loss(features, mask).item() == pytest.approx(expected)


MASK = torch.tensor([[0, 0, 1, 1]])


@pytest.mark.parametrize(
    'features,mask,options',
    [
        (torch.randn(1, 4, 3), MASK[:, :3], {}),
        (torch.randn(2, 4, 3), MASK, {}),
        (torch.randn(1, 4, 3), MASK.float(), {}),
        (torch.randn(4, 3), MASK, {}),
        (torch.randn(1, 4, 3), MASK, dict(temperature=0.0)),
        (torch.randn(1, 4, 3), MASK, dict(temperature=-1.0)),
        (torch.randn(1, 4, 3), MASK, dict(positives='best')),
        (torch.randn(1, 4, 3), torch.arange(4)[None], {}),  # r·L = 1: no patch has a positive
    ],
)
def test_contrastive__bad_arguments(features, mask, options):
    with pytest.raises((ValueError, TypeError), match=r'\w+ .*\w'):
        homologous_contrastive_loss(features, mask, **options)


# ---------------------------------------------------------------------------------------------------- reconstruction
@pytest.mark.parametrize('normalize', [True, False])
@pytest.mark.parametrize('group_size,length', RATIOS)
def test_reconstruction__oracle(rng, group_size, length, normalize):
    pred, target = rng.normal(size=(2, 2, group_size, length, 12))
    target = 3 * target + 1
    mask = oracles.random_mask(rng, 2, length, group_size)
    ours = reconstruction_loss(*map(torch.from_numpy, (pred, target, mask)), normalize=normalize)
    assert ours.shape == ()
    assert ours.item() == pytest.approx(oracles.reconstruction_loss(pred, target, mask, normalize), rel=1e-12)


@pytest.mark.parametrize('height,width', [(4, 4), (4, 8), (8, 2)])
@pytest.mark.parametrize('normalize', [True, False])
def test_reconstruction__images_or_patches(rng, height, width, normalize):
    images = rng.normal(size=(2, 2, 3, height, width))
    length = height * width // 4
    pred = rng.normal(size=(2, 2, length, 12))
    mask = oracles.random_mask(rng, 2, length, 2)
    target = np.stack([oracles.patchify(group, 2) for group in images])
    expected = oracles.reconstruction_loss(pred, target, mask, normalize)
    from_images = reconstruction_loss(
        torch.from_numpy(pred), torch.from_numpy(images), torch.from_numpy(mask), normalize=normalize
    )
    from_patches = reconstruction_loss(
        torch.from_numpy(pred), patchify(torch.from_numpy(images), 2), torch.from_numpy(mask), normalize=normalize
    )
    assert from_images.item() == pytest.approx(expected, rel=1e-12)
    assert from_patches.item() == pytest.approx(expected, rel=1e-12)


def test_reconstruction__gradient_and_visible_patches_carry_none(rng):
    pred, target = rng.normal(size=(2, 2, 2, 4, 12))
    mask = oracles.random_mask(rng, 2, 4, 2)
    x = torch.from_numpy(pred).requires_grad_()
    loss = reconstruction_loss(x, torch.from_numpy(target), torch.from_numpy(mask))
    loss.backward()
    goal = oracles.normalise_patches(target)
    for a, i, pos in np.ndindex(2, 2, 4):
        visible = mask[a, pos] == i
        expected = 0 * pred[a, i, pos] if visible else 2 * (pred - goal)[a, i, pos] / (12 * 2 * 2 * 2)
        np.testing.assert_allclose(x.grad[a, i, pos].numpy(), expected, atol=1e-15)
    numeric = oracles.finite_difference(lambda p: oracles.reconstruction_loss(p, target, mask), pred)
    np.testing.assert_allclose(x.grad.numpy(), numeric, atol=1e-8)
    assert torch.autograd.gradcheck(
        lambda p: reconstruction_loss(p, torch.from_numpy(target), torch.from_numpy(mask)), x
    )


def test_reconstruction__visible_patches_do_not_matter(rng):
    pred, target = map(torch.from_numpy, rng.normal(size=(2, 2, 4, 8, 12)))
    mask = torch.from_numpy(oracles.random_mask(rng, 2, 8, 4))
    visible = torch.stack([mask == i for i in range(4)], 1)[..., None]
    loss = reconstruction_loss(pred, target, mask)
    torch.testing.assert_close(reconstruction_loss(pred + 5 * visible, target - 7 * visible, mask), loss)


def test_reconstruction__known_values(rng):
    target = torch.from_numpy(rng.normal(size=(2, 4, 8, 192)))
    mask = torch.from_numpy(oracles.random_mask(rng, 2, 8, 4))
    assert reconstruction_loss(normalize_patches(target), target, mask).item() < 1e-20
    assert reconstruction_loss(target, target, mask, normalize=False).item() == 0
    # predicting 0 costs the (biased) variance of a normalised patch: (n - 1) / n
    assert reconstruction_loss(torch.zeros_like(target), target, mask).item() == pytest.approx(191 / 192, rel=1e-5)


def test_reconstruction__flat_patch_is_finite():
    target = torch.full((1, 2, 4, 12), 0.5)
    pred = torch.zeros(1, 2, 4, 12, requires_grad=True)
    loss = reconstruction_loss(pred, target, MASK)
    loss.backward()
    assert loss.item() == 0 and pred.grad.isfinite().all()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_reconstruction__half_prediction_float_target(rng, dtype):
    pred, target = rng.normal(size=(2, 2, 4, 8, 12))
    mask = oracles.random_mask(rng, 2, 8, 4)
    half = torch.from_numpy(pred).to(dtype).requires_grad_()
    target = target.astype(np.float32)
    with torch.autocast('cpu', dtype):
        loss = reconstruction_loss(half, torch.from_numpy(target), torch.from_numpy(mask))
    expected = oracles.reconstruction_loss(half.detach().double().numpy(), target.astype(np.float64), mask)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert half.grad.isfinite().all()


def test_normalize_patches__oracle(rng):
    patches = rng.normal(size=(2, 3, 12)) * 4 + 2
    np.testing.assert_allclose(
        normalize_patches(torch.from_numpy(patches)).numpy(), oracles.normalise_patches(patches), atol=1e-12
    )


@pytest.mark.parametrize(
    'pred,target,mask',
    [
        (torch.zeros(1, 2, 4, 12), torch.zeros(1, 2, 4, 12), MASK[:, :3]),
        (torch.zeros(2, 2, 4, 12), torch.zeros(2, 2, 4, 12), MASK),
        (torch.zeros(1, 2, 4, 12), torch.zeros(1, 2, 4, 12), MASK.float()),
        (torch.zeros(1, 2, 4, 12), torch.zeros(1, 2, 6, 12), MASK),
        (torch.zeros(1, 2, 4, 12), torch.zeros(1, 1, 4, 12), MASK),  # would broadcast silently
        (torch.zeros(1, 2, 4, 12), torch.zeros(1, 2, 3, 4, 6), MASK),  # images of another size
        (torch.zeros(2, 4, 12), torch.zeros(2, 4, 12), MASK),
    ],
)
def test_reconstruction__bad_arguments(pred, target, mask):
    with pytest.raises((ValueError, TypeError), match=r'\w+ .*\w'):
        reconstruction_loss(pred, target, mask)
