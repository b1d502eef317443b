"""Cascade Mask R-CNN as in ViTDet: mask_rcnn_vitdet.py with three box heads, whose boxes are without classes.

The losses of the three heads count 1, 0.5, 0.25 as in mmdet; in ViTDet's code each counts 1 for its head and 1/3 for the
features.
"""

_base_ = './mask_rcnn_vitdet.py'


def _bbox_head(stds):
    head = _base_.model.roi_head.bbox_head
    return dict(head, bbox_coder=dict(head.bbox_coder, target_stds=stds), reg_class_agnostic=True)


def _rcnn(iou):
    rcnn = _base_.model.train_cfg.rcnn
    assigner = dict(rcnn.assigner, pos_iou_thr=iou, neg_iou_thr=iou, min_pos_iou=iou, match_low_quality=False)
    return dict(rcnn, assigner=assigner)


model = dict(
    type='CascadeRCNN',
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
    train_cfg=dict(rcnn=[_rcnn(0.5), _rcnn(0.6), _rcnn(0.7)]),
)
