"""Classifier on MixedAEViT-B/16: mean of the patch tokens, LayerNorm, linear layer."""

model = dict(
    type='mixedae.Classifier',
    data_preprocessor=dict(
        type='mmengine.ImgDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]
    ),
    backbone=dict(
        type='mixedae.MixedAEViT',
        arch='base',
        img_size=224,
        patch_size=16,
        out_indices=(11,),
        drop_path_rate=0.1,
        out_norm='none',
    ),
    num_classes=1000,
    norm='LN',
)
