"""12 epochs, learning rate / 10 after epochs 8 and 11; AdamW with layer-wise decay.

1x = 12 ep = 12 * 117266 images with boxes / 16 images/iter = 87950 iters.
"""

_base_ = './adamw_layer_decay.py'

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=12, val_interval=1)
# the rate of 1e-4 is for 16 images/iter
optim_wrapper = dict(loss_scale='dynamic', paramwise_cfg=dict(layer_decay_rate=0.75))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]
# auto_scale_lr.enable=True, `--auto-scale-lr` of mmdet's script, scales the rate with the images of a pass
auto_scale_lr = dict(enable=False, base_batch_size=16)
