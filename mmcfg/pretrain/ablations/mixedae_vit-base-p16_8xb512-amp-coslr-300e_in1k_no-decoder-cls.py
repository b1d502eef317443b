"""Ablation: [CLS] of the mix is not given to the decoder. Not trained by us."""

_base_ = './mixedae_vit-base-p16_8xb512-amp-coslr-300e_in1k_ablation.py'

model = dict(decoder_cls=False)
