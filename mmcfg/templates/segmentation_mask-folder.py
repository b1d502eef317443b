"""Template: semantic segmentation on your own images with label maps.

Copy it within this folder (elsewhere mend `_base_`), change the first block, train.

    data/mine/
        images/{train,val}/*.jpg
        annotations/{train,val}/*.png   one grey value for each class, of the same name as the image

Values: 0 = unlabelled and 1..n = classes (`zero_is_unlabelled=True`, as ADE20K), or 0..n-1 = classes and 255 = unlabelled.
A binary mask: write 0 and 255 as 0 and 1, `classes = ('background', 'crack')` and `zero_is_unlabelled = False`.

    python tools/train.py mmcfg/templates/segmentation_mask-folder.py --work-dir work_dirs/mine
    python tools/test.py mmcfg/templates/segmentation_mask-folder.py work_dirs/mine/iter_20000.pth

UPerNet on ViT-S/16 at 512 x 512. On a GPU it trains in half precision; for less memory set `with_cp=True` or a smaller
`crop`. Not trained here.

    20000 iters * 8 images/iter = 160000 crops
"""

_base_ = '../ade20k/mixedae_vit-small-p16_upernet_8xb2-amp-160k_ade20k-512x512.py'

# ---- change these
data_root = 'data/mine'
classes = ('road', 'sky')
zero_is_unlabelled = True
image_suffix, label_suffix = '.jpg', '.png'
checkpoint = None  # 'work_dirs/pretrain_mine/iter_4000.pth': pre-trained with arch='small'; None trains from scratch
max_iters = 20000
batch = 8
crop = (512, 512)  # height, width; multiples of 16
# ----

norm_cfg = dict(type='BN', requires_grad=True)  # one GPU; several: SyncBN
model = dict(
    data_preprocessor=dict(size=crop),
    backbone=dict(
        rel_pos_size=crop,
        with_cp=False,
        **(dict(init_cfg=dict(type='Pretrained', checkpoint=checkpoint)) if checkpoint else {}),
    ),
    neck=dict(norm='BN'),
    decode_head=dict(num_classes=len(classes), norm_cfg=norm_cfg, channels=256),
    auxiliary_head=dict(num_classes=len(classes), norm_cfg=norm_cfg),
    test_cfg=dict(mode='slide', crop_size=crop, stride=tuple(side * 2 // 3 for side in crop)),
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(4 * crop[0], crop[0]), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(4 * crop[0], crop[0]), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
_data = dict(
    type='BaseSegDataset',
    data_root=data_root,
    metainfo=dict(classes=classes),
    img_suffix=image_suffix,
    seg_map_suffix=label_suffix,
    reduce_zero_label=zero_is_unlabelled,
)
train_dataloader = dict(
    batch_size=batch,
    dataset=dict(
        **_data, data_prefix=dict(img_path='images/train', seg_map_path='annotations/train'), pipeline=train_pipeline
    ),
)
val_dataloader = dict(
    dataset=dict(
        **_data,
        data_prefix=dict(img_path='images/val', seg_map_path='annotations/val'),
        test_mode=True,
        pipeline=test_pipeline,
    )
)
test_dataloader = val_dataloader
optim_wrapper = dict(
    optimizer=dict(lr=1e-4),
    clip_grad=dict(max_norm=3.0),
    paramwise_cfg=dict(layer_decay_rate=0.65 if checkpoint else 1.0),  # decay all but freezes random weights
)
auto_scale_lr = dict(base_batch_size=8)  # images a step that this rate is for
train_cfg = dict(max_iters=max_iters, val_interval=max(1, max_iters // 4))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=max(1, max_iters // 20)),
    dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False, begin=max(1, max_iters // 20), end=max_iters),
]
default_hooks = dict(checkpoint=dict(interval=max(1, max_iters // 4)))
