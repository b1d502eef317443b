"""Ablation: mixing ratio 1/2: two images in a group. Not trained by us."""

_base_ = './mixedae_vit-base-p16_8xb512-amp-coslr-300e_in1k_ablation.py'

model = dict(mixing_ratio=0.5)
train_dataloader = dict(sampler=dict(group_size=2))
