"""Mask R-CNN on MixedAE's ViT-Ti/16 at demo size, for any data in COCO format.

`tools/demo.py` writes two configs that inherit this one: both set the data, the classes and the iterations, one of them also
the pre-trained checkpoint. No layer-wise learning rate decay: with 12 blocks it would all but freeze the first ones, which is
right for a pre-trained backbone and wrong for random weights, and both starts must have one recipe.
"""

_base_ = ['../coco/mixedae_vit-tiny-p16_mask-rcnn_1xb4-2k_coco-256.py']

model = dict(backbone=dict(img_size=128, drop_path_rate=0.0))  # 128: the size of the crops of pre-training
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05),
    clip_grad=dict(max_norm=1.0),
    paramwise_cfg=dict(flat_decay_mult=0.0),
)
# Tested once, at the end, by tools/test.py.
val_dataloader = None
val_evaluator = None
val_cfg = None
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(save_optimizer=False))
log_processor = dict(window_size=10)
randomness = dict(seed=0)
