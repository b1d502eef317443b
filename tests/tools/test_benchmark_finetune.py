"""The fine-tuning benchmark: equal heads, what is counted, which sizes work."""

import argparse

import pytest
import torch

pytest.importorskip('mmseg', reason='needs mmseg')
pytest.importorskip('mmcv.ops', reason="needs mmcv's compiled ops")

from tools.benchmark_parts import finetune

ARGS = argparse.Namespace(arch='tiny', size=64, batch=2, device='cpu', dtype=None, threads=1, repeats=1)


@pytest.fixture(scope='module')
def models():
    return {name: finetune.build(options, ARGS) for name, options in finetune.CONTENDERS.items()}


@pytest.mark.slow
def test_build__same_heads_and_backbone_sizes(models):
    def sizes(model, part):
        return sum(p.numel() for p in getattr(model, part).parameters())

    theirs, ours = models[finetune.THEIRS], models['MixedAEViT']
    assert type(theirs.backbone).__name__ == 'MAE' and type(ours.backbone).__name__ == 'MixedAEViT'
    for part in ('decode_head', 'auxiliary_head', 'neck'):
        assert sizes(theirs, part) == sizes(ours, part), part
    # ours keeps its positions at the 14 x 14 patches of pre-training, mmseg's at those of the crop
    more = ours.backbone.pos_embed.numel() - theirs.backbone.pos_embed.numel()
    assert more == (14 * 14 - 4 * 4) * 192
    assert sizes(ours, 'backbone') - sizes(theirs, 'backbone') == more


@pytest.mark.slow
def test_tries__mmseg_fails_where_ours_works(models):
    cpu = torch.device('cpu')
    for size in ((64, 64), (48, 96)):
        assert finetune.tries(models['MixedAEViT'], size, cpu, torch.float32) == 'works'
    assert finetune.tries(models[finetune.THEIRS], (64, 64), cpu, torch.float32) == 'works'
    assert finetune.tries(models[finetune.THEIRS], (48, 96), cpu, torch.float32).startswith('fails')


@pytest.mark.slow
def test_loss__has_a_gradient_everywhere(models):
    images, labels = torch.randn(2, 3, 64, 64), torch.randint(0, 150, (2, 1, 64, 64))
    model = models['MixedAEViT, decomposed positions'].train()
    finetune.loss(model, images, finetune.label_samples(labels), torch.float32).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_run__small_batch_is_refused():
    with pytest.raises(ValueError, match='--batch must be at least 2'):
        finetune.run(argparse.Namespace(**{**vars(ARGS), 'batch': 1}))
