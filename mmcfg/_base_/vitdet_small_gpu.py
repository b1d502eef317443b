"""Mask R-CNN as in ViTDet for one small GPU: bfloat16, activation checkpointing, half the sampled boxes, 25 epochs.

Ours, untuned: rate 5e-5 for 16 images a step of the optimiser (ViTDet: 1e-4 for 64; square root of the ratio), clipped
gradients. What inherits it sets the size of the images, the batch, the steps that are added up, and the iterations; both
numbers stand in auto_scale_lr too: MMEngine compares the images of one pass, and the rate is for those of a step.
"""

_base_ = [
    './models/mask_rcnn_vitdet.py',
    './datasets/coco_lsj_1024.py',
    './det_runtime_iters.py',
    './schedules/vitdet_25e.py',
]

model = dict(
    backbone=dict(with_cp=True),
    train_cfg=dict(rpn_proposal=dict(max_per_img=1000), rcnn=dict(sampler=dict(num=256))),
)
train_dataloader = dict(num_workers=4)
optim_wrapper = dict(
    dtype='bfloat16',
    loss_scale=1.0,  # bfloat16 needs none
    optimizer=dict(lr=5e-5),
    clip_grad=dict(max_norm=1.0),
)
