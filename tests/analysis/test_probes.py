"""kNN, linear probe, RankMe and frozen features, each against a slow computation by other means."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mixedae.analysis import frozen_features, knn_accuracy, labelled_batches, linear_probe, rankme, spaced
from mixedae.analysis.linear_probe import held_out_mask, solve_logistic
from mixedae.models import MAE, MixedAE, MixedAEViT


def clusters(count: int, dim: int, classes: int, spread: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(count) % classes
    return centres[labels] + spread * torch.randn(count, dim, generator=generator), labels


def slow_knn(train, train_labels, test, test_labels, k, temperature) -> float:
    """One test image after the other, in plain Python."""
    right = 0
    for x, label in zip(test.tolist(), test_labels.tolist()):
        scored = []
        for y, other in zip(train.tolist(), train_labels.tolist()):
            dot = sum(a * b for a, b in zip(x, y))
            scored.append((dot / (math.hypot(*x) * math.hypot(*y)), other))
        scored.sort(reverse=True)
        votes: dict[int, float] = {}
        for similarity, other in scored[:k]:
            votes[other] = votes.get(other, 0.0) + math.exp(similarity / temperature)
        right += max(sorted(votes), key=lambda c: votes[c]) == label
    return right / len(test)


@pytest.mark.parametrize(('k', 'temperature', 'chunk'), [(20, 0.07, 7), (5, 1.0, 1000), (500, 0.07, 16)])
def test_knn_accuracy__equals_a_plain_loop(k: int, temperature: float, chunk: int) -> None:
    train, test = clusters(90, 6, 5, 1.5, 0), clusters(40, 6, 5, 1.5, 1)
    found = knn_accuracy(*train, *test, k=k, temperature=temperature, chunk=chunk)
    assert found == slow_knn(*train, *test, min(k, 90), temperature)
    assert 0.3 < found < 0.95  # a case in which there is something to tell


def test_knn_accuracy__votes_are_weighted() -> None:
    train = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, -0.8]])
    labels, test = torch.tensor([0, 1, 1]), torch.tensor([[1.0, 0.0]])
    # similarities 1, .6, .6: at T = .07 the nearest outweighs two farther ones, at T = 10 two beat one
    assert knn_accuracy(train, labels, test, torch.tensor([0]), k=3) == 1.0
    assert knn_accuracy(train, labels, test, torch.tensor([1]), k=3, temperature=10.0) == 1.0


def test_knn_accuracy__length_of_features_does_not_matter() -> None:
    train, test = clusters(60, 4, 3, 1.0, 0), clusters(30, 4, 3, 1.0, 1)
    scaled = train[0] * torch.linspace(0.1, 10, 60)[:, None]
    assert knn_accuracy(scaled, train[1], *test) == knn_accuracy(*train, *test)


def test_knn_accuracy__is_the_same_under_autocast() -> None:
    train, test = clusters(200, 8, 5, 1.5, 0), clusters(100, 8, 5, 1.5, 1)
    near = [
        (features + 30, labels) for features, labels in (train, test)
    ]  # similarities that bfloat16 cannot tell apart
    plain = knn_accuracy(*near[0], *near[1])
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert knn_accuracy(*near[0], *near[1]) == plain


def test_knn_accuracy__bad_features_are_named() -> None:
    features, labels = clusters(10, 4, 2, 1.0, 0)
    with pytest.raises(ValueError, match='test features are not all finite'):
        knn_accuracy(features, labels, features.log(), labels)
    with pytest.raises(ValueError, match=r'training features must be \(N, D\)'):
        knn_accuracy(features, labels[:3], features, labels)


def newton(features: np.ndarray, labels: np.ndarray, classes: int, l2: float) -> np.ndarray:
    """The minimum of the regularised cross entropy by Newton steps with the whole Hessian, (D + 1, C)."""
    count = len(features)
    inputs = np.concatenate([features, np.ones((count, 1))], axis=1)
    size = inputs.shape[1]
    weights = np.zeros((size, classes))
    decay = np.full((size, classes), l2)
    decay[-1] = 0
    truth = np.eye(classes)[labels]
    for _ in range(50):
        logits = inputs @ weights
        share = np.exp(logits - logits.max(1, keepdims=True))
        share /= share.sum(1, keepdims=True)
        gradient = inputs.T @ (share - truth) / count + decay * weights
        hessian = np.diag(decay.ravel())
        for x, p in zip(inputs, share):
            hessian += np.kron(np.outer(x, x), np.diag(p) - np.outer(p, p)) / count
        weights -= np.linalg.lstsq(hessian, gradient.ravel(), rcond=None)[0].reshape(size, classes)
    assert np.abs(gradient).max() < 1e-10
    return weights


@pytest.mark.parametrize('l2', [0.3, 1e-3])
def test_solve_logistic__equals_newton(l2: float) -> None:
    features, labels = clusters(80, 3, 3, 1.5, 0)
    features = features.double()
    found = solve_logistic(features, labels, 3, l2).numpy()
    true = newton(features.numpy(), labels.numpy(), 3, l2)
    # biases are free up to a common shift, which changes no probability
    found[-1] -= found[-1].mean()
    true[-1] -= true[-1].mean()
    np.testing.assert_allclose(found, true, atol=2e-4)


def test_linear_probe__equals_newton_at_the_chosen_l2() -> None:
    train, test = clusters(120, 3, 3, 2.0, 0), clusters(60, 3, 3, 2.0, 1)
    found = linear_probe(*train, *test, seed=5)
    x, y = train[0].double().numpy(), train[1].numpy()
    x_test = (test[0].double().numpy() - x.mean(0)) / x.std(0)
    x = (x - x.mean(0)) / x.std(0)
    held = held_out_mask(train[1], 0.2, 5).numpy()

    def accuracy(l2: float, rows: np.ndarray, on: np.ndarray, truth: np.ndarray) -> float:
        weights = newton(x[rows], y[rows], 3, l2)
        return float(((on @ weights[:-1] + weights[-1]).argmax(1) == truth).mean())

    expected = {l2: accuracy(l2, ~held, x[held], y[held]) for l2 in (1.0, 0.1, 0.01, 1e-3, 1e-4)}
    assert found.held_out == pytest.approx(expected)
    assert found.l2 == max(expected, key=lambda l2: (expected[l2], l2))
    everything = np.ones(120, dtype=bool)
    assert found.accuracy == pytest.approx(accuracy(found.l2, everything, x_test, test[1].numpy()))
    assert found.train_accuracy == pytest.approx(accuracy(found.l2, everything, x, y))


def test_linear_probe__sees_one_useful_feature_among_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 2
    features = torch.randn(300, 20, generator=generator)
    features[:, 7] = features[:, 7] * 0.1 + 1e-3 * labels * 400  # kNN is blind to it beside the noise
    assert linear_probe(features[:200], labels[:200], features[200:], labels[200:]).accuracy > 0.95
    noise = linear_probe(
        features[:200, :5], labels[:200], features[200:, :5], labels[200:]
    )  # nothing to find: chance is one half, one standard error of 100 images 0.05
    assert 0.35 < noise.accuracy < 0.65


def test_linear_probe__draws_from_no_global_generator_and_repeats() -> None:
    train, test = clusters(60, 4, 3, 1.0, 0), clusters(30, 4, 3, 1.0, 1)
    state = torch.get_rng_state()
    first = linear_probe(*train, *test)
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(3)
    with torch.no_grad():  # as inside a hook
        assert linear_probe(*train, *test) == first


def test_linear_probe__constant_and_single_images() -> None:
    features, labels = clusters(40, 4, 4, 0.5, 0)
    features[:, 2] = 3.0
    assert math.isfinite(linear_probe(features, labels, features, labels).accuracy)
    with pytest.raises(ValueError, match='at least two training images of some class'):
        linear_probe(features[:4], labels[:4], features, labels)
    with pytest.raises(ValueError, match='at least two classes'):
        linear_probe(features, 0 * labels, features, 0 * labels)


def test_held_out_mask__takes_a_fifth_of_each_class() -> None:
    labels = torch.tensor([0] * 50 + [1] * 10 + [2] * 2 + [3])
    mask = held_out_mask(labels, 0.2, 0)
    assert [int(mask[labels == c].sum()) for c in range(4)] == [10, 2, 1, 0]
    assert not torch.equal(mask, held_out_mask(labels, 0.2, 1))


def test_rankme__known_spectra() -> None:
    assert rankme(torch.eye(8)) == pytest.approx(8, rel=1e-4)
    assert rankme(torch.ones(10, 4) * torch.arange(1, 11)[:, None]) == pytest.approx(1, rel=1e-4)
    # singular values 3, 1: shares .75, .25
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert rankme(torch.diag(torch.tensor([3.0, 1.0, 0.0]))) == pytest.approx(expected, rel=1e-4)


def test_rankme__equals_eigenvalues_of_the_gram_matrix() -> None:
    features = np.random.default_rng(0).normal(size=(40, 6)) @ np.diag([5, 3, 1, 0.5, 0.1, 0.01])
    sigma = np.sqrt(np.linalg.eigvalsh(features.T @ features).clip(0))
    p = [s / sigma.sum() + 1e-7 for s in sigma]
    expected = math.exp(-sum(q * math.log(q) for q in p))
    assert rankme(torch.tensor(features)) == pytest.approx(expected, rel=1e-9)


def test_rankme__refuses_what_has_no_rank() -> None:
    with pytest.raises(ValueError, match='all zero'):
        rankme(torch.zeros(3, 3))
    with pytest.raises(ValueError, match='finite'):
        rankme(torch.full((3, 3), torch.nan))


TINY = dict(arch=dict(embed_dim=16, depth=3, num_heads=2), img_size=32, patch_size=8)
DECODER = dict(embed_dim=16, depth=1, num_heads=2)
PREPROCESSOR = dict(type='mmengine.ImgDataPreprocessor', mean=[120.0] * 3, std=[60.0] * 3)


class Squares(torch.utils.data.Dataset):
    """Ten images of noise, three classes."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> dict:
        pixels = torch.randint(256, (3, 32, 32), generator=torch.Generator().manual_seed(index), dtype=torch.uint8)
        return dict(inputs=pixels, data_samples=dict(label=index % 3))


