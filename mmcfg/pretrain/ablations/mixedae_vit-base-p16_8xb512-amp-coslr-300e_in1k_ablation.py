"""The paper's ablation setting: 300 epochs, compose mode, base learning rate 1.5e-4.

8 GPUs * 512 images = 4096; lr = 1.5e-4 * 4096 / 256 = 2.4e-3; 300 ep = 93,600 iters. Every other file of this folder
changes this one by the single line that its name says. None was trained by us.
"""

_base_ = '../mixedae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py'

optim_wrapper = dict(optimizer=dict(lr=2.4e-3))
