"""Fine-tuning on ImageNet-1K for 100 epochs: the paper's classification protocol, in MAE's settings.

AdamW, batch 1024, 5e-4 * batch / 256, layer decay 0.65, weight decay 0.05, drop path 0.1, RandAugment (9, 0.5), random
erasing 0.25, mixup 0.8, cutmix 1.0, label smoothing 0.1, mean of the patch tokens. From the paper: 100 epochs and the mean;
the rest is MAE's published recipe. Needs neither mmcv nor mmpretrain.

    8 GPUs * 128 images = 1024 images/iter; 100 ep * 1281167 images / 1024 = 125100 iters (1251 an epoch)

The paper: 83.9 % top-1 after 1600 epochs of pre-training (MAE 83.6). Not trained here. Before training put the pre-training
checkpoint in:

    python tools/train.py mmcfg/imagenet/mixedae_vit-base-p16_finetune_8xb128-amp-coslr-100e_in1k.py --cfg-options \\
        model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=work_dirs/.../epoch_300.pth
"""

_base_ = [
    '../_base_/models/classifier_vit.py',
    '../_base_/datasets/imagenet_labelled.py',
    '../_base_/schedules/cls_100e.py',
    '../_base_/cls_runtime.py',
]

model = dict(
    mixup=dict(mixup_alpha=0.8, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5, mode='batch'),
    label_smoothing=0.1,
)
train_dataloader = dict(
    dataset=dict(augment=dict(auto_augment='rand-m9-mstd0.5-inc1', re_prob=0.25, re_mode='pixel', re_count=1))
)
