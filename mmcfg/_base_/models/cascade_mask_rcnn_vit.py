"""Cascade Mask R-CNN on MixedAEViT-B/16: four block outputs, multi-block pyramid, FPN, three 4-conv-1-fc box heads.

The heads (4 convolutions and 1 linear layer with SyncBN, GIoU on decoded boxes) are those of Swin's and iBOT's Cascade
Mask R-CNN. RPN, mask head and RoI extractors are those of mask_rcnn_vit.py.
"""

_base_ = './mask_rcnn_vit.py'


def _bbox_head(stds):
    head = _base_.model.roi_head.bbox_head
    return dict(
        head,
        type='ConvFCBBoxHead',
        num_shared_convs=4,
        num_shared_fcs=1,
        conv_out_channels=256,
        bbox_coder=dict(head.bbox_coder, target_stds=stds),
        reg_decoded_bbox=True,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        loss_bbox=dict(type='GIoULoss', loss_weight=10.0),
    )


def _rcnn(iou):
    rcnn = _base_.model.train_cfg.rcnn
    assigner = dict(rcnn.assigner, pos_iou_thr=iou, neg_iou_thr=iou, min_pos_iou=iou, match_low_quality=False)
    return dict(rcnn, assigner=assigner)


model = dict(
    type='CascadeRCNN',
    backbone=dict(out_indices=(3, 5, 7, 11), drop_path_rate=0.2, out_norm='none'),
    neck=[
        dict(type='mixedae.MultiBlockPyramid', in_channels=768, norm='SyncBN'),
        dict(type='FPN', in_channels=[768, 768, 768, 768], out_channels=256, num_outs=5),
        dict(type='mixedae.Float32Maps'),
    ],
    rpn_head=dict(loss_bbox=dict(type='SmoothL1Loss', beta=1.0 / 9.0, loss_weight=1.0)),
    roi_head=dict(
        type='CascadeRoIHead',
        num_stages=3,
        stage_loss_weights=[1, 0.5, 0.25],
        bbox_head=[
            _bbox_head([0.1, 0.1, 0.2, 0.2]),
            _bbox_head([0.05, 0.05, 0.1, 0.1]),
            _bbox_head([0.033, 0.033, 0.067, 0.067]),
        ],
    ),
    train_cfg=dict(
        rpn=dict(allowed_border=0), rpn_proposal=dict(max_per_img=2000), rcnn=[_rcnn(0.5), _rcnn(0.6), _rcnn(0.7)]
    ),
)
