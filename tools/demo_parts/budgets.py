"""What a budget buys: iterations, batch sizes and image sizes of every stage, in one table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """A fine-tuning run. `size`: (width, height) a detection image fits in; (height, width) of a segmentation crop."""

    iterations: int
    batch: int
    size: tuple[int, int]
    val_images: int  # at most so many images are tested


@dataclass(frozen=True)
class Budget:
    """One row of the table.

    `scenes` is the size of the embedded data (train, val), `scene_size` its (width, height); both mean nothing with
    --data.
    """

    minutes: float  # on two CPU cores, all stages, measured as the comment beside the row says
    crop: int
    pretrain_iterations: int
    pretrain_batch: int
    detection: Task
    segmentation: Task
    scenes: tuple[int, int] = (400, 100)
    scene_size: tuple[int, int] = (192, 144)
    arch: str | dict = 'tiny'
    width: int = 192
    blocks: tuple[int, int, int, int] = (3, 5, 7, 11)  # those that segmentation takes; detection takes the last
    pictures: int = 5


BUDGETS = {
    # Measured: 12 min 54 s from start to report, two cores of an AMD EPYC with a little other work, torch 2.11.0,
    # environment ready.
    'quick': Budget(
        minutes=13,
        crop=128,
        pretrain_iterations=500,
        pretrain_batch=32,
        detection=Task(300, 4, (192, 144), 100),
        segmentation=Task(250, 4, (144, 144), 100),
    ),
    # Measured on the same machine beside other work: 89 min for 3,505 crops, 439 + 218 and 1600 + 400 images, 46 of
    # them pre-training at 0.69 s an iteration; idle it takes about 0.5 s.
    'full': Budget(
        minutes=80,
        crop=128,
        pretrain_iterations=4000,
        pretrain_batch=64,
        detection=Task(1000, 4, (256, 256), 1000),
        segmentation=Task(600, 4, (192, 192), 1000),
    ),
    # For the tests: every stage runs, nothing is learned.
    'micro': Budget(
        minutes=1.5,
        crop=64,
        pretrain_iterations=6,
        pretrain_batch=8,
        detection=Task(2, 2, (96, 96), 4),
        segmentation=Task(2, 2, (64, 64), 4),
        scenes=(16, 4),
        scene_size=(96, 72),
        arch=dict(embed_dim=48, depth=4, num_heads=3),
        width=48,
        blocks=(0, 1, 2, 3),
        pictures=2,
    ),
}
