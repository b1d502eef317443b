"""Cascade Mask R-CNN, 1x on COCO: the paper's detection protocol.

From the paper: Cascade Mask R-CNN on the pre-trained ViT-B/16, 1x schedule. The rest is iBOT's protocol and our reading of
it: batch 16, AdamW 1e-4, layer decay 0.75, drop path 0.2, short side 480-800, long side at most 1333, features of
blocks 3, 5, 7, 11. Global attention in every block. iBOT's code also crops half of the images before it resizes them; ours
does not.

    8 GPUs * 2 images = 16 images/iter; 12 ep * 117266 images / 16 = 87950 iters

The paper: over MAE with the same protocol +0.6 / +0.9 / +0.9 box AP and +0.5 / +0.6 / +0.7 mask AP after 300 / 800 / 1600
epochs of pre-training.

Not trained here. Before training put the pre-training checkpoint in:

    python tools/train.py mmcfg/coco/mixedae_vit-base-p16_cascade-mask-rcnn_8xb2-amp-1x_coco.py --cfg-options \\
        model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=work_dirs/.../epoch_300.pth
"""

_base_ = [
    '../_base_/models/cascade_mask_rcnn_vit.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/det_1x.py',
    '../_base_/det_runtime.py',
]
