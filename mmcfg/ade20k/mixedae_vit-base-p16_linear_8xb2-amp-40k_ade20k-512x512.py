"""A linear head on frozen features, 40k iterations on ADE20K at 512 x 512: what the representation says of each patch.

The encoder stays as it is (all blocks frozen, final LayerNorm too); one 1 x 1 convolution after batch norm classifies every
patch of the last map, logits are stretched bilinearly. Ours; the paper has no such figure.

    8 GPUs * 2 images = 16 images/iter; 40000 iters * 16 / 20210 images = 31.7 ep

Not trained here. Before training put the pre-training checkpoint in:

    python tools/train.py mmcfg/ade20k/mixedae_vit-base-p16_linear_8xb2-amp-40k_ade20k-512x512.py --cfg-options \\
        model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=work_dirs/.../epoch_300.pth
"""

_base_ = [
    '../_base_/models/upernet_vit.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/seg_160k.py',
    '../_base_/seg_runtime.py',
]

model = dict(
    backbone=dict(
        out_indices=(11,), out_norm='final', drop_path_rate=0.0, init_values=None, rel_pos=None, frozen_stages=12
    ),
    neck=dict(_delete_=True, type='mixedae.MapNorm', in_channels=768),
    decode_head=dict(
        _delete_=True,
        type='FCNHead',
        in_channels=768,
        in_index=0,
        channels=768,
        num_convs=0,
        concat_input=False,
        dropout_ratio=0.0,
        num_classes=150,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    auxiliary_head=None,
)
optim_wrapper = dict(optimizer=dict(lr=1e-3, weight_decay=1e-4), paramwise_cfg=dict(layer_decay_rate=1.0))
train_cfg = dict(max_iters=40000, val_interval=4000)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False, begin=1500, end=40000),
]
default_hooks = dict(checkpoint=dict(interval=4000))
