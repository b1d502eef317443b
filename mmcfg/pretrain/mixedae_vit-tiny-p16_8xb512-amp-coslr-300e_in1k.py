"""MixedAE, ViT-Ti/16, ImageNet-1K, 300 epochs, otherwise as ViT-B. Not trained by us."""

_base_ = './mixedae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py'

model = dict(encoder=dict(arch='tiny'))
