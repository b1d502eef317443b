"""Faster R-CNN on ViT-Ti/16, persons in photographs of COCO with a long side of 224: the run of docs/transfer.md.

    800 iters * 8 images/iter / 2023 images = 3.2 ep

Reached, from the pre-training of docs/method.md (4000 iterations of 64 object crops of 128 px), seed 0, float32: box
AP 1.5, AP50 6.1, AP of large persons 7.3, in 28 minutes of one thread of an AMD EPYC (torch 2.11.0). With mmdet's script or
ours:

    python tools/train.py mmcfg/photographs/mixedae_vit-tiny-p16_faster-rcnn_1xb8-800i_coco-person-224.py --cfg-options \\
        model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=work_dirs/pretrain/iter_4000.pth

An example of boxes without masks.
"""

_base_ = '../coco/mixedae_vit-tiny-p16_mask-rcnn_1xb4-2k_coco-256.py'

iters = 800
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomChoiceResize', scales=[(side, side) for side in (192, 224, 256)], keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(256, 256), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
_root = 'data/photographs/pretrain/'
_data = dict(data_root=_root, metainfo=dict(classes=('person',)), data_prefix=dict(img='images/'))
train_dataloader = dict(
    batch_size=8, dataset=dict(**_data, ann_file='annotations/person_train.json', pipeline=train_pipeline)
)
val_dataloader = dict(dataset=dict(**_data, ann_file='annotations/person_val.json', pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=_root + 'annotations/person_val.json', metric='bbox')
test_evaluator = val_evaluator

model = dict(
    type='FasterRCNN',
    data_preprocessor=dict(pad_mask=False),
    backbone=dict(img_size=128),
    roi_head=dict(bbox_head=dict(num_classes=1), mask_roi_extractor=None, mask_head=None),
)
train_cfg = dict(max_iters=iters, val_interval=iters)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=iters // 10),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, begin=iters // 10, end=iters),
]
randomness = dict(seed=0)
