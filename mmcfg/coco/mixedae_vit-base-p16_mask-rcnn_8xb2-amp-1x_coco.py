"""Mask R-CNN with ViTDet's simple feature pyramid, 1x on COCO.

Ours, not the paper's: the last map (after the encoder's final LayerNorm) to strides 4-64, heads of the standard Mask R-CNN,
global attention in every block, drop path 0.1, layer decay 0.75.

    8 GPUs * 2 images = 16 images/iter; 12 ep * 117266 images / 16 = 87950 iters

Not trained here. Before training put the pre-training checkpoint in:

    python tools/train.py mmcfg/coco/mixedae_vit-base-p16_mask-rcnn_8xb2-amp-1x_coco.py --cfg-options \\
        model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=work_dirs/.../epoch_300.pth
"""

_base_ = [
    '../_base_/models/mask_rcnn_vit.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/det_1x.py',
    '../_base_/det_runtime.py',
]
