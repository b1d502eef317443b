"""ViTDet's schedule cut to 25 epochs: 46094 iters * 64 images/iter / 118000 images/ep = 25 ep; steps at 88.9 and 96.3 %."""

_base_ = './vitdet_100e.py'

train_cfg = dict(max_iters=46094, val_interval=5000)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=250),
    dict(type='MultiStepLR', by_epoch=False, begin=0, end=46094, milestones=[40973, 44387], gamma=0.1),
]
