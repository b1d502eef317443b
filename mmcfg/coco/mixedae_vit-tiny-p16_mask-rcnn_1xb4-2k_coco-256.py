"""Mask R-CNN on ViT-Ti/16 for small images and small data: long side 256, 2000 iterations of 4 images, fit for a CPU.

Narrow pyramid (96 channels), anchors of 16-256 pixels, few proposals; LayerNorm in box and mask head, boxes and masks
without classes, a rate of 1e-3. Measured on photographs, 80 iterations of 4 at 160 px from a pre-trained backbone, without
layer-wise decay, mean losses on 80 held-out images, beside heads without norm and with classes at a rate of 5e-4: mask 0.661
(0.689), class 0.830 (0.911), box 0.378 (0.429).

To train on a COCO-format folder of your own, inherit and set the data, the classes and their number:

    _base_ = './mixedae_vit-tiny-p16_mask-rcnn_1xb4-2k_coco-256.py'
    classes = ('cup', 'plate')
    data = dict(data_root='data/mine/', metainfo=dict(classes=classes), data_prefix=dict(img='images/'))
    train_dataloader = dict(dataset=dict(**data, ann_file='annotations/train.json'))
    val_dataloader = dict(dataset=dict(**data, ann_file='annotations/val.json'))
    test_dataloader = val_dataloader
    val_evaluator = dict(ann_file='data/mine/annotations/val.json')
    test_evaluator = val_evaluator
    model = dict(
        backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='work_dirs/pretrain_mine/iter_4000.pth')),
        roi_head=dict(bbox_head=dict(num_classes=2), mask_head=dict(num_classes=2)))

For another ViT set `model.backbone.arch` (a dict of sizes needs `_delete_=True`), and with another width
`model.neck.in_channels`.

    2000 iters * 4 images/iter = 8000 images
"""

_base_ = [
    '../_base_/models/mask_rcnn_vit.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/finetune_iters.py',
    '../_base_/det_runtime.py',
]

norm_cfg = dict(type='mixedae.LayerNorm2d', eps=1e-6)
model = dict(
    backbone=dict(arch='tiny', out_indices=(11,), drop_path_rate=0.05),
    neck=dict(in_channels=192, out_channels=96),
    rpn_head=dict(in_channels=96, feat_channels=96, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=96, roi_layer=dict(sampling_ratio=2)),
        bbox_head=dict(
            type='ConvFCBBoxHead',
            num_shared_convs=2,
            num_shared_fcs=1,
            in_channels=96,
            conv_out_channels=96,
            fc_out_channels=256,
            reg_class_agnostic=True,
            norm_cfg=norm_cfg,
        ),
        mask_roi_extractor=dict(out_channels=96, roi_layer=dict(sampling_ratio=2)),
        mask_head=dict(num_convs=2, in_channels=96, conv_out_channels=96, class_agnostic=True, norm_cfg=norm_cfg),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=128)),
        rpn_proposal=dict(nms_pre=500, max_per_img=200),
        rcnn=dict(sampler=dict(num=64)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=300, max_per_img=100), rcnn=dict(max_per_img=50)),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomChoiceResize', scales=[(side, side) for side in (192, 224, 256)], keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(256, 256), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    batch_sampler=None,
    dataset=dict(filter_cfg=dict(filter_empty_gt=True, min_size=16), pipeline=train_pipeline),
)
val_dataloader = dict(batch_size=4, num_workers=1, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(lr=1e-3))
default_hooks = dict(
    logger=dict(interval=20, log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=1000, max_keep_ckpts=1),
)
log_processor = dict(by_epoch=False, window_size=20)
