"""Ablation: the first block homologous as well. Not trained by us."""

_base_ = './mixedae_vit-base-p16_8xb512-amp-coslr-300e_in1k_ablation.py'

model = dict(encoder=dict(global_layers=()))
