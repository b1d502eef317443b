"""Multi-scale test of UPerNet on ViT-L/16: six views and their mirror images, probabilities averaged.

For testing alone, with a checkpoint of mixedae_vit-large-p16_upernet_8xb2-amp-160k_ade20k-512x512.py:

    python tools/test.py mmcfg/ade20k/mixedae_vit-large-p16_upernet_8xb2-amp-160k_ade20k-512x512_ms.py work_dirs/.../iter_160000.pth
"""

_base_ = ['./mixedae_vit-large-p16_upernet_8xb2-amp-160k_ade20k-512x512.py', '../_base_/datasets/ade20k_multi_scale.py']

# what mmseg's own `tools/test.py --tta` makes of `tta_model` and `tta_pipeline`
model = dict(_delete_=True, type='SegTTAModel', module=_base_.model)
test_dataloader = dict(dataset=dict(pipeline=_base_.tta_pipeline))
