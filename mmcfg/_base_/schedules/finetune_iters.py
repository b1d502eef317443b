"""Short fine-tuning by iterations for small data: 10 % warm-up, cosine to 0; AdamW with layer-wise decay.

To change the length, set ``train_cfg.max_iters`` and, in ``param_scheduler``, the ends that follow from it.
"""

_base_ = './adamw_layer_decay.py'

max_iters = 2000

train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters)

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(lr=4e-4),
    paramwise_cfg=dict(layer_decay_rate=0.8),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=max_iters // 10),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, begin=max_iters // 10, end=max_iters),
]
