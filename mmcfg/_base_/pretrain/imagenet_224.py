"""ImageNet-1K, 1,281,167 training images, RandomResizedCrop (.2, 1.) and flip alone.

Folder: ``data/imagenet/train/<class>/*.JPEG``; the class folders are not read as labels.
"""

train_dataloader = dict(
    batch_size=512,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    sampler=dict(type='mixedae.GroupSampler', group_size=4),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='mixedae.ImageDataset', root='data/imagenet/train', size=224),
)
