"""Template: object-aware pre-training on your own scenes.

Copy it within this folder (elsewhere mend `_base_`), change the first block, train.

    python tools/build_crops.py --scenes data/mine/annotations/train.json data/mine/images \
        --out data/mine/crops_128.safetensors --size 128
    python tools/browse_crops.py data/mine/crops_128.safetensors --out crops.html
    python tools/train.py mmcfg/templates/pretraining_own-scenes.py --work-dir work_dirs/pretrain_mine
    python tools/report.py work_dirs/pretrain_mine --out report.html

ViT-Ti/16 on crops of 128 px, L = 64 patches in groups of 4; bfloat16 on a GPU, float32 on a CPU. A sheet of pictures is
drawn ten times in the run (work_dirs/pretrain_mine/*/vis_data/vis_image).

    4000 iters * 64 crops/iter = 256000 crops: 45 minutes of one CPU core (docs/results.md)

It is the recipe of docs/results.md, for some thousand scenes and a short run. Rate, batch and decoder for larger models
and longer runs: docs/settings.md.
"""

_base_ = ['../_base_/pretrain/mixedae_vit-base-p16.py', '../_base_/pretrain/runtime.py']

# ---- change these
crops = 'data/mine/crops_128.safetensors'  # of tools/build_crops.py
size = 128  # the size that the crops were built for; (size / 16)**2 must be a multiple of 4
arch = 'tiny'  # 'tiny', 'small', 'base'
decoder = dict(embed_dim=128, depth=2, num_heads=4)  # the paper's, for ViT-B: embed_dim=512, depth=8, num_heads=16
segment_embed = True
batch, workers = 64, 2  # crops a step on each GPU, a multiple of 4; processes that read them
lr = 1e-3
max_iters = 4000
# ----

model = dict(
    encoder=dict(arch=arch, img_size=size, patch_size=16),
    decoder=decoder,
    segment_embed=segment_embed,
)
train_dataloader = dict(
    batch_size=batch,
    num_workers=workers,
    persistent_workers=workers > 0,
    pin_memory=True,
    drop_last=True,
    sampler=dict(type='mixedae.GroupSampler', group_size=4),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='mixedae.ObjectCropDataset', index_file=crops, size=size),
)
optim_wrapper = dict(
    type='AmpOptimWrapper',
    dtype='bfloat16',
    optimizer=dict(type='AdamW', lr=lr, betas=(0.9, 0.95), weight_decay=0.05, fused=True),
    clip_grad=dict(max_norm=1.0),
    paramwise_cfg=dict(
        flat_decay_mult=0.0, custom_keys={'cls_token': dict(decay_mult=0.0), 'segment_embed': dict(decay_mult=0.0)}
    ),
)
warmup_iters = max(1, max_iters // 10)
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=warmup_iters),
    dict(type='CosineAnnealingLR', T_max=max_iters - warmup_iters, by_epoch=False, begin=warmup_iters, end=max_iters),
]
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(by_epoch=False, interval=max(1, max_iters // 10), max_keep_ckpts=2),
    pictures=dict(type='mixedae.PictureHook', by_epoch=False, interval=max(1, max_iters // 10)),
)
custom_hooks = [dict(type='mixedae.PretrainMeterHook', interval=50)]
log_processor = dict(window_size=20, by_epoch=False)
