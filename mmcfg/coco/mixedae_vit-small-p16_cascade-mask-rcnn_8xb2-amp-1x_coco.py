"""Cascade Mask R-CNN on ViT-S/16, 1x on COCO; the paper has ViT-B alone.

Ours, after the ViT-B recipe: drop path 0.1, layer decay 0.75, outputs of blocks 3, 5, 7, 11.

    8 GPUs * 2 images = 16 images/iter; 12 ep * 117266 images / 16 = 87950 iters

Not trained here. Before training put the pre-training checkpoint in:

    python tools/train.py mmcfg/coco/mixedae_vit-small-p16_cascade-mask-rcnn_8xb2-amp-1x_coco.py --cfg-options \\
        model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=work_dirs/.../epoch_300.pth
"""

_base_ = './mixedae_vit-base-p16_cascade-mask-rcnn_8xb2-amp-1x_coco.py'

model = dict(
    backbone=dict(arch='small', drop_path_rate=0.1),
    neck=[
        dict(_base_.model.neck[0], in_channels=384),
        dict(_base_.model.neck[1], in_channels=[384] * 4),
        _base_.model.neck[2],
    ],
)
