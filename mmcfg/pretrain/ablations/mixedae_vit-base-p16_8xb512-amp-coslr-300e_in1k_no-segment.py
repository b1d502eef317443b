"""Ablation: no segment embedding. Not trained by us."""

_base_ = './mixedae_vit-base-p16_8xb512-amp-coslr-300e_in1k_ablation.py'

model = dict(segment_embed=False)
