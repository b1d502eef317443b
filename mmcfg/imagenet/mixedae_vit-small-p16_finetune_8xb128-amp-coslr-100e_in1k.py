"""Fine-tuning ViT-S/16 on ImageNet-1K for 100 epochs; the paper has ViT-B alone.

Ours, after the ViT-B recipe: drop path 0.1, layer decay 0.65.

    8 GPUs * 128 images = 1024 images/iter; 100 ep * 1281167 images / 1024 = 125100 iters

Not trained here. Before training put the pre-training checkpoint in:

    python tools/train.py mmcfg/imagenet/mixedae_vit-small-p16_finetune_8xb128-amp-coslr-100e_in1k.py --cfg-options \\
        model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=work_dirs/.../epoch_300.pth
"""

_base_ = './mixedae_vit-base-p16_finetune_8xb128-amp-coslr-100e_in1k.py'

model = dict(backbone=dict(arch='small'))
