"""Cascade Mask R-CNN on ViT-L/16, 1x on COCO; the paper has ViT-B alone.

Ours, after the ViT-B recipe: drop path 0.3, layer decay 0.8, outputs of blocks 7, 11, 15, 23.

    8 GPUs * 2 images = 16 images/iter; 12 ep * 117266 images / 16 = 87950 iters

Not trained here. Before training put the pre-training checkpoint in:

    python tools/train.py mmcfg/coco/mixedae_vit-large-p16_cascade-mask-rcnn_8xb2-amp-1x_coco.py --cfg-options \\
        model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=work_dirs/.../epoch_300.pth
"""

_base_ = './mixedae_vit-base-p16_cascade-mask-rcnn_8xb2-amp-1x_coco.py'

model = dict(
    backbone=dict(arch='large', out_indices=(7, 11, 15, 23), drop_path_rate=0.3),
    neck=[
        dict(_base_.model.neck[0], in_channels=1024),
        dict(_base_.model.neck[1], in_channels=[1024] * 4),
        _base_.model.neck[2],
    ],
)
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.8))
