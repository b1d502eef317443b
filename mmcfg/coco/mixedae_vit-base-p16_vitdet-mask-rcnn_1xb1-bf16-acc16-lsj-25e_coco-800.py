"""Mask R-CNN as in ViTDet on ViT-B/16 for one small GPU: 25 epochs of COCO at 800 x 800.

bfloat16, activation checkpointing, gradients of 16 steps added up, images of 800 x 800. Ours, untuned: rate 5e-5 for
16 images a step (ViTDet: 1e-4 for 64; square root of the ratio), clipped gradients.

    1 GPU * 1 images * 16 steps = 16 images a step of the optimiser
    2931648 iters * 1 images / 117266 images = 25.0 ep

A step needs 2.4 GiB of tensors (counted on a CPU: tools/analysis/step_memory.py); a GPU needs more, not measured.
More is saved by a smaller batch_size with a larger accumulative_counts; less is needed
(`model.backbone.with_cp=False` is faster) on a larger GPU.

Not trained here. Before training put the pre-training checkpoint in:

    python tools/train.py mmcfg/coco/mixedae_vit-base-p16_vitdet-mask-rcnn_1xb1-bf16-acc16-lsj-25e_coco-800.py --cfg-options \\
        model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=work_dirs/.../epoch_300.pth
"""

_base_ = '../_base_/vitdet_small_gpu.py'

image_size = (800, 800)
model = dict(data_preprocessor=dict(pad_size_divisor=800), backbone=dict(rel_pos_size=800))
train_pipeline, test_pipeline = (
    [{key: image_size if key in ('scale', 'crop_size') else value for key, value in step.items()} for step in pipeline]
    for pipeline in (_base_.train_pipeline, _base_.test_pipeline)
)
train_dataloader = dict(batch_size=1, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(accumulative_counts=16)
auto_scale_lr = dict(base_batch_size=1, accumulative_counts=16)  # the rate is for the product
train_cfg = dict(max_iters=2931648, val_interval=293164)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=4000),
    dict(type='MultiStepLR', by_epoch=False, begin=0, end=2931648, milestones=[2606235, 2823177], gamma=0.1),
]
default_hooks = dict(checkpoint=dict(interval=293164))
