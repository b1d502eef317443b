"""UPerNet on ViT-S/16 for one small GPU: 80,000 steps of 16 crops of 512 x 512 on ADE20K.

bfloat16, activation checkpointing, gradients of 4 steps added up; else the recipe of the config for eight GPUs at half
its length. The batch norms of the heads see 4 crops.

    1 GPU * 4 images * 4 steps = 16 images a step of the optimiser
    320000 iters * 4 images / 20210 images = 63.3 ep

A step needs 3.9 GiB of tensors (counted on a CPU: tools/analysis/step_memory.py); a GPU needs more, not measured.

Not trained here. Before training put the pre-training checkpoint in:

    python tools/train.py mmcfg/ade20k/mixedae_vit-small-p16_upernet_1xb4-bf16-acc4-320k_ade20k-512x512.py --cfg-options \\
        model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=work_dirs/.../epoch_300.pth
"""

_base_ = './mixedae_vit-small-p16_upernet_8xb2-amp-160k_ade20k-512x512.py'

model = dict(backbone=dict(with_cp=True))
train_dataloader = dict(batch_size=4)
optim_wrapper = dict(dtype='bfloat16', loss_scale=1.0, accumulative_counts=4)  # bfloat16 needs no scale
auto_scale_lr = dict(base_batch_size=4, accumulative_counts=4)  # the rate is for the product
train_cfg = dict(max_iters=320000, val_interval=32000)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=3000),
    dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False, begin=3000, end=320000),
]
default_hooks = dict(checkpoint=dict(interval=32000))
