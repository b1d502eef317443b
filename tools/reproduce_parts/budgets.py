"""What a budget buys: sizes, iterations and images of every stage, in one table."""

from __future__ import annotations

from dataclasses import dataclass, replace

TASKS = ('probe', 'topk', 'dense', 'dense_topk', 'camvid', 'ade', 'super12', 'person')
"""Evaluations of a checkpoint: kNN and linear probe; TopK accuracy; linear heads on frozen patches; the same where the
encoder attends by TopK, kept from pre-training or put in; fine-tuned mIoU on CamVid and ADE20K; fine-tuned box and mask
AP of 12 classes, box AP of persons."""


@dataclass(frozen=True)
class Tuning:
    """A fine-tuning run.

    `size`: (width, height) a detection image fits in; (height, width) of a segmentation crop. `light`: segmentation by
    one linear layer on the last block instead of UPerNet, detection with heads of 48 channels instead of 96; a step on
    a core then takes about half as long, and more of it is the backbone's.
    """

    iterations: int
    batch: int
    size: tuple[int, int]
    val_images: int  # at most so many are tested: of detection evenly spaced ones, of segmentation the first
    light: bool = False


@dataclass(frozen=True)
class Dense:
    """Linear heads on frozen patches: images are scaled to (height, width); at most so many are used."""

    size: tuple[int, int]
    train_images: int
    val_images: int


@dataclass(frozen=True)
class Budget:
    """One row of the table.

    `iterations` are those of MixedAE; the other variants get as many as make their counted operations equal.
    """

    iterations: int
    batch: int  # source images of a step
    dense: Dense
    camvid: Tuning
    ade: Tuning
    super12: Tuning
    person: Tuning
    tasks: tuple[str, ...]
    probe_images: tuple[int, int]  # labelled images, train and val
    topk_images: int
    crop: int = 128
    lr: float = 1e-3
    arch: str | dict = 'tiny'
    width: int = 192
    blocks: tuple[int, int, int, int] = (3, 5, 7, 11)  # of segmentation; detection takes the last
    decoder: tuple[int, int, int] = (128, 2, 4)  # width, blocks, heads
    light_decoder: tuple[int, int, int] = (128, 2, 4)  # of full mode
    precision: str = 'float32'  # 'bfloat16': pre-training under AMP
    device_data: bool = False  # decoded scenes stay in the memory of the device
    workers: int = 0  # loader processes of pre-training; 0: a stage is one process
    keep_every: int = 250  # iterations between two checkpoints of pre-training


BUDGETS = {
    # One seed of all variants takes about 75 minutes of two idle cores; docs/results.md says what it took.
    'cpu': Budget(
        iterations=1000,
        batch=64,
        dense=Dense((160, 208), 1000, 400),
        camvid=Tuning(250, 8, (128, 128), 101),
        ade=Tuning(400, 8, (128, 128), 400, light=True),
        super12=Tuning(400, 4, (192, 192), 218, light=True),
        person=Tuning(500, 4, (160, 160), 300, light=True),
        tasks=('probe', 'topk', 'dense', 'camvid'),
        probe_images=(2000, 1000),
        topk_images=512,
    ),
    # For one large GPU; written and tested on CPU in small, never run on a GPU yet.
    'gpu': Budget(
        iterations=20_000,
        batch=256,
        dense=Dense((240, 320), 1600, 400),
        camvid=Tuning(2000, 16, (224, 224), 101),
        ade=Tuning(4000, 16, (224, 224), 400),
        super12=Tuning(4000, 16, (320, 320), 218),
        person=Tuning(4000, 16, (224, 224), 500),
        tasks=TASKS,
        probe_images=(2000, 1000),
        topk_images=1024,
        precision='bfloat16',
        device_data=True,
        workers=4,
        keep_every=5000,
    ),
    # For the tests: every stage runs as on a GPU, nothing is learned.
    'micro': Budget(
        iterations=4,
        batch=16,
        dense=Dense((64, 64), 8, 4),
        camvid=Tuning(2, 2, (64, 64), 2),
        ade=Tuning(2, 2, (64, 64), 2, light=True),
        super12=Tuning(2, 2, (64, 64), 2, light=True),
        person=Tuning(2, 2, (64, 64), 2),
        tasks=('probe', 'topk', 'dense', 'camvid'),
        probe_images=(20, 10),
        topk_images=8,
        crop=64,
        arch=dict(embed_dim=48, depth=4, num_heads=3),
        width=48,
        blocks=(0, 1, 2, 3),
        decoder=(32, 1, 2),
        light_decoder=(32, 1, 2),
        precision='bfloat16',
        device_data=True,
        keep_every=2,
    ),
}
# Four times as long, frozen measures alone: for single variants and seeds (`--variants`, `--seeds`), 45 minutes of one
# idle core for each pre-training.
BUDGETS['cpu-long'] = replace(BUDGETS['cpu'], iterations=4000, tasks=('probe', 'topk', 'dense'))
