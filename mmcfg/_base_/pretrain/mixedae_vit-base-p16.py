"""MixedAE on ViT-B/16 at 224 px: L = 196 patches, groups of g = 4, each image owns 49 of them, K = 49 keys."""

model = dict(
    type='mixedae.MixedAE',
    data_preprocessor=dict(
        type='mmengine.ImgDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        non_blocking=True,  # from pinned memory, while the device computes
    ),
    encoder=dict(arch='base', img_size=224, patch_size=16, global_layers=(0,), cls='keep'),
    decoder=dict(embed_dim=512, depth=8, num_heads=16),
    mixing_ratio=0.25,
    mode='compose',
    topk_ratio=0.25,
    segment_embed=True,
    contrastive_weight=0.1,
    temperature=0.25,
    contrastive_dim=128,
    contrastive_features='after_norm',
    positives='separate',
    reconstruction_weight=1.0,
    decoder_cls=True,
    norm_pix=True,
)
