"""MixedAE in full mode with the light decoder (2 blocks of width 256), ViT-B/16, ImageNet-1K, 300 epochs.

Each group of four images makes four mixes: the encoder sees B sequences, the decoder 4 * B.
8 GPUs * 128 images = 1024; lr = 7.5e-5 * 1024 / 256 = 3e-4; 300 ep = 375,300 iters (1251 an epoch). Not trained by us.
"""

_base_ = './mixedae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py'

model = dict(mode='full', decoder=dict(embed_dim=256, depth=2, num_heads=8))
train_dataloader = dict(batch_size=128)
optim_wrapper = dict(optimizer=dict(lr=3e-4))
auto_scale_lr = dict(base_batch_size=1024)
