"""Cascade Mask R-CNN as in ViTDet: mask_rcnn_vitdet.py's backbone and pyramid, three box heads of 4 convolutions and
1 linear layer with LN, boxes without classes, and L1 on box deltas (ViTDet's code has Fast R-CNN's smooth L1 here).
"""

_base_ = './cascade_mask_rcnn_vit.py'

norm_cfg = dict(type='mixedae.LayerNorm2d', eps=1e-6)
model = dict(
    data_preprocessor=dict(pad_size_divisor=1024),
    backbone=dict(
        out_indices=(11,),
        drop_path_rate=0.1,
        out_norm='none',
        with_cls_token=False,
        rel_pos='decomposed',
        rel_pos_size=1024,
        window_size=14,
    ),
    neck=dict(
        _delete_=True, type='mixedae.SimpleFeaturePyramid', in_channels=768, out_channels=256, num_outs=5, norm='LN'
    ),
    rpn_head=dict(num_convs=2),
    roi_head=dict(
        bbox_head=[
            dict(
                head,
                norm_cfg=norm_cfg,
                reg_class_agnostic=True,
                reg_decoded_bbox=False,
                loss_bbox=dict(type='SmoothL1Loss', beta=1.0, loss_weight=1.0),
            )
            for head in _base_.model.roi_head.bbox_head
        ],
        mask_head=dict(norm_cfg=norm_cfg),
    ),
)
