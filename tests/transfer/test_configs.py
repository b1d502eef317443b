"""Every detection and segmentation config, shrunk: builds, takes a step that reaches every parameter, predicts."""

import importlib.util
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData, PixelData

pytest.importorskip('mmcv.ops', reason="needs mmcv's compiled ops")

REPO = Path(__file__).resolve().parents[2]
DETECTION = sorted((REPO / 'mmcfg' / 'coco').glob('*.py'))
SEGMENTATION = sorted((REPO / 'mmcfg' / 'ade20k').glob('*.py'))
WIDTH = 32


def in_package(package, path):
    return Path(importlib.util.find_spec(package).origin).parent / '.mim' / 'configs' / path


def shrink(node):
    """A narrow ViT of the same depth, and few proposals."""
    if isinstance(node, dict):
        for key, most in (('num', 32), ('nms_pre', 64), ('max_per_img', 32)):
            if isinstance(node.get(key), int):
                node[key] = min(node[key], most)
        if node.get('type') == 'mixedae.MixedAEViT':
            node['arch'] = dict(embed_dim=WIDTH, depth=12, num_heads=2)
        for value in node.values():
            shrink(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            shrink(value)


def narrow(value, old):
    return [WIDTH if v == old else v for v in value] if isinstance(value, (list, tuple)) else WIDTH


def shrink_config(cfg):
    old = {'base': 768, 'tiny': 192}[cfg.model.backbone.arch]
    shrink(cfg.model)
    for part in cfg.model.neck if isinstance(cfg.model.neck, list) else [cfg.model.neck]:
        part.in_channels = narrow(part.in_channels, old)
    for head in ('decode_head', 'auxiliary_head'):
        if head in cfg.model:
            cfg.model[head].in_channels = narrow(cfg.model[head].in_channels, old)
            cfg.model[head].channels = 32
    return cfg


def build(cfg):
    """The model, built in its own scope; the default scope of other tests is not touched."""
    importlib.import_module(f'{cfg.default_scope}.utils').register_all_modules(init_default_scope=False)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
        model.init_weights()
    return model


def detection_batch(num_classes, size=(64, 96)):
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    samples = []
    for k in range(2):
        boxes = torch.tensor([[4.0 + k, 6, 40, 50], [50, 10, 90, 30]])
        masks = BitmapMasks(torch.ones(2, *size).numpy().astype('uint8'), *size)
        sample = DetDataSample(
            metainfo=dict(img_shape=size, ori_shape=size, pad_shape=size, scale_factor=(1.0, 1.0), img_id=k)
        )
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([0, num_classes - 1]), masks=masks)
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4))
        samples.append(sample)
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for _ in samples]
    return dict(inputs=images, data_samples=samples)


def segmentation_batch(num_classes, size):
    from mmseg.structures import SegDataSample

    samples = []
    for _ in range(2):
        sample = SegDataSample(metainfo=dict(img_shape=size, ori_shape=size, pad_shape=size, padding_size=[0] * 4))
        sample.gt_sem_seg = PixelData(data=torch.randint(0, num_classes, (1, *size)))
        samples.append(sample)
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for _ in samples]
    return dict(inputs=images, data_samples=samples)


def step(model, cfg, batch):
    """One optimiser step by the config's own optimiser; returns the parameters that got no gradient."""
    wrapper_cfg = cfg.optim_wrapper.to_dict()
    wrapper_cfg = {k: v for k, v in wrapper_cfg.items() if k != 'loss_scale'} | dict(type='OptimWrapper')
    wrapper = build_optim_wrapper(model, wrapper_cfg)
    model.train()
    losses = model(**model.data_preprocessor(batch, True), mode='loss')
    loss, _ = model.parse_losses(losses)
    assert torch.isfinite(loss)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    loss.backward()
    wrapper.optimizer.step()
    moved = [name for name, p in model.named_parameters() if not torch.equal(before[name], p)]
    assert len(moved) > 0.9 * len(before)  # a tiny gradient may round to no move at all
    return [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


def predict(model, batch):
    model.eval()
    with torch.no_grad():
        return model(**model.data_preprocessor(batch, False), mode='predict')


@pytest.mark.slow
@pytest.mark.parametrize('path', DETECTION, ids=lambda p: p.stem)
def test_detection_config(path):
    cfg = shrink_config(Config.fromfile(path))
    model = build(cfg)
    assert step(model, cfg, detection_batch(80)) == []
    results = predict(model, detection_batch(80))
    assert len(results) == 2 and results[0].pred_instances.masks.shape[1:] == (64, 96)


@pytest.mark.slow
@pytest.mark.parametrize('path', SEGMENTATION, ids=lambda p: p.stem)
def test_segmentation_config(path):
    cfg = shrink_config(Config.fromfile(path))
    size = tuple(cfg.model.data_preprocessor.size)
    model = build(cfg)
    assert step(model, cfg, segmentation_batch(150, size)) == []
    results = predict(model, segmentation_batch(150, (96, 64) if cfg.model.test_cfg.mode == 'whole' else (512, 530)))
    assert results[0].seg_logits.data.shape[0] == 150


@pytest.mark.slow
def test_stock_config__mmdet():
    """Backbone and neck put into a config of mmdet's own, as the README shows it."""
    path = in_package('mmdet', 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py')
    if not path.is_file():
        pytest.skip('this mmdet brings no .mim/configs')
    cfg = Config.fromfile(path)
    cfg.model.backbone = dict(type='mixedae.MixedAEViT', arch='tiny', out_indices=(11,))
    cfg.model.neck = dict(type='mixedae.SimpleFeaturePyramid', in_channels=192, out_channels=256)
    cfg.optim_wrapper = dict(
        constructor='mixedae.LayerDecayOptimWrapperConstructor',
        optimizer=dict(type='AdamW', lr=1e-4),
        paramwise_cfg=dict(layer_decay_rate=0.75),
    )
    model = build(cfg)
    assert step(model, cfg, detection_batch(80)) == []
    assert len(predict(model, detection_batch(80))) == 2


@pytest.mark.slow
def test_stock_config__mmseg():
    path = in_package('mmseg', 'upernet/upernet_r50_4xb4-80k_ade20k-512x512.py')
    if not path.is_file():
        pytest.skip('this mmseg brings no .mim/configs')
    cfg = Config.fromfile(path)
    cfg.model.pretrained = None
    cfg.model.backbone = dict(type='mixedae.MixedAEViT', arch='tiny', out_indices=(3, 5, 7, 11))
    cfg.model.neck = dict(type='mixedae.MultiBlockPyramid', in_channels=192)
    cfg.model.decode_head.in_channels = [192] * 4
    cfg.model.auxiliary_head.in_channels = 192
    cfg.model.data_preprocessor.size = (64, 96)
    cfg.optim_wrapper.constructor = 'mixedae.LayerDecayOptimWrapperConstructor'
    model = build(cfg)
    assert step(model, cfg, segmentation_batch(150, (64, 96))) == []
    assert predict(model, segmentation_batch(150, (64, 96)))[0].pred_sem_seg.data.shape == (1, 64, 96)
