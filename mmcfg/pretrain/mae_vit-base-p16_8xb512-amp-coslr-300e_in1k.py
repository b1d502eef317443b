"""MAE, ViT-B/16, ImageNet-1K, 300 epochs: the baseline under MixedAE's own schedule.

8 GPUs * 512 images = 4096; lr = 7.5e-5 * 4096 / 256 = 1.2e-3; 300 ep = 93,600 iters. Not trained by us.
"""

_base_ = [
    '../_base_/pretrain/mae_vit-base-p16.py',
    '../_base_/pretrain/imagenet_224.py',
    '../_base_/pretrain/schedule_300e.py',
    '../_base_/pretrain/runtime.py',
]
