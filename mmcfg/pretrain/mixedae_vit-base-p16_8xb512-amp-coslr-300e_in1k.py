"""MixedAE, ViT-B/16, ImageNet-1K, 300 epochs, compose mode: the paper's shortest full recipe.

8 GPUs * 512 images = 4096; lr = 7.5e-5 * 4096 / 256 = 1.2e-3; 300 ep = 93,600 iters (312 an epoch).
Not trained by us; the paper's numbers stand in METHOD's table of the docs.
``torchrun --nproc_per_node 8 tools/train.py <this file> --launcher pytorch``
"""

_base_ = [
    '../_base_/pretrain/mixedae_vit-base-p16.py',
    '../_base_/pretrain/imagenet_224.py',
    '../_base_/pretrain/schedule_300e.py',
    '../_base_/pretrain/runtime.py',
]
