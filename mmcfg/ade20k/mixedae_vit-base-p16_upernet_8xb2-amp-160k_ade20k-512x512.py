"""UPerNet, 160k iterations on ADE20K at 512 x 512: the paper's segmentation protocol (BEiT's).

AdamW 1e-4, layer decay 0.65, drop path 0.1, layer scale 1.0, relative position bias in every block from zero, raw features
of blocks 3, 5, 7, 11, batch 16. Tested at one scale by sliding windows of 512 at stride 341.

    8 GPUs * 2 images = 16 images/iter; 160000 iters * 16 / 20210 images = 126.7 ep

The paper: 48.7 mIoU after 800 epochs of pre-training, 49.8 after 1600; MAE 48.1.

Not trained here. Before training put the pre-training checkpoint in:

    python tools/train.py mmcfg/ade20k/mixedae_vit-base-p16_upernet_8xb2-amp-160k_ade20k-512x512.py --cfg-options \\
        model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=work_dirs/.../epoch_300.pth
"""

_base_ = [
    '../_base_/models/upernet_vit.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/seg_160k.py',
    '../_base_/seg_runtime.py',
]
