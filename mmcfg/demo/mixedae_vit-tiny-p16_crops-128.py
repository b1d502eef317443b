"""MixedAE at demo size: ViT-Ti/16 on 128 px crops, L = 64 patches, groups of 4, each image owns 16 of them, K = 16 keys.

`tools/demo.py` writes a config that inherits this one and sets the crop index, iterations and batch size; it stays
under work_dirs/demo/configs/ to look at and to run again. A decoder of 2 blocks of width 128 is enough at this scale, and
most of the time goes into the encoder.
"""

_base_ = ['../_base_/pretrain/mixedae_vit-base-p16.py', '../_base_/pretrain/runtime.py']

model = dict(
    encoder=dict(arch='tiny', img_size=128, patch_size=16),
    decoder=dict(embed_dim=128, depth=2, num_heads=4),
)

train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='mixedae.GroupSampler', group_size=4),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='mixedae.ObjectCropDataset', index_file='work_dirs/demo/crops.safetensors', size=128),
)

# A batch is 64 crops, not 4096, and a run is hundreds of iterations, not hundreds of epochs: the rate per image of the
# paper's rule (7.5e-5 * 64 / 256 = 1.9e-5) would hardly move the weights, so the demo's rate is much higher.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05),
    clip_grad=dict(max_norm=1.0),
    paramwise_cfg=dict(
        flat_decay_mult=0.0, custom_keys={'cls_token': dict(decay_mult=0.0), 'segment_embed': dict(decay_mult=0.0)}
    ),
)

max_iters = 600
warmup_iters = 60
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=warmup_iters),
    dict(type='CosineAnnealingLR', T_max=max_iters - warmup_iters, by_epoch=False, begin=warmup_iters, end=max_iters),
]

default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(by_epoch=False, interval=max_iters, max_keep_ckpts=1),
)
custom_hooks = [dict(type='mixedae.PretrainMeterHook', interval=20)]
log_processor = dict(window_size=10, by_epoch=False)
