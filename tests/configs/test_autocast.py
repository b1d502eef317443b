"""Detectors under bfloat16 autocast: RoIAlign, NMS and anchors want float32, whatever the convolutions compute in."""

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
