"""ViTDet's schedule cut to 50 epochs: 92188 iters * 64 images/iter / 118000 images/ep = 50 ep; steps at 88.9 and 96.3 %."""

_base_ = './vitdet_100e.py'

train_cfg = dict(max_iters=92188, val_interval=10000)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=250),
    dict(type='MultiStepLR', by_epoch=False, begin=0, end=92188, milestones=[81945, 88773], gamma=0.1),
]
