"""Top-k accuracy where scores are equal, or no numbers."""

import pytest
import torch

from mixedae.engine.classification import TopAccuracy


def accuracy(scores, labels, topk=(1, 5)):
    metric = TopAccuracy(topk=topk)
    for part in range(0, len(labels), 7):  # batches of seven and a last one
        batch = zip(scores[part : part + 7], labels[part : part + 7])
        metric.process(None, [dict(scores=row, label=label) for row, label in batch])
    return metric.evaluate(size=len(labels))


@pytest.mark.parametrize('wrong', [float('nan'), float('inf'), -float('inf')])
def test_top_accuracy__a_diverged_model_has_none(wrong):
    labels = torch.arange(20) % 10
    assert accuracy(torch.full((20, 10), wrong), labels) == {'accuracy/top1': 0, 'accuracy/top5': 0}
    scores = torch.nn.functional.one_hot(labels, 10).float()
    scores[:5, 3] = wrong  # one score is enough, of any class, and whatever k
    assert accuracy(scores, labels, topk=(1, 10, 1000)) == dict.fromkeys(
        ('accuracy/top1', 'accuracy/top10', 'accuracy/top1000'), 75.0
    )


def test_top_accuracy__equal_scores_count_once():
    """All scores alike: chance, not 100 %."""
    labels = torch.arange(20) % 10
    assert accuracy(torch.full((20, 10), 0.1), labels) == {'accuracy/top1': 10.0, 'accuracy/top5': 50.0}


def test_top_accuracy__of_argmax_and_of_sorting():
    """Coarse scores with many ties, against ``argmax`` and a stable sort."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 4, (200, 12), generator=generator).float()
    labels = torch.randint(0, 12, (200,), generator=generator)
    first = (scores.argmax(1) == labels).float().mean().item() * 100
    order = scores.sort(dim=1, descending=True, stable=True).indices
    among = (order[:, :3] == labels[:, None]).any(1).float().mean().item() * 100
    found = accuracy(scores, labels, topk=(1, 3))
    assert found['accuracy/top1'] == pytest.approx(first) and found['accuracy/top3'] == pytest.approx(among)
    assert 0 < first < among < 60