@pytest.mark.parametrize('cls', [MixedAE, MAE])
def test_frozen_features__are_the_tokens_of_extract(cls: type) -> None:
    torch.manual_seed(0)
    model = cls(TINY, DECODER, data_preprocessor=PREPROCESSOR).train()
    state = torch.get_rng_state()
    found = frozen_features(model, labelled_batches(Squares(), batch_size=4), global_attention=False)
    assert torch.equal(state, torch.get_rng_state())
    assert all(module.training for module in model.modules())
    images = torch.stack([(Squares()[i]['inputs'].float() - 120) / 60 for i in range(10)])
    with torch.no_grad():
        tokens = model.eval().extract(images)
    torch.testing.assert_close(found.features['cls'], tokens[:, 0])
    torch.testing.assert_close(found.features['mean'], tokens[:, 1:].mean(1))
    assert found.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]


def test_frozen_features__pretext_task_and_backbone_agree() -> None:
    torch.manual_seed(0)
    model = MixedAE(TINY, DECODER, data_preprocessor=PREPROCESSOR)
    backbone = MixedAEViT(TINY['arch'], img_size=32, patch_size=8, out_indices=(2,))
    backbone.load_state_dict({k: v for k, v in model.encoder.state_dict().items() if k != 'segment_embed'})
    batches = list(labelled_batches(Squares()))
    whole = frozen_features(model, batches)
    plain = frozen_features(backbone, batches, preprocessor=model.data_preprocessor, kinds=('mean',))
    torch.testing.assert_close(plain.features['mean'], whole.features['mean'])
    kept = frozen_features(model, batches, global_attention=False)
    assert (kept.features['mean'] - whole.features['mean']).abs().max() > 1e-4
    assert [block.attn.topk_ratio for block in model.encoder.blocks] == [None, 0.25, 0.25]
    with pytest.raises(ValueError, match='needs a preprocessor'):
        frozen_features(backbone, batches, kinds=('mean',))


def test_frozen_features__no_labels_no_images_and_unknown_kinds() -> None:
    model = MAE(TINY, DECODER, data_preprocessor=PREPROCESSOR)
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    assert frozen_features(model, [dict(inputs=images)]).labels.tolist() == [-1, -1]
    with pytest.raises(ValueError, match='no images'):
        frozen_features(model, [])
    with pytest.raises(ValueError, match="not 'max'"):
        frozen_features(model, [], kinds=('max',))


def test_labelled_batches__count_is_spread_over_the_data() -> None:
    batches = list(labelled_batches(Squares(), batch_size=3, count=5))
    assert [len(batch['inputs']) for batch in batches] == [3, 2]
    assert torch.equal(batches[1]['inputs'][1], Squares()[8]['inputs'])
    assert spaced(3, 2) == [0, 1]
