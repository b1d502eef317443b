"""MixedAE, ViT-H/14, ImageNet-1K, 300 epochs: L = 256 patches, 64 of each image, K = 64. Not trained by us.

512 images a GPU want activation checkpointing and 80 GB, or gradient accumulation.
"""

_base_ = './mixedae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py'

model = dict(encoder=dict(arch='huge', patch_size=14, with_cp=True))
