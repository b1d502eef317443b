"""The count against PyTorch's own counter of the operations that really ran."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mixedae.analysis import count_operations
from mixedae.models import MAE, MixedAE

ENCODER = dict(arch=dict(embed_dim=48, depth=3, num_heads=3), img_size=(64, 96), patch_size=16)
DECODER = dict(embed_dim=32, depth=2, num_heads=2)


def executed(model, images):
    """Multiply-adds that ran in forward, for one image; the flop counter counts a multiply-add as two."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # the fused one is not counted
        model.loss(images)
    return counter.get_total_flops() / 2 / len(images)


@pytest.mark.parametrize(
    'options',
    [
        dict(topk_ratio=None),
        dict(topk_ratio=None, mode='full'),
        dict(topk_ratio=None, mixing_ratio=0.5, contrastive_weight=0, decoder_cls=False),
        dict(topk_ratio=None, reconstruction_weight=0),
    ],
)
def test_count_operations__equals_what_ran(options):
    model = MixedAE(ENCODER, DECODER, **options)
    counted = count_operations(model)
    assert counted.total == pytest.approx(executed(model, torch.randn(8, 3, 64, 96)), rel=1e-9)
    assert counted.comparisons == 0


def test_count_operations__mae_equals_what_ran():
    model = MAE(ENCODER, DECODER)
    assert count_operations(model).total == pytest.approx(executed(model, torch.randn(8, 3, 64, 96)), rel=1e-9)


@pytest.mark.parametrize('kind', [MAE, MixedAE])
def test_count_operations__training_equals_what_ran(kind):
    model = kind(ENCODER, DECODER, **(dict(topk_ratio=None) if kind is MixedAE else {}))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        losses = model.loss(torch.randn(8, 3, 64, 96))
        sum(value for name, value in losses.items() if name.startswith('loss')).backward()
    assert count_operations(model).training == pytest.approx(counter.get_total_flops() / 2 / 8, rel=1e-9)


def test_count_operations__topk_adds_comparisons_only():
    plain = count_operations(MixedAE(ENCODER, DECODER, topk_ratio=None))
    ours = count_operations(MixedAE(ENCODER, DECODER))
    assert ours.total == plain.total
    assert ours.comparisons == pytest.approx(1 / 4 * 2 * 3 * 13 * 24 * 24)  # 2 blocks of 3 heads, L = 24


def test_count_operations__compose_costs_as_much_as_mae():
    """ViT-B/16, 224 px: fewer tokens than MAE (197 for four images, not 200), but they all attend to each other."""
    with torch.device('meta'):
        encoder, decoder = dict(arch='base'), dict(embed_dim=512, depth=8, num_heads=16)
        ratio = (
            count_operations(MixedAE(encoder, decoder, contrastive_weight=0.1)).total
            / count_operations(MAE(encoder, decoder)).total
        )
    assert ratio == pytest.approx(1.008, abs=0.0005)


def test_count_operations__another_model():
    with pytest.raises(TypeError, match='not for Linear'):
        count_operations(torch.nn.Linear(2, 2))
