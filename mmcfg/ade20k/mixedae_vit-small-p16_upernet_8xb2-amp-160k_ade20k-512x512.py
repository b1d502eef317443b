"""UPerNet on ViT-S/16, 160k iterations on ADE20K at 512 x 512; the paper has ViT-B alone.

Ours, after the ViT-B recipe: drop path 0.1, layer decay 0.65, blocks 3, 5, 7, 11, heads of 384 channels.

    8 GPUs * 2 images = 16 images/iter; 160000 iters * 16 / 20210 images = 126.7 ep

Not trained here. Before training put the pre-training checkpoint in:

    python tools/train.py mmcfg/ade20k/mixedae_vit-small-p16_upernet_8xb2-amp-160k_ade20k-512x512.py --cfg-options \\
        model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=work_dirs/.../epoch_300.pth
"""

_base_ = './mixedae_vit-base-p16_upernet_8xb2-amp-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(arch='small'),
    neck=dict(in_channels=384),
    decode_head=dict(in_channels=[384, 384, 384, 384], channels=384),
    auxiliary_head=dict(in_channels=384),
)
