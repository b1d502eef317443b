"""UPerNet, 160k iterations on ADE20K at 512 x 512: the paper's segmentation protocol (BEiT's), all but one part.

AdamW 1e-4, layer decay 0.65, drop path 0.1, layer scale 1.0, raw features of blocks 3, 5, 7, 11, batch 16. The relative
position bias of BEiT's recipe is not there yet: positions are the resampled absolute ones. Tested by sliding
windows of 512 at stride 341.

    8 GPUs * 2 images = 16 images/iter; 160000 iters * 16 / 20210 images = 126.7 ep

No figures of ours yet (the paper: 49.8 mIoU after 1600 epochs of pre-training). Before training put the checkpoint in:

    python tools/train.py mmcfg/ade20k/mixedae_vit-base-p16_upernet_8xb2-amp-160k_ade20k-512x512.py --cfg-options \\
        model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=work_dirs/.../epoch_300.pth
"""

_base_ = [
    '../_base_/models/upernet_vit.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/seg_160k.py',
    '../_base_/seg_runtime.py',
]
