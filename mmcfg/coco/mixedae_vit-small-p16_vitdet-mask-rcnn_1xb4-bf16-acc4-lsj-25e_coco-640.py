"""Mask R-CNN as in ViTDet on ViT-S/16 for one small GPU: 25 epochs of COCO at 640 x 640.

bfloat16, activation checkpointing, gradients of 4 steps added up, images of 640 x 640. Ours, untuned: rate 5e-5 for
16 images a step (ViTDet: 1e-4 for 64; square root of the ratio), clipped gradients.

    1 GPU * 4 images * 4 steps = 16 images a step of the optimiser
    732912 iters * 4 images / 117266 images = 25.0 ep

A step needs 1.9 GiB of tensors (counted on a CPU: tools/analysis/step_memory.py); a GPU needs more, not measured.
More is saved by a smaller batch_size with a larger accumulative_counts; less is needed
(`model.backbone.with_cp=False` is faster) on a larger GPU.

Not trained here. Before training put the pre-training checkpoint in:

    python tools/train.py mmcfg/coco/mixedae_vit-small-p16_vitdet-mask-rcnn_1xb4-bf16-acc4-lsj-25e_coco-640.py --cfg-options \\
        model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=work_dirs/.../epoch_300.pth
"""

_base_ = './mixedae_vit-base-p16_vitdet-mask-rcnn_1xb2-bf16-acc8-lsj-25e_coco-640.py'

model = dict(backbone=dict(arch='small'), neck=dict(in_channels=384))
train_dataloader = dict(batch_size=4)
optim_wrapper = dict(accumulative_counts=4)
auto_scale_lr = dict(base_batch_size=4, accumulative_counts=4)  # the rate is for the product
train_cfg = dict(max_iters=732912, val_interval=73291)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', by_epoch=False, begin=0, end=732912, milestones=[651559, 705794], gamma=0.1),
]
default_hooks = dict(checkpoint=dict(interval=73291))
