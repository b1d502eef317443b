"""ViTDet's schedule cut to 12 epochs: 22125 iters * 64 images/iter / 118000 images/ep = 12 ep; steps at 88.9 and 96.3 %."""

_base_ = './vitdet_100e.py'

train_cfg = dict(max_iters=22125, val_interval=5000)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=250),
    dict(type='MultiStepLR', by_epoch=False, begin=0, end=22125, milestones=[19667, 21306], gamma=0.1),
]
