"""Ablation: the contrastive loss without reconstruction (fails, says the paper). Not trained by us."""

_base_ = './mixedae_vit-base-p16_8xb512-amp-coslr-300e_in1k_ablation.py'

model = dict(reconstruction_weight=0.0)
