"""AdamW (.9, .95), weight decay .05, cosine with 40 warm-up epochs, 300 epochs.

lr = 7.5e-5 * 4096 / 256 = 1.2e-3 at a batch of 4096 images; another batch scales it by itself (auto_scale_lr).
ImageNet-1K: 300 ep = 93,600 iters * 4096 images / 1,281,167 images (312 iters an epoch, the rest dropped).
"""

optim_wrapper = dict(
    type='AmpOptimWrapper',
    dtype='bfloat16',
    optimizer=dict(type='AdamW', lr=1.2e-3, betas=(0.9, 0.95), weight_decay=0.05, fused=True),
    paramwise_cfg=dict(
        flat_decay_mult=0.0,  # biases and LayerNorms
        custom_keys={
            'cls_token': dict(decay_mult=0.0),
            'segment_embed': dict(decay_mult=0.0),
        },
    ),
)
auto_scale_lr = dict(enable=True, base_batch_size=4096)

max_epochs = 300
warmup_epochs = 40
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, begin=0, end=warmup_epochs, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        T_max=max_epochs - warmup_epochs,
        eta_min=0.0,
        by_epoch=True,
        begin=warmup_epochs,
        end=max_epochs,
        convert_to_iter_based=True,
    ),
]
