"""Object-aware MixedAE: ViT-B/16 on the single-centric-object crops of COCO train2017, 800 epochs (ours, not the paper's).

8 GPUs * 512 crops = 4096; lr = 7.5e-5 * 4096 / 256 = 1.2e-3. An epoch is each crop of the index once;
``tools/build_crops.py`` prints how many there are. Not trained by us at this size.
"""

_base_ = './mixedae_vit-base-p16_8xb512-amp-coslr-800e_in1k.py'

# python tools/build_crops.py --scenes data/coco/annotations/instances_train2017.json data/coco/train2017 \
#     --out data/coco/crops_train2017_224.safetensors --size 224
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='mixedae.ObjectCropDataset',
        index_file='data/coco/crops_train2017_224.safetensors',
        size=224,
    )
)
