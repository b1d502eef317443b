"""mmdet's and mmseg's own configs with our backbone and neck, by the lines that README and docs/transfer.md show."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from tests.configs.aligned import assert_labels_lie_where_the_pixels_are
from tests.configs.shrinking import (
    REPO,
    build,
    detection_batch,
    narrow,
    num_classes,
    predict,
    segmentation_batch,
    step,
)

pytest.importorskip('mmcv.ops', reason="needs mmcv's compiled ops")


def documented():
    """The names that the block of docs/transfer.md defines."""
    text = (REPO / 'docs' / 'transfer.md').read_text(encoding='utf-8')
    (block,) = (b for b in re.findall(r'^```python\n(.*?)^```', text, flags=re.S | re.M) if 'model_of' in b)
    names = {}
    exec(block, names)
    return names


DOCUMENTED = documented()


def stock_file(name):
    for package in ('mmdet', 'mmseg'):
        folder = Path(importlib.util.find_spec(package).origin).parent / '.mim' / 'configs'
        if (folder / name).is_file():
            return package, folder / name
    pytest.skip(f'neither mmdet nor mmseg brings .mim/configs/{name}')


def shrink_transformers(node):
    """The decoders of Mask2Former and DINO: fewer layers and queries."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == 'num_layers' and isinstance(value, int):
                node[key] = min(value, 2)
            elif key == 'num_transformer_feat_level' or not isinstance(value, (dict, list)):
                continue
            else:
                shrink_transformers(value)
    elif isinstance(node, list):
        for value in node:
            shrink_transformers(value)


@pytest.mark.slow
@pytest.mark.parametrize('name', list(DOCUMENTED['model_of']))
def test_stock_config__with_our_backbone(name, tmp_path):
    package, path = stock_file(name)
    lines = [
        f'_base_ = {str(path)!r}',
        f'custom_imports = {DOCUMENTED["custom_imports"]!r}',
        f'model = {DOCUMENTED["model_of"][name]!r}',
        f'optim_wrapper = {DOCUMENTED["optim_wrapper"]!r}',
    ]
    (tmp_path / 'swapped.py').write_text('\n'.join(lines))
    cfg = Config.fromfile(tmp_path / 'swapped.py')
    cfg.setdefault('default_scope', package)
    assert cfg.model.backbone.type == 'mixedae.MixedAEViT' and 'depth' not in cfg.model.backbone
    if package == 'mmdet':
        transformer = cfg.model.type in ('Mask2Former', 'DINO')
        narrow(cfg.model.backbone, {768})
        narrow(cfg.model.neck, {768} if transformer else {768, 256})
        if transformer:
            shrink_transformers(cfg.model)
            cfg.model.data_preprocessor.batch_augments = None
            for key, value in (('num_queries', 30), ('max_per_image', 30)):
                for part in (cfg.model, cfg.model.get('panoptic_head') or {}, cfg.model.test_cfg):
                    if key in part:
                        part[key] = value
            if 'max_per_img' in cfg.model.test_cfg:
                cfg.model.test_cfg.max_per_img = 30
        else:
            for key in ('bbox_head', 'rpn_head', 'roi_head', 'train_cfg', 'test_cfg'):
                narrow(cfg.model.get(key), {256, 1024})
        model = build(cfg)
        batch = detection_batch(80 if transformer else num_classes(model))
        step(model, cfg, batch)
        results = predict(model, batch)
        assert len(results) == 2 and torch.isfinite(results[0].pred_instances.scores).all()
    else:
        narrow(cfg.model, {768, 512, 256})
        if 'embed_dims' in cfg.model.decode_head:
            cfg.model.decode_head.update(embed_dims=32, num_heads=2, num_layers=1)
        cfg.model.data_preprocessor.size = (128, 96)
        if cfg.model.test_cfg.mode == 'slide':
            cfg.model.test_cfg.update(crop_size=(128, 96), stride=(85, 64))
        model = build(cfg)
        batch = segmentation_batch(150, (128, 96))
        step(model, cfg, batch)
        result = predict(model, batch)[0].seg_logits.data
        assert result.shape == (150, 128, 96) and torch.isfinite(result).all()
        assert_labels_lie_where_the_pixels_are(model)


@pytest.mark.slow
def test_readme__stock_config_with_our_backbone(tmp_path):
    """The third use of README, as it stands there but for the widths."""
    stock = 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
    text = (REPO / 'README.md').read_text(encoding='utf-8')
    (block,) = re.findall(r'^```python\n(.*?)^```', text, flags=re.S | re.M)
    named = f"'mmdet::{stock}'"
    assert named in block
    (tmp_path / 'swapped.py').write_text(block.replace(named, repr(str(stock_file(stock)[1]))))
    cfg = Config.fromfile(tmp_path / 'swapped.py')
    assert cfg.model.backbone.pop('init_cfg').type == 'Pretrained'
    for part in (cfg.model.backbone, cfg.model.neck):
        narrow(part, {768})
    for key in ('rpn_head', 'roi_head', 'train_cfg', 'test_cfg'):
        narrow(cfg.model[key], {1024})
    model = build(cfg)
    batch = detection_batch(num_classes(model))
    step(model, cfg, batch)
    maps = model.extract_feat(torch.zeros(1, 3, 128, 192))
    assert [tuple(x.shape[1:]) for x in maps] == [(256, 128 // s, 192 // s) for s in (4, 8, 16, 32, 64)]
    results = predict(model, batch)
    assert len(results) == 2 and torch.isfinite(results[0].pred_instances.scores).all()
