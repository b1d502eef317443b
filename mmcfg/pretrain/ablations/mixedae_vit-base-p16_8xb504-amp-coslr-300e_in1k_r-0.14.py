"""Ablation: mixing ratio 1/7: seven images in a group, 28 patches each (batch 8 * 504 = 4032). Not trained by us."""

_base_ = './mixedae_vit-base-p16_8xb512-amp-coslr-300e_in1k_ablation.py'

model = dict(mixing_ratio=1 / 7)
train_dataloader = dict(batch_size=504, sampler=dict(group_size=7))
