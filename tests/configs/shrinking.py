"""Configs made small enough for a test, and synthetic batches for them."""

import importlib
import importlib.util
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData, PixelData

from mixedae.engine.without_gpu import adapt_to_device
from mixedae.models import get_arch

REPO = Path(__file__).resolve().parents[2]
WIDTH = 32
CHANNELS = ('in_channels', 'out_channels', 'feat_channels', 'conv_out_channels', 'channels', 'fc_out_channels')
AT_MOST = {'num': 32, 'nms_pre': 64, 'max_per_img': 32, 'max_num': 64}


def narrow(node, old_widths):
    """Every width in old_widths becomes 32, proposals become few, the ViT keeps its depth alone."""
    if isinstance(node, (list, tuple)):
        for value in node:
            narrow(value, old_widths)
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        if key in AT_MOST and isinstance(value, int):
            node[key] = min(value, AT_MOST[key])
        elif key in CHANNELS and isinstance(value, int) and value in old_widths:
            node[key] = WIDTH
        elif key in CHANNELS and isinstance(value, (list, tuple)):
            node[key] = [WIDTH if v in old_widths else v for v in value]
        else:
            narrow(value, old_widths)
    if node.get('type') == 'mixedae.MixedAEViT':
        node['arch'] = dict(embed_dim=WIDTH, depth=get_arch(node['arch']).depth, num_heads=2)


def load(path):
    """A config of mmcfg/, shrunk: width 32, images of 64 to 128 pixels."""
    cfg = Config.fromfile(path)
    model = cfg.model.module if 'module' in cfg.model else cfg.model
    if 'encoder' in model:
        model.encoder.arch = dict(embed_dim=16, depth=2, num_heads=2)
        if model.decoder is not None:
            model.decoder = dict(embed_dim=16, depth=1, num_heads=2)
        return cfg
    width = get_arch(model.backbone.arch).embed_dim
    narrow(model, {width, 256, 1024} if cfg.default_scope == 'mmdet' else {width, 256})
    if cfg.default_scope == 'mmdet':
        divisor = model.data_preprocessor.get('pad_size_divisor', 1)
        model.data_preprocessor.pad_size_divisor = min(divisor, 96)
    if cfg.default_scope == 'mmseg':
        model.data_preprocessor.size = (128, 96)
        model.test_cfg = dict(mode='slide', crop_size=(128, 96), stride=(85, 64)) | (
            dict(_delete_=True, mode='whole') if model.test_cfg.mode == 'whole' else {}
        )
    return cfg


def build(cfg):
    """The model, built in its own scope; the default scope of other tests is not touched."""
    if cfg.default_scope in ('mmdet', 'mmseg'):
        importlib.import_module(f'{cfg.default_scope}.utils').register_all_modules(init_default_scope=False)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
        model.init_weights()
    return model


def batch_for(model, cfg):
    """A batch as the loader gives it."""
    if cfg.default_scope == 'mmdet':
        return detection_batch(num_classes(model))
    if cfg.default_scope == 'mmseg':
        return segmentation_batch(model.decode_head.num_classes, (128, 96))
    if hasattr(model, 'encoder'):
        size, number = model.encoder.img_size, getattr(model, 'group_size', 2)
        return dict(inputs=torch.randint(0, 256, (number, 3, *size), dtype=torch.uint8))
    labels = torch.tensor([0, model.num_classes - 1])
    return dict(inputs=torch.randint(0, 256, (2, 3, 64, 64)).float(), data_samples=dict(label=labels))


def num_classes(detector):
    head = getattr(detector, 'bbox_head', None) or detector.roi_head.bbox_head
    return (head[0] if isinstance(head, torch.nn.ModuleList) else head).num_classes


def detection_batch(classes, size=(64, 96)):
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    samples = []
    for k in range(2):
        boxes = torch.tensor([[4.0 + k, 6, 40, 50], [50, 10, 90, 30]])
        masks = BitmapMasks(torch.ones(2, *size).numpy().astype('uint8'), *size)
        sample = DetDataSample(
            metainfo=dict(img_shape=size, ori_shape=size, pad_shape=size, scale_factor=(1.0, 1.0), img_id=k)
        )
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([0, classes - 1]), masks=masks)
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4))
        samples.append(sample)
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for _ in samples]
    return dict(inputs=images, data_samples=samples)


def segmentation_batch(classes, size):
    from mmseg.structures import SegDataSample

    samples = []
    for _ in range(2):
        sample = SegDataSample(
            metainfo=dict(
                img_shape=size, ori_shape=size, pad_shape=size, padding_size=[0] * 4, flip=False, img_path='x.jpg'
            )
        )
        sample.gt_sem_seg = PixelData(data=torch.randint(0, classes, (1, *size)))
        samples.append(sample)
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for _ in samples]
    return dict(inputs=images, data_samples=samples)


def step(model, cfg, batch):
    """One step of the config's own optimiser; every parameter that trains got a gradient, and nearly all moved."""
    adapt_to_device(cfg)
    wrapper_cfg = {**cfg.optim_wrapper.to_dict(), 'accumulative_counts': 1}
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        wrapper = build_optim_wrapper(model, wrapper_cfg)
    model.train()
    losses = model(**model.data_preprocessor(batch, True), mode='loss')
    loss, _ = model.parse_losses(losses)
    assert torch.isfinite(loss)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    gradients = {}
    wrapper.backward(loss)
    for name, p in model.named_parameters():
        if p.requires_grad:
            gradients[name] = p.grad
    wrapper.step()
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    moved = [name for name, p in model.named_parameters() if name in before and not torch.equal(before[name], p)]
    assert len(moved) > 0.9 * len(before)  # a tiny gradient may round to no move at all
    return loss


def predict(model, batch):
    model.eval()
    with torch.no_grad():
        return model(**model.data_preprocessor(batch, False), mode='predict')
