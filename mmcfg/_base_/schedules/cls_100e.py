"""MAE's fine-tuning: AdamW, 100 epochs, 5 of warm-up, cosine, layer-wise decay 0.65.

lr = 5e-4 * 1024 / 256 = 2e-3 at a batch of 1024 images; 100 ep = 125100 iters * 1024 / 1281167 images
The cosine ends at MAE's 1e-6 = 5e-4 * lr, by layer like the rate itself.
"""

_base_ = './adamw_layer_decay.py'

optim_wrapper = dict(dtype='bfloat16', optimizer=dict(lr=2e-3), paramwise_cfg=dict(layer_decay_rate=0.65))
auto_scale_lr = dict(enable=True, base_batch_size=1024)
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=100, val_interval=10)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        T_max=95,
        eta_min_ratio=5e-4,
        by_epoch=True,
        begin=5,
        end=100,
        convert_to_iter_based=True,
    ),
]
