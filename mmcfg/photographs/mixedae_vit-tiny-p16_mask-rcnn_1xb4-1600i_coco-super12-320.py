"""Mask R-CNN on ViT-Ti/16, the 12 supercategories of COCO, long side 448: the run of docs/transfer.md.

    1600 iters * 4 images/iter / 439 images = 14.6 ep

Reached, from the pre-training of docs/method.md (4000 iterations of 64 object crops of 128 px), seed 0, float32: box
AP 0.3, AP50 1.1, mask AP 0.2, AP50 0.9, in 55 minutes of one thread of an AMD EPYC (torch 2.11.0). With mmdet's script or
ours:

    python tools/train.py mmcfg/photographs/mixedae_vit-tiny-p16_mask-rcnn_1xb4-1600i_coco-super12-320.py --cfg-options \\
        model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=work_dirs/pretrain/iter_4000.pth
"""

_base_ = '../coco/mixedae_vit-tiny-p16_mask-rcnn_1xb4-2k_coco-256.py'

iters = 1600
classes = (
    *('person', 'vehicle', 'outdoor', 'animal', 'accessory', 'sports'),
    *('kitchen', 'food', 'furniture', 'electronic', 'appliance', 'indoor'),
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomChoiceResize', scales=[(side, side) for side in (256, 320, 384)], keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(320, 320), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
_root = 'data/photographs/det/'
_data = dict(data_root=_root, metainfo=dict(classes=classes), data_prefix=dict(img='images/'))
train_dataloader = dict(dataset=dict(**_data, ann_file='annotations/train_super12.json', pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(**_data, ann_file='annotations/val_super12.json', pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=_root + 'annotations/val_super12.json')
test_evaluator = val_evaluator

model = dict(
    backbone=dict(img_size=128),
    roi_head=dict(bbox_head=dict(num_classes=12), mask_head=dict(num_classes=12)),
)
train_cfg = dict(max_iters=iters, val_interval=iters)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=iters // 10),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, begin=iters // 10, end=iters),
]
randomness = dict(seed=0)
