"""Cascade Mask R-CNN as in ViTDet on ViT-B/16: 100 epochs of COCO at 1024 x 1024.

Large-scale jitter, windows of 14 with 4 global blocks, decomposed relative positions, simple feature pyramid; AdamW
1e-4, weight decay 0.1, layer decay 0.7, drop path 0.1. The learning rate is for 64 images/iter.

    8 GPUs * 8 images = 64 images/iter; 184375 iters * 64 / 118000 images = 100 ep

For comparison, from detectron2's table (not run here): MAE weights, 54.0 box AP and 46.7 mask AP, 12.3 GB at 1 image per GPU.
The paper of MixedAE gives no ViTDet figures.

Not trained here. Before training put the pre-training checkpoint in:

    python tools/train.py mmcfg/coco/mixedae_vit-base-p16_vitdet-cascade-mask-rcnn_8xb8-amp-lsj-100e_coco-1024.py --cfg-options \\
        model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=work_dirs/.../epoch_300.pth
"""

_base_ = [
    '../_base_/models/cascade_mask_rcnn_vitdet.py',
    '../_base_/datasets/coco_lsj_1024.py',
    '../_base_/det_runtime_iters.py',
    '../_base_/schedules/vitdet_100e.py',
]
