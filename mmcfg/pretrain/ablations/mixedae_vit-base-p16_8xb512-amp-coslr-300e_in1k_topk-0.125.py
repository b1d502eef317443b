"""Ablation: K = 0.125 L. Not trained by us."""

_base_ = './mixedae_vit-base-p16_8xb512-amp-coslr-300e_in1k_ablation.py'

model = dict(topk_ratio=0.125)
