"""MAE on ViT-B/16 at 224 px: 49 of 196 patches visible."""

model = dict(
    type='mixedae.MAE',
    data_preprocessor=dict(
        type='mmengine.ImgDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        non_blocking=True,  # from pinned memory, while the device computes
    ),
    encoder=dict(arch='base', img_size=224, patch_size=16),
    decoder=dict(embed_dim=512, depth=8, num_heads=16),
    mask_ratio=0.75,
    norm_pix=True,
)
