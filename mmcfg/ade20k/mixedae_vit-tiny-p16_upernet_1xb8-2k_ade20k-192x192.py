"""UPerNet on ViT-Ti/16 for small images and small data: crops of 192 x 192, 2000 iterations of 8 images, fit for a CPU.

Heads of 128 channels, batch norm, whole-image testing. The data is a folder of images and label maps (0 = unlabelled, 1..n =
classes). To train on your own, inherit and set the data, the classes and their number:

    _base_ = './mixedae_vit-tiny-p16_upernet_1xb8-2k_ade20k-192x192.py'
    data = dict(data_root='data/mine', metainfo=dict(classes=('road', 'sky')))
    train_dataloader = dict(dataset=dict(
        **data, data_prefix=dict(img_path='images/train', seg_map_path='annotations/train')))
    val_dataloader = dict(dataset=dict(
        **data, data_prefix=dict(img_path='images/val', seg_map_path='annotations/val')))
    test_dataloader = val_dataloader
    model = dict(
        backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='work_dirs/pretrain_mine/iter_4000.pth')),
        decode_head=dict(num_classes=2), auxiliary_head=dict(num_classes=2))

For another ViT set `model.backbone.arch` (a dict of sizes needs `_delete_=True`), and with another width
`model.neck.in_channels` and the `in_channels` of both heads.

    2000 iters * 8 images/iter = 16000 crops
"""

_base_ = [
    '../_base_/models/upernet_vit.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/finetune_iters.py',
    '../_base_/seg_runtime.py',
]

crop_size = (192, 192)
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(arch='tiny', drop_path_rate=0.05, init_values=None, rel_pos=None),
    neck=dict(in_channels=192, norm='BN'),
    decode_head=dict(in_channels=[192, 192, 192, 192], channels=128, norm_cfg=norm_cfg),
    auxiliary_head=dict(in_channels=192, channels=64, norm_cfg=norm_cfg),
    test_cfg=dict(_delete_=True, mode='whole'),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(768, 192), ratio_range=(0.75, 1.75), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(768, 192), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
# the names of the 150 classes come with the config that inherits; ADE20KDataset has them built in
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    dataset=dict(type='BaseSegDataset', reduce_zero_label=True, pipeline=train_pipeline),
)
val_dataloader = dict(
    num_workers=1, dataset=dict(type='BaseSegDataset', reduce_zero_label=True, test_mode=True, pipeline=test_pipeline)
)
test_dataloader = val_dataloader

default_hooks = dict(checkpoint=dict(interval=1000, max_keep_ckpts=1), logger=dict(interval=20))
log_processor = dict(window_size=20)
