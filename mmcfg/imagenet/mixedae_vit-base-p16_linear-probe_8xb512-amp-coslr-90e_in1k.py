"""Linear probe on ImageNet-1K for 90 epochs: the encoder frozen, mean of the patch tokens, batch norm, one linear layer.

After MAE's linear probe (base rate 0.1, no weight decay, random crops and flips alone, 10 epochs of warm-up), with SGD and
batch 4096 in place of LARS and 16384. Ours; the paper has no such figure.

    lr = 0.1 * 4096 / 256 = 1.6; 8 GPUs * 512 images = 4096 images/iter; 90 ep * 1281167 / 4096 = 28080 iters

Not trained here. Before training put the pre-training checkpoint in:

    python tools/train.py mmcfg/imagenet/mixedae_vit-base-p16_linear-probe_8xb512-amp-coslr-90e_in1k.py --cfg-options \\
        model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=work_dirs/.../epoch_300.pth
"""

_base_ = [
    '../_base_/models/classifier_vit.py',
    '../_base_/datasets/imagenet_labelled.py',
    '../_base_/schedules/cls_100e.py',
    '../_base_/cls_runtime.py',
]

model = dict(backbone=dict(out_norm='final', drop_path_rate=0.0, frozen_stages=12), norm='BN', init_std=0.01)
train_dataloader = dict(batch_size=512)
optim_wrapper = dict(
    _delete_=True,
    type='AmpOptimWrapper',
    dtype='bfloat16',
    optimizer=dict(type='SGD', lr=1.6, momentum=0.9, weight_decay=0.0),
)
auto_scale_lr = dict(base_batch_size=4096)
train_cfg = dict(max_epochs=90)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, begin=0, end=10, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=80, eta_min=0.0, by_epoch=True, begin=10, end=90, convert_to_iter_based=True),
]
