"""ViTDet's schedule of 100 epochs at 64 images/iter: AdamW 1e-4, weight decay 0.1, layer-wise decay 0.7 (ViT-B).

100 ep = 184375 iters * 64 images/iter / 118000 images/ep; rate / 10 after 163889 (88.9 %) and 177546 (96.3 %) iters
Other than in detectron2, which decays all but norms and absolute positions, biases and relative positions do not decay.
"""

_base_ = './adamw_layer_decay.py'

train_cfg = dict(type='IterBasedTrainLoop', max_iters=184375, val_interval=20000)
# the rate of 1e-4 is for 64 images/iter
optim_wrapper = dict(loss_scale='dynamic', optimizer=dict(weight_decay=0.1), paramwise_cfg=dict(layer_decay_rate=0.7))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=250),
    dict(type='MultiStepLR', by_epoch=False, begin=0, end=184375, milestones=[163889, 177546], gamma=0.1),
]
auto_scale_lr = dict(enable=False, base_batch_size=64)
