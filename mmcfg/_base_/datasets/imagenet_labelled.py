"""ImageNet-1K with labels: ``data/imagenet/{train,val}/<class>/*.JPEG``, 224 x 224; tested at the centre of 256."""

train_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    sampler=dict(type='mmengine.DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='mixedae.LabelledImages', root='data/imagenet/train', size=224, train=True),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type='mmengine.DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='mixedae.LabelledImages', root='data/imagenet/val', size=224, train=False),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='mixedae.TopAccuracy', topk=(1, 5))
test_evaluator = val_evaluator
