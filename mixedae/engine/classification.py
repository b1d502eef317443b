"""Labelled image folders and accuracy, so that fine-tuning on ImageNet needs no mmpretrain."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform
from torch.utils.data import Dataset

from mixedae.registry import DATASETS, METRICS

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp')

NOWHERE = 2**62
"""The place of a class that has none: beyond every k."""


@DATASETS.register_module()
class LabelledImages(Dataset):
    """A folder of class folders, ``root/<class>/*.jpg``, numbered in the order of their names; or a list of files.

    Args:
        root: the folder.
        size: side of the square crops in pixels.
        train: random crops, flips and what ``augment`` says; otherwise the centre of the image scaled by 256/224.
        augment: further arguments of ``timm.data.create_transform`` in training, e.g.
            ``dict(auto_augment='rand-m9-mstd0.5-inc1', re_prob=0.25)``, ``dict(scale=(0.2, 1.0))``.
        classes: names of the class folders, in order; None takes all folders.
        list_file: text file with one ``path label`` a line, the path relative to ``root``, the label a whole number
            from 0; then only these images, in this order. ``classes`` then are names for the labels, if given.

    Raises:
        FileNotFoundError: the folder or the list is missing.
        ValueError: there is no image, or a line of the list is not ``path label``.
    """

    def __init__(
        self,
        root: str | Path,
        size: int = 224,
        train: bool = True,
        augment: dict | None = None,
        classes: Sequence[str] | None = None,
        list_file: str | Path | None = None,
    ) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f'The folder of labelled images {self.root} does not exist; set `root`.')
        if list_file is not None:
            self.samples = read_list(Path(list_file), self.root)
            self.classes = list(classes or map(str, range(max(label for _, label in self.samples) + 1)))
        else:
            self.classes = list(classes or sorted(p.name for p in self.root.iterdir() if p.is_dir()))
            missing = [name for name in self.classes if not (self.root / name).is_dir()]
            if missing:
                raise FileNotFoundError(
                    f'{self.root} has no folder of the class {missing[0]}, which is one of `classes`.'
                )
            self.samples = [
                (str(file), label)
                for label, name in enumerate(self.classes)
                for file in sorted((self.root / name).iterdir())
                if file.suffix.lower() in SUFFIXES
            ]
        if not self.samples:
            raise ValueError(
                f'{self.root} has no class folder with images: it must look like {self.root}/<class>/*.jpg.'
            )
        # random erasing fills with noise of deviation 1, which fits normalised pixels alone
        options = dict(interpolation='bicubic', mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD)
        if train:
            options |= dict(is_training=True, color_jitter=None, **(augment or {}))
        else:
            options |= dict(crop_pct=224 / 256)
        self.transform = create_transform(size, **options)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        file, label = self.samples[index]
        with Image.open(file) as image:
            pixels = self.transform(image.convert('RGB'))  # (3, size, size), normalised
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
        return dict(inputs=(pixels * std + mean) * 255, data_samples=dict(label=label))  # 0..255, erased parts beyond


def read_list(list_file: Path, root: Path) -> list[tuple[str, int]]:
    """Lines of ``path label`` as (path, label); blank ones are passed over, a path may hold spaces."""
    if not list_file.is_file():
        raise FileNotFoundError(f'The list of labelled images {list_file} does not exist; set `list_file`.')
    samples = []
    for number, line in enumerate(list_file.read_text(encoding='utf-8').splitlines(), start=1):
        path, _, label = line.strip().rpartition(' ')
        if not line.strip():
            continue
        if not path or not label.isdecimal():
            raise ValueError(f'{list_file}, line {number}: "{line.strip()[:80]}" is not `path label`.')
        samples.append((str(root / path.strip()), int(label)))
    if not samples:
        raise ValueError(f'The list of labelled images {list_file} is empty.')
    return samples


@METRICS.register_module()
class TopAccuracy(BaseMetric):
    """Share of images whose class is among the k best scores, in percent.

    Of equal scores the lower class comes first, as in ``argmax``. An image with a score that is not finite counts as
    wrong, so a model that has diverged has 0 % and never takes the place of a best checkpoint.

    Args:
        topk: the k's; ``accuracy/top1`` and so on.
        collect_device: of MMEngine.
    """

    default_prefix = 'accuracy'

    def __init__(self, topk: Sequence[int] = (1, 5), collect_device: str = 'cpu') -> None:
        super().__init__(collect_device=collect_device)
        self.topk = tuple(topk)

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Notes for each image at which place its class stands."""
        scores = torch.stack([sample['scores'] for sample in data_samples])  # (B, classes)
        labels = torch.tensor([int(sample['label']) for sample in data_samples], device=scores.device).unsqueeze(1)
        own = scores.gather(1, labels)  # (B, 1)
        before = torch.arange(scores.shape[1], device=scores.device) < labels
        places = ((scores > own) | ((scores == own) & before)).sum(1)
        self.results += places.masked_fill(~scores.isfinite().all(1), NOWHERE).tolist()

    def compute_metrics(self, results: list[int]) -> dict[str, float]:
        """``{'top1': percent, ...}``"""
        places = np.asarray(results)
        return {f'top{k}': float((places < k).mean() * 100) for k in self.topk}
