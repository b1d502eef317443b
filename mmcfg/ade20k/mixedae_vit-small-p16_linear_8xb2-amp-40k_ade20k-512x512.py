"""A linear head on frozen features of ViT-S/16, 40k iterations on ADE20K at 512 x 512.

As for ViT-B.

    8 GPUs * 2 images = 16 images/iter; 40000 iters * 16 / 20210 images = 31.7 ep

Not trained here. Before training put the pre-training checkpoint in:

    python tools/train.py mmcfg/ade20k/mixedae_vit-small-p16_linear_8xb2-amp-40k_ade20k-512x512.py --cfg-options \\
        model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=work_dirs/.../epoch_300.pth
"""

_base_ = './mixedae_vit-base-p16_linear_8xb2-amp-40k_ade20k-512x512.py'

model = dict(
    backbone=dict(arch='small'),
    neck=dict(in_channels=384),
    decode_head=dict(in_channels=384, channels=384),
)
