"""Fine-tuning ViT-L/16 on ImageNet-1K for 50 epochs; the paper has ViT-B alone.

MAE's recipe for ViT-L: 1e-3 * batch / 256, drop path 0.2, layer decay 0.75.

    lr = 1e-3 * 1024 / 256 = 4e-3
    8 GPUs * 128 images = 1024 images/iter; 50 ep * 1281167 images / 1024 = 62550 iters

Not trained here. Before training put the pre-training checkpoint in:

    python tools/train.py mmcfg/imagenet/mixedae_vit-large-p16_finetune_8xb128-amp-coslr-50e_in1k.py --cfg-options \\
        model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=work_dirs/.../epoch_300.pth
"""

_base_ = './mixedae_vit-base-p16_finetune_8xb128-amp-coslr-100e_in1k.py'

model = dict(backbone=dict(arch='large', out_indices=(23,), drop_path_rate=0.2))
optim_wrapper = dict(optimizer=dict(lr=4e-3), paramwise_cfg=dict(layer_decay_rate=0.75))
train_cfg = dict(max_epochs=50)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        T_max=45,
        eta_min_ratio=2.5e-4,  # 1e-6 / lr
        by_epoch=True,
        begin=5,
        end=50,
        convert_to_iter_based=True,
    ),
]
