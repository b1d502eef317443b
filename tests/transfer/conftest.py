"""A whole tiny journey's material: drawn scenes, a pre-training checkpoint, configs that inherit mmcfg's small ones."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from object_aware.synthetic import write_demo_data

REPO = Path(__file__).resolve().parents[2]
LR = 1e-4
ARCH = 'dict(_delete_=True, embed_dim=32, depth=4, num_heads=2)'

PRETRAIN = f"""
_base_ = '{REPO}/mmcfg/pretrain/mixedae_vit-tiny-p16_8xb512-amp-coslr-300e_in1k.py'
model = dict(encoder=dict(arch={ARCH}, img_size=64), decoder=dict(embed_dim=32, depth=1, num_heads=2))
train_dataloader = dict(batch_size=4, num_workers=0, persistent_workers=False, pin_memory=False,
                        dataset=dict(root='DATA/det/images', size=64))
train_cfg = dict(max_epochs=1)
param_scheduler = None
custom_hooks = [dict(type='mixedae.PretrainMeterHook', interval=1)]
default_hooks = dict(logger=dict(interval=1))
"""

DETECTION = f"""
_base_ = '{REPO}/mmcfg/coco/mixedae_vit-tiny-p16_mask-rcnn_1xb4-2k_coco-256.py'
classes = CLASSES
data = dict(data_root='DATA/det/', metainfo=dict(classes=classes), data_prefix=dict(img='images/'))
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False,
                        dataset=dict(**data, ann_file='annotations/train.json'))
val_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False,
                      dataset=dict(**data, ann_file='annotations/val.json'))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='DATA/det/annotations/val.json')
test_evaluator = val_evaluator
model = dict(
    backbone=dict(arch={ARCH}, out_indices=(3,), init_cfg=dict(type='Pretrained', checkpoint='PRETRAINED')),
    neck=dict(in_channels=32),
    roi_head=dict(bbox_head=dict(num_classes=len(classes)), mask_head=dict(num_classes=len(classes))),
    test_cfg=dict(rcnn=dict(score_thr=0.0)))
"""

SEGMENTATION = f"""
_base_ = '{REPO}/mmcfg/ade20k/mixedae_vit-tiny-p16_upernet_1xb8-2k_ade20k-192x192.py'
classes = CLASSES
data = dict(data_root='DATA/seg', metainfo=dict(classes=classes))
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False, dataset=dict(
    **data, data_prefix=dict(img_path='images/train', seg_map_path='annotations/train')))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(
    **data, data_prefix=dict(img_path='images/val', seg_map_path='annotations/val')))
test_dataloader = val_dataloader
model = dict(
    backbone=dict(arch={ARCH}, out_indices=(0, 1, 2, 3), init_cfg=dict(type='Pretrained', checkpoint='PRETRAINED')),
    neck=dict(in_channels=32),
    decode_head=dict(in_channels=[32] * 4, num_classes=len(classes)),
    auxiliary_head=dict(in_channels=32, num_classes=len(classes)))
"""

ONE_STEP = f"""
train_cfg = dict(max_iters=1, val_interval=1)
param_scheduler = None
optim_wrapper = dict(optimizer=dict(lr={LR}), paramwise_cfg=dict(layer_decay_rate=1.0))
default_hooks = dict(checkpoint=dict(interval=1), logger=dict(interval=1))
randomness = dict(seed=0)
"""


def run_script(script, *arguments, check=True):
    """Runs a script with this interpreter, one thread, the checkout importable; returns the finished process."""
    env = {**os.environ, 'PYTHONPATH': str(REPO), 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(
        [sys.executable, str(script), *map(str, arguments)], env=env, capture_output=True, text=True, timeout=900
    )
    if check:
        assert done.returncode == 0, f'{script} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}'
    return done


@pytest.fixture(scope='session')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    write_demo_data(folder, num_train=8, num_val=2, size=(96, 72))
    return folder


@pytest.fixture(scope='session')
def pretrained(tmp_path_factory, data):
    """Two steps of real pre-training by tools/train.py; the checkpoint."""
    folder = tmp_path_factory.mktemp('pretrain')
    config = folder / 'tiny_pretrain.py'
    config.write_text(PRETRAIN.replace('DATA', str(data)))
    run_script(REPO / 'tools' / 'train.py', config, '--work-dir', folder, '--seed', 1)
    return folder / 'epoch_1.pth'


@pytest.fixture(scope='session')
def configs(tmp_path_factory, data, pretrained):
    """{'detection': path, 'segmentation': path}"""
    folder = tmp_path_factory.mktemp('configs')
    categories = json.loads((data / 'det' / 'annotations' / 'train.json').read_text())['categories']
    classes = {
        'detection': [category['name'] for category in categories],
        'segmentation': (data / 'seg' / 'classes.txt').read_text().split(),
    }
    paths = {}
    for name, text in (('detection', DETECTION), ('segmentation', SEGMENTATION)):
        text = text.replace('DATA', str(data)).replace('PRETRAINED', str(pretrained))
        paths[name] = folder / f'tiny_{name}.py'
        paths[name].write_text(text.replace('CLASSES', repr(tuple(classes[name]))) + ONE_STEP)
    return paths
