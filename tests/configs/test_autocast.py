"""Detectors and segmentors under bfloat16 autocast: RoIAlign, NMS and anchors want float32, losses are finite."""

import pytest
import torch

from tests.configs.shrinking import REPO, batch_for, build, load
from tests.configs.test_mmcfg import name_of

pytest.importorskip('mmcv.ops', reason="needs mmcv's compiled ops")

HEADS = (
    'cascade-mask-rcnn_8xb2',
    'mask-rcnn_8xb2',
    'vitdet-mask-rcnn_1xb2',
    'vitdet-cascade-mask-rcnn_8xb8-amp-lsj-12e',
)
NAMES = tuple(f'mixedae_vit-base-p16_{head}' for head in HEADS)
CONFIGS = [path for path in sorted((REPO / 'mmcfg' / 'coco').glob('*.py')) if path.stem.startswith(NAMES)]

SEGMENTORS = [
    path
    for path in sorted((REPO / 'mmcfg' / 'ade20k').glob('*.py'))
    if ('-amp-' in path.stem or '-bf16-' in path.stem)
    and 'vit-large' not in path.stem
    and not path.stem.endswith('_ms')
]


@pytest.mark.slow
@pytest.mark.parametrize('path', SEGMENTORS, ids=name_of)
def test_segmentor__bfloat16(path):
    """As close to float32 as bfloat16 is, with finite gradients."""
    cfg = load(path)
    model = build(cfg).train()
    for module in model.modules():
        if 'Drop' in type(module).__name__:
            module.eval()  # two passes are compared
    batch = model.data_preprocessor(batch_for(model, cfg), True)

    def loss_of():
        return model.parse_losses(model(**batch, mode='loss'))[0]

    expected = loss_of()
    with torch.autocast('cpu', torch.bfloat16):
        loss = loss_of()
    assert loss.item() == pytest.approx(expected.item(), rel=0.02)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    weights = [model.decode_head.conv_seg.weight]
    if 'linear' not in path.stem:  # there the backbone is frozen
        weights.append(model.backbone.blocks[0].attn.qkv.weight)
    assert all(weight.grad.abs().sum() > 0 for weight in weights)


@pytest.mark.slow
@pytest.mark.parametrize('path', CONFIGS, ids=name_of)
def test_detector__bfloat16(path):
    cfg = load(path)
    model = build(cfg).train()
    batch = model.data_preprocessor(batch_for(model, cfg), True)
    with torch.autocast('cpu', torch.bfloat16):
        maps = model.extract_feat(batch['inputs'])
        assert all(level.dtype == torch.float32 for level in maps)
        scores, deltas = model.rpn_head(maps)
        assert scores[0].dtype == deltas[0].dtype == torch.float32
        loss, _ = model.parse_losses(model(**batch, mode='loss'))
    assert torch.isfinite(loss)
    loss.backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
    assert model.backbone.blocks[0].attn.qkv.weight.grad.abs().sum() > 0


def test_configs__found():
    assert len(CONFIGS) == len(HEADS)
    assert len(SEGMENTORS) >= 5
