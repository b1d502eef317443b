"""Template: detection and instance masks on your own images in COCO format.

Copy it within this folder (elsewhere mend `_base_`), change the first block, train.

    data/mine/
        images/*.jpg
        annotations/train.json   boxes, and masks as polygons or RLE (or `masks = False`)
        annotations/val.json

    python tools/train.py mmcfg/templates/detection_coco-folder.py --work-dir work_dirs/mine
    python tools/test.py mmcfg/templates/detection_coco-folder.py work_dirs/mine/iter_12000.pth

ViT-S/16 with windows as in ViTDet, images of 640 x 640 with large-scale jitter. On a GPU it trains in bfloat16; for less
memory set `with_cp=True`, a smaller `batch` with a larger `steps_added`, or a smaller `side`. Not trained here.

    12000 iters * 4 images/iter = 48000 images; 3000 steps of the optimiser with 16 images each
"""

_base_ = '../coco/mixedae_vit-small-p16_vitdet-mask-rcnn_1xb4-bf16-acc4-lsj-25e_coco-640.py'

# ---- change these
data_root = 'data/mine/'
images = 'images/'
train_json, val_json = 'annotations/train.json', 'annotations/val.json'
classes = ('cup', 'plate')  # the names in the json, in the order of the json
masks = True  # False: the json has boxes alone
checkpoint = None  # 'work_dirs/pretrain_mine/iter_4000.pth': pre-trained with arch='small'; None trains from scratch
max_iters = 12000
batch, steps_added = 4, 4
side = 640  # a multiple of 16
# ----

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=masks),
    dict(type='RandomResize', scale=(side, side), ratio_range=(0.3, 2.0), keep_ratio=True),
    dict(
        type='RandomCrop', crop_type='absolute', crop_size=(side, side), recompute_bbox=True, allow_negative_crop=True
    ),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1e-2, 1e-2)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(side, side), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=masks),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
_data = dict(data_root=data_root, metainfo=dict(classes=classes), data_prefix=dict(img=images))
train_dataloader = dict(
    batch_size=batch, dataset=dict(**_data, ann_file=train_json, pipeline=train_pipeline, filter_cfg=dict(min_size=8))
)
val_dataloader = dict(dataset=dict(**_data, ann_file=val_json, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + val_json, metric=['bbox', 'segm'] if masks else 'bbox')
test_evaluator = val_evaluator

model = dict(
    data_preprocessor=dict(pad_size_divisor=side),
    backbone=dict(
        rel_pos_size=side,
        with_cp=False,
        **(dict(init_cfg=dict(type='Pretrained', checkpoint=checkpoint)) if checkpoint else {}),
    ),
    roi_head=dict(
        bbox_head=dict(num_classes=len(classes)),
        **(dict(mask_head=dict(num_classes=len(classes))) if masks else dict(mask_roi_extractor=None, mask_head=None)),
    ),
)
optim_wrapper = dict(
    accumulative_counts=steps_added,
    optimizer=dict(lr=1e-4),
    paramwise_cfg=dict(layer_decay_rate=0.8 if checkpoint else 1.0),  # layer-wise decay all but freezes random weights
)
train_cfg = dict(max_iters=max_iters, val_interval=max(1, max_iters // 4))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=max(1, max_iters // 20)),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, begin=max(1, max_iters // 20), end=max_iters),
]
default_hooks = dict(checkpoint=dict(interval=max(1, max_iters // 4)))
