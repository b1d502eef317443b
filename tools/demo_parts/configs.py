"""Writes the config of each stage: it inherits one of mmcfg/demo and sets data, classes, sizes and iterations,
nothing else.

The files are there to be looked at and run again by hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tools.demo_parts.budgets import Budget, Task
from tools.demo_parts.layout import Detection, Scenes, Segmentation
from tools.stage_parts.configs import log_interval, schedule

DEMO_CONFIGS = Path(__file__).resolve().parents[2] / 'mmcfg' / 'demo'


def pretrain_config(index_file: Path, budget: Budget, seed: int) -> dict[str, Any]:
    """Overrides of mixedae_vit-tiny-p16_crops-128.py."""
    patches = (budget.crop // 16) ** 2
    assert patches % 4 == 0, 'r * L must be whole'
    return {
        'model': {'encoder': {'arch': _arch(budget), 'img_size': budget.crop}},
        'train_dataloader': {
            'batch_size': budget.pretrain_batch,
            'dataset': {'index_file': str(index_file), 'size': budget.crop, 'seed': seed},
            'sampler': {'seed': seed},
        },
        **schedule(budget.pretrain_iterations),
        'default_hooks': {
            'logger': log_interval(budget.pretrain_iterations),
            'checkpoint': {'interval': budget.pretrain_iterations},
        },
        'custom_hooks': [{'type': 'mixedae.PretrainMeterHook', 'interval': max(1, budget.pretrain_iterations // 40)}],
        'randomness': {'seed': seed},
    }


def detection_config(
    data: Detection, val: Scenes, budget: Budget, seed: int, checkpoint: Path | None
) -> dict[str, Any]:
    """Overrides of mixedae_vit-tiny-p16_mask-rcnn_coco-format.py; `val` may be a part of the data's own."""
    task = budget.detection
    names = {'classes': list(data.classes)}
    resize = {'type': 'Resize', 'scale': task.size, 'keep_ratio': True}
    load = [{'type': 'LoadImageFromFile'}]
    objects = {'type': 'LoadAnnotations', 'with_bbox': True, 'with_mask': True}
    meta_keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
    train = [*load, objects, resize, {'type': 'RandomFlip', 'prob': 0.5}, {'type': 'PackDetInputs'}]
    test = [*load, resize, objects, {'type': 'PackDetInputs', 'meta_keys': meta_keys}]
    return {
        'model': {
            'backbone': _backbone(budget, checkpoint, (budget.blocks[-1],)),
            'neck': {'in_channels': budget.width},
            'roi_head': {
                'bbox_head': {'num_classes': len(data.classes)},
                'mask_head': {'num_classes': len(data.classes)},
            },
        },
        'train_dataloader': {'batch_size': task.batch, 'dataset': {**_scenes(data.train, names), 'pipeline': train}},
        'test_dataloader': {'batch_size': 1, 'dataset': {**_scenes(val, names), 'pipeline': test}},
        'test_evaluator': {'ann_file': str(val.annotations)},
        **_fine_tuning(task, seed),
    }


def segmentation_config(data: Segmentation, budget: Budget, seed: int, checkpoint: Path | None) -> dict[str, Any]:
    """Overrides of mixedae_vit-tiny-p16_upernet_label-maps.py."""
    task = budget.segmentation
    short = min(task.size)
    resize = {'type': 'RandomResize', 'scale': (4 * short, short), 'ratio_range': (0.75, 1.75), 'keep_ratio': True}
    load = [{'type': 'LoadImageFromFile'}, {'type': 'LoadAnnotations'}]
    train = [
        *load,
        resize,
        {'type': 'RandomCrop', 'crop_size': task.size, 'cat_max_ratio': 0.75},
        {'type': 'RandomFlip', 'prob': 0.5},
        {'type': 'PackSegInputs'},
    ]
    test = [
        load[0],
        {'type': 'Resize', 'scale': (4 * short, short), 'keep_ratio': True},
        {'type': 'ResizeToMultiple', 'size_divisor': 16},  # whole patches: nothing is padded
        load[1],  # after the resizing: labels are compared at their own size
        {'type': 'PackSegInputs'},
    ]
    common = {'metainfo': {'classes': list(data.classes)}, 'img_suffix': data.image_suffix, 'seg_map_suffix': '.png'}
    train_folders = {'img_path': str(data.train_images), 'seg_map_path': str(data.train_labels)}
    val_folders = {'img_path': str(data.val_images), 'seg_map_path': str(data.val_labels)}
    head = {'num_classes': len(data.classes)}
    return {
        'model': {
            'data_preprocessor': {'size': task.size},
            'backbone': _backbone(budget, checkpoint, budget.blocks),
            'neck': {'in_channels': budget.width},
            'decode_head': {**head, 'in_channels': [budget.width] * 4},
            'auxiliary_head': {**head, 'in_channels': budget.width},
        },
        'train_dataloader': {
            'batch_size': task.batch,
            'dataset': {**common, 'data_root': None, 'data_prefix': train_folders, 'pipeline': train},
        },
        'test_dataloader': {
            'dataset': {
                **common,
                'data_root': None,
                'data_prefix': val_folders,
                'pipeline': test,
                'indices': task.val_images,
            }
        },
        **_fine_tuning(task, seed),
    }


def _backbone(budget: Budget, checkpoint: Path | None, blocks: tuple[int, ...]) -> dict[str, Any]:
    init = {'type': 'Pretrained', 'checkpoint': str(checkpoint)} if checkpoint else None
    return {'arch': _arch(budget), 'img_size': budget.crop, 'out_indices': blocks, 'init_cfg': init}


def _arch(budget: Budget) -> str | dict[str, Any]:
    """MMEngine replaces the base's name by a dict only if it is told to."""
    return budget.arch if isinstance(budget.arch, str) else {'_delete_': True, **budget.arch}


def _scenes(scenes: Scenes, names: dict[str, list[str]]) -> dict[str, Any]:
    return {
        'data_root': None,
        'ann_file': str(scenes.annotations),
        'data_prefix': {'img': f'{scenes.images}/'},
        'metainfo': names,
    }


def _fine_tuning(task: Task, seed: int) -> dict[str, Any]:
    return {
        **schedule(task.iterations),
        'default_hooks': {'logger': log_interval(task.iterations), 'checkpoint': {'interval': task.iterations}},
        'randomness': {'seed': seed},
    }
