"""UPerNet on MixedAEViT-B/16 as in BEiT and MAE: raw outputs of blocks 3, 5, 7, 11, a table of relative positions in
every block (zero at the start), layer scale 1, multi-block pyramid, auxiliary FCN head.
"""

norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        size=(512, 512),
        pad_val=0,
        seg_pad_val=255,
        test_cfg=dict(size_divisor=16),  # test images of whole patches: else logits of the padded map are stretched
    ),
    backbone=dict(
        type='mixedae.MixedAEViT',
        arch='base',
        img_size=224,  # of pre-training; the position table is resampled to each crop's grid
        patch_size=16,
        out_indices=(3, 5, 7, 11),
        drop_path_rate=0.1,
        init_values=1.0,
        rel_pos='table',
        rel_pos_size=512,
        out_norm='none',
    ),
    neck=dict(type='mixedae.MultiBlockPyramid', in_channels=768, norm='SyncBN'),
    decode_head=dict(
        type='UPerHead',
        in_channels=[768, 768, 768, 768],
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        channels=768,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    auxiliary_head=dict(
        type='FCNHead',
        in_channels=768,
        in_index=2,
        channels=256,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=0.4),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)),
)
