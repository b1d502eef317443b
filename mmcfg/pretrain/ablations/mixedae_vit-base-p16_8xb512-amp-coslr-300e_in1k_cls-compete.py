"""Ablation: [CLS] competes for the K keys like any token (the literal Eq 6). Not trained by us."""

_base_ = './mixedae_vit-base-p16_8xb512-amp-coslr-300e_in1k_ablation.py'

model = dict(encoder=dict(cls='compete'))
