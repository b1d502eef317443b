"""UPerNet on ViT-Ti/16, CamVid, 11 classes, 320 x 240: the run of docs/transfer.md, fit for a CPU.

    800 iters * 8 crops/iter / 367 images = 17.4 ep

Reached, from the pre-training of docs/method.md (4000 iterations of 64 object crops of 128 px), seed 0, float32: mIoU
32.6, mAcc 43.4, pixel accuracy 75.5, in 26 minutes of one thread of an AMD EPYC (torch 2.11.0). With mmseg's script or ours:

    python tools/train.py mmcfg/photographs/mixedae_vit-tiny-p16_upernet_1xb8-800i_camvid-192x192.py --cfg-options \\
        model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=work_dirs/pretrain/iter_4000.pth

Label 11 (unlabelled) is left out: an example of label maps whose classes begin at 0 and whose unlabelled pixels come last.
"""

_base_ = '../ade20k/mixedae_vit-tiny-p16_upernet_1xb8-2k_ade20k-192x192.py'

iters = 800
classes = (
    *('sky', 'building', 'pole', 'road', 'pavement', 'tree', 'sign_symbol', 'fence'),
    *('car', 'pedestrian', 'bicyclist'),
)
palette = [[128, 128, 128], [128, 0, 0], [192, 192, 128], [128, 64, 128], [60, 40, 222], [128, 128, 0], [192, 128, 128]]
palette += [[64, 64, 128], [64, 0, 128], [64, 64, 0], [0, 128, 192]]
unlabelled = 11

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(960, 240), ratio_range=(0.75, 1.75), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(192, 192), cat_max_ratio=0.75, ignore_index=unlabelled),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(960, 240), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
_data = dict(
    data_root='data/photographs/seg_camvid',
    metainfo=dict(classes=classes, palette=palette),
    reduce_zero_label=False,
)
train_dataloader = dict(
    dataset=dict(
        **_data,
        pipeline=train_pipeline,
        data_prefix=dict(img_path='images/train', seg_map_path='annotations/train'),
    )
)
val_dataloader = dict(
    dataset=dict(
        **_data, pipeline=test_pipeline, data_prefix=dict(img_path='images/val', seg_map_path='annotations/val')
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(ignore_index=unlabelled)
test_evaluator = val_evaluator

model = dict(
    data_preprocessor=dict(seg_pad_val=unlabelled),
    backbone=dict(img_size=128),
    decode_head=dict(num_classes=11, ignore_index=unlabelled),
    auxiliary_head=dict(num_classes=11, ignore_index=unlabelled),
)
train_cfg = dict(max_iters=iters, val_interval=iters)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=iters // 10),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, begin=iters // 10, end=iters),
]
randomness = dict(seed=0)
