"""MAE under the paper's ablation schedule: base learning rate 1.5e-4, 300 epochs. Not trained by us."""

_base_ = '../mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py'

optim_wrapper = dict(optimizer=dict(lr=2.4e-3))
