"""Configs of pre-training and fine-tuning: they inherit one of mmcfg/demo and say what a variant, a budget and a seed
change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tools.demo_parts.layout import Scenes
from tools.reproduce_parts.budgets import Budget, Tuning
from tools.reproduce_parts.data import CAMVID_UNLABELLED, Data
from tools.reproduce_parts.variants import MOVED, OBJECTS, SCENES, Variant, batch_size, model_config
from tools.stage_parts.configs import log_interval, schedule

DEMO = Path(__file__).resolve().parents[2] / 'mmcfg' / 'demo'
PRETRAIN = DEMO / 'mixedae_vit-tiny-p16_crops-128.py'
SEGMENTATION = DEMO / 'mixedae_vit-tiny-p16_upernet_label-maps.py'
DETECTION = DEMO / 'mixedae_vit-tiny-p16_mask-rcnn_coco-format.py'
LIGHT_CHANNELS = 48  # of pyramid and heads of a light detector
# A linear head has most to learn: from MAE's weights (seed 0), ADE20K, 600 steps, mIoU is 2.1 at these rates; at 5e-4
# for all it is 1.7, at 1e-3 with a layer decay of .75 it is 1.5.
LINEAR_RATES = {'optimizer': {'lr': 3e-4}, 'paramwise_cfg': {'custom_keys': {'decode_head': {'lr_mult': 20.0}}}}
NO_WORKERS = {'num_workers': 0, 'persistent_workers': False}  # a stage is one process on one core


def pretrain_config(variant: Variant, budget: Budget, index_file: Path, seed: int, iterations: int) -> dict[str, Any]:
    """Overrides of PRETRAIN."""
    dataset = {
        OBJECTS: {'type': 'mixedae.ObjectCropDataset'},
        MOVED: {'type': 'mixedae.SceneCropDataset', 'windows': 'moved'},
        SCENES: {'type': 'mixedae.SceneCropDataset', 'windows': 'scene'},
    }[variant.windows]
    dataset.update(index_file=str(index_file), size=budget.crop, seed=seed)
    model = model_config(variant, budget)
    loader = {'num_workers': budget.workers, 'persistent_workers': budget.workers > 0}
    extra: dict[str, Any] = {}
    if budget.device_data:
        where = {'type': 'mixedae.DeviceScenes', 'index_file': str(index_file), 'size': budget.crop}
        model['data_preprocessor'] = {**model['data_preprocessor'], **where}
        dataset = {'_delete_': True, 'type': 'mixedae.WindowDataset', 'dataset': dataset}
        extra = {'custom_imports': {'imports': ['mixedae', 'object_aware.device_scenes']}}
    optim = {'optimizer': {'lr': budget.lr}}
    if budget.precision != 'float32':
        optim = {'type': 'AmpOptimWrapper', 'dtype': budget.precision, **optim}
    return {
        **extra,
        'model': {'_delete_': True, **model},
        'train_dataloader': {
            'batch_size': batch_size(variant, budget) or budget.batch,
            **loader,
            'sampler': {'type': 'mixedae.InfiniteGroupSampler', 'group_size': 4, 'seed': seed},
            'dataset': dataset,
        },
        'optim_wrapper': optim,
        **schedule(max(1, iterations)),
        'default_hooks': {
            'logger': log_interval(iterations),
            'checkpoint': {'interval': budget.keep_every, 'max_keep_ckpts': 1},
        },
        'custom_hooks': [{'type': 'mixedae.PretrainMeterHook', 'interval': max(1, iterations // 20)}],
        'randomness': {'seed': seed},
    }


def segmentation_config(data: Data, task: str, budget: Budget, seed: int, checkpoint: Path) -> dict[str, Any]:
    """Overrides of SEGMENTATION for `task` 'camvid' or 'ade'."""
    tuning: Tuning = getattr(budget, task)
    part = data.layout.segmentation
    if task == 'camvid':
        classes, suffix, ignored = data.camvid_classes(), '.jpg', CAMVID_UNLABELLED
        folders = {s: (data.camvid / 'images' / s, data.camvid / 'annotations' / s) for s in ('train', 'val')}
    else:
        classes, suffix, ignored = list(part.classes), part.image_suffix, 255
        folders = {'train': (part.train_images, part.train_labels), 'val': (part.val_images, part.val_labels)}
    short = min(tuning.size)
    load = [{'type': 'LoadImageFromFile'}, {'type': 'LoadAnnotations'}]
    scale = {'scale': (4 * short, short), 'keep_ratio': True}
    train = [
        *load,
        {'type': 'RandomResize', **scale, 'ratio_range': (0.75, 1.75)},
        {'type': 'RandomCrop', 'crop_size': tuning.size, 'cat_max_ratio': 0.75, 'ignore_index': ignored},
        {'type': 'RandomFlip', 'prob': 0.5},
        {'type': 'PackSegInputs'},
    ]
    test = [
        load[0],
        {'type': 'Resize', **scale},
        {'type': 'ResizeToMultiple', 'size_divisor': 16},  # whole patches: nothing is padded
        load[1],  # after the resizing: labels are compared at their own size
        {'type': 'PackSegInputs'},
    ]
    head = {'num_classes': len(classes), 'ignore_index': ignored}
    extra: dict[str, Any] = {}
    if tuning.light:
        extra = {
            'custom_imports': {'imports': ['mixedae', 'tools.reproduce_parts.linear_head']},
            'optim_wrapper': LINEAR_RATES,
        }
        model = {
            'backbone': {**_backbone(budget, checkpoint, budget.blocks[-1:]), 'out_norm': 'final'},
            'neck': None,
            'decode_head': {
                '_delete_': True,
                'type': 'LinearHead',
                'in_channels': budget.width,
                'in_index': 0,
                'align_corners': False,
                **head,
            },
            'auxiliary_head': None,
        }
    else:
        model = {
            'backbone': _backbone(budget, checkpoint, budget.blocks),
            'neck': {'in_channels': budget.width},
            'decode_head': {**head, 'in_channels': [budget.width] * 4},
            'auxiliary_head': {**head, 'in_channels': budget.width},
        }

    def dataset(split: str, pipeline: list[dict]) -> dict[str, Any]:
        images, labels = folders[split]
        return {
            'metainfo': {'classes': classes},
            'img_suffix': suffix,
            'seg_map_suffix': '.png',
            'reduce_zero_label': task != 'camvid',
            'ignore_index': ignored,
            'data_root': None,
            'data_prefix': {'img_path': str(images), 'seg_map_path': str(labels)},
            'pipeline': pipeline,
        }

    return {
        **extra,
        'model': {'data_preprocessor': {'size': tuning.size, 'seg_pad_val': ignored}, **model},
        'train_dataloader': {'batch_size': tuning.batch, **NO_WORKERS, 'dataset': dataset('train', train)},
        'test_dataloader': {**NO_WORKERS, 'dataset': {**dataset('val', test), 'indices': tuning.val_images}},
        'test_evaluator': {'ignore_index': ignored},
        **_fine_tuning(tuning, seed),
    }


def detection_config(
    train_set: Scenes, val_set: Scenes, classes: list[str], masks: bool, budget: Budget, tuning: Tuning, seed: int,
    checkpoint: Path, written: Path,
) -> dict[str, Any]:  # fmt: skip
    """Overrides of DETECTION; without masks the mask head is left out (Faster R-CNN).

    `written`: how the names of the files begin that the test writes its detections into.
    """
    objects = {'type': 'LoadAnnotations', 'with_bbox': True, 'with_mask': masks}
    resize = {'type': 'Resize', 'scale': tuning.size, 'keep_ratio': True}
    load = {'type': 'LoadImageFromFile'}
    meta_keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
    train = [load, objects, resize, {'type': 'RandomFlip', 'prob': 0.5}, {'type': 'PackDetInputs'}]
    test = [load, resize, objects, {'type': 'PackDetInputs', 'meta_keys': meta_keys}]
    neck, rpn_head, roi_head = _detection_heads(tuning.light)
    roi_head['bbox_head']['num_classes'] = len(classes)
    if masks:
        roi_head['mask_head']['num_classes'] = len(classes)
    else:
        roi_head.update(mask_head=None, mask_roi_extractor=None)

    def dataset(scenes: Scenes, pipeline: list[dict]) -> dict[str, Any]:
        return {
            'data_root': None,
            'ann_file': str(scenes.annotations),
            'data_prefix': {'img': f'{scenes.images}/'},
            'metainfo': {'classes': classes},
            'pipeline': pipeline,
        }

    return {
        'model': {
            'backbone': _backbone(budget, checkpoint, (budget.blocks[-1],)),
            'neck': {'in_channels': budget.width, **neck},
            **rpn_head,
            'roi_head': roi_head,
        },
        'train_dataloader': {'batch_size': tuning.batch, **NO_WORKERS, 'dataset': dataset(train_set, train)},
        'test_dataloader': {**NO_WORKERS, 'dataset': {**dataset(val_set, test), 'indices': tuning.val_images}},
        'test_evaluator': {
            'ann_file': str(val_set.annotations),
            'metric': ['bbox', 'segm'] if masks else ['bbox'],
            'outfile_prefix': str(written),
        },
        **_fine_tuning(tuning, seed),
    }


def _detection_heads(light: bool) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Overrides of the neck, of the model (its RPN) and of `roi_head`."""
    if not light:
        return {}, {}, {'bbox_head': {}, 'mask_head': {}}
    c = LIGHT_CHANNELS
    roi_head = {
        'bbox_roi_extractor': {'out_channels': c},
        'bbox_head': {'in_channels': c, 'num_shared_convs': 0},
        'mask_roi_extractor': {'out_channels': c},
        'mask_head': {'in_channels': c, 'conv_out_channels': c, 'num_convs': 1},
    }
    return {'out_channels': c}, {'rpn_head': {'in_channels': c, 'feat_channels': c}}, roi_head


def _backbone(budget: Budget, checkpoint: Path, blocks: tuple[int, ...]) -> dict[str, Any]:
    arch = budget.arch if isinstance(budget.arch, str) else {'_delete_': True, **budget.arch}
    init = {'type': 'Pretrained', 'checkpoint': str(checkpoint)}
    return {'arch': arch, 'img_size': budget.crop, 'out_indices': blocks, 'init_cfg': init}


def _fine_tuning(tuning: Tuning, seed: int) -> dict[str, Any]:
    return {
        **schedule(tuning.iterations),
        'default_hooks': {'logger': log_interval(tuning.iterations), 'checkpoint': {'interval': tuning.iterations}},
        'randomness': {'seed': seed},
    }
