"""MixedAE, ViT-B/16, ImageNet-1K, 1600 epochs, compose mode.

8 GPUs * 512 images = 4096; lr = 7.5e-5 * 4096 / 256 = 1.2e-3; 1600 ep = 499,200 iters (312 an epoch). Not trained by us.
"""

_base_ = './mixedae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py'

max_epochs = 1600
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, begin=0, end=40, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        T_max=max_epochs - 40,
        eta_min=0.0,
        by_epoch=True,
        begin=40,
        end=max_epochs,
        convert_to_iter_based=True,
    ),
]
