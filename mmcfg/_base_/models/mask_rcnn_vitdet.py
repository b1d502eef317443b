"""Mask R-CNN as in ViTDet: windows of 14 with four global blocks, decomposed relative positions, LN in every head.

Source: ViTDet (arXiv 2203.16527), section 3 and appendix: simple feature pyramid from the raw last map, two hidden
convolutions in the RPN, box head of 4 convolutions and 1 linear layer, mask head of 4 convolutions. Without [CLS], as there.
Images are padded to 1024 x 1024 with zeros *after* normalisation. Other than in detectron2: windows leave out places beyond
the grid instead of attending to zeros, and absolute positions are resampled with antialiasing.
"""

_base_ = './mask_rcnn_vit.py'

norm_cfg = dict(type='mixedae.LayerNorm2d', eps=1e-6)
model = dict(
    data_preprocessor=dict(pad_size_divisor=1024),  # every image is at most 1024 on a side: all become 1024 x 1024
    backbone=dict(
        out_norm='none',
        with_cls_token=False,
        rel_pos='decomposed',
        rel_pos_size=1024,
        window_size=14,
    ),
    rpn_head=dict(num_convs=2),
    roi_head=dict(
        bbox_head=dict(
            type='ConvFCBBoxHead', num_shared_convs=4, num_shared_fcs=1, conv_out_channels=256, norm_cfg=norm_cfg
        ),
        mask_head=dict(norm_cfg=norm_cfg),
    ),
)
