"""Mask R-CNN as in ViTDet on ViT-S/16: 100 epochs of COCO at 1024 x 1024.

Drop path 0.1, layer decay 0.7; all else as for ViT-B.

    8 GPUs * 8 images = 64 images/iter; 184375 iters * 64 / 118000 images = 100 ep

Ours, after the ViT-B recipe; ViTDet has no ViT-S.

Not trained here. Before training put the pre-training checkpoint in:

    python tools/train.py mmcfg/coco/mixedae_vit-small-p16_vitdet-mask-rcnn_8xb8-amp-lsj-100e_coco-1024.py --cfg-options \\
        model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=work_dirs/.../epoch_300.pth
"""

_base_ = './mixedae_vit-base-p16_vitdet-mask-rcnn_8xb8-amp-lsj-100e_coco-1024.py'

model = dict(backbone=dict(arch='small'), neck=dict(in_channels=384))
