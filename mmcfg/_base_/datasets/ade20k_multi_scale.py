"""Test pipeline of six scales, each with its mirror image, as BEiT's (``SETR_Resize``): the short side is 0.5-1.75 times 512
but never below the crop of 512, so the ratios 0.5, 0.75 and 1 give one view that counts three times. The long side is free.
"""

tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale=(1000000, max(512, int(512 * ratio))), keep_ratio=True)
                for ratio in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
            ],
            [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ],
    ),
]
