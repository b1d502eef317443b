"""160k iterations, 1500 of warm-up, then linear to 0; AdamW with layer-wise decay.

160000 iters * 16 images/iter / 20210 images/ep = 126.7 ep.
"""

_base_ = './adamw_layer_decay.py'

train_cfg = dict(type='IterBasedTrainLoop', max_iters=160000, val_interval=16000)
# the rate of 1e-4 is for 16 images/iter
optim_wrapper = dict(loss_scale='dynamic', paramwise_cfg=dict(layer_decay_rate=0.65))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False, begin=1500, end=160000),
]
auto_scale_lr = dict(enable=False, base_batch_size=16)
