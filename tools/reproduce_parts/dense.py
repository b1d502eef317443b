"""mIoU of a linear head on *frozen* patches of a checkpoint: what the features hold without fine-tuning.

    python -m tools.reproduce_parts.dense CHECKPOINT --set IMAGES_AND_LABELS camvid --out FILE

Each patch is classified by one linear layer on its standardised feature (after the last LayerNorm), trained on the
shares of the classes in it; the scores are enlarged to the label map and compared pixel by pixel, as mmseg does it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from tools.reproduce_parts.running import write_json

IGNORED = 255
PIECES = 4  # a patch's label map is sampled at PIECES x PIECES points


def read_labels(path: Path, reduce_zero: bool, ignored: int) -> np.ndarray:
    """(H, W) uint8 label map: classes from 0, 255 ignored."""
    labels = np.array(Image.open(path))
    if reduce_zero:
        return np.where((labels == 0) | (labels == IGNORED), IGNORED, labels - 1).astype(np.uint8)  # as mmseg
    return np.where(labels == ignored, IGNORED, labels).astype(np.uint8)


def class_shares(labels: np.ndarray, grid: tuple[int, int], num_classes: int) -> Tensor:
    """(h * w, C) share of each class among the points of each patch; rows sum to less than 1 where points are ignored.

    Args:
        labels: (H, W) classes, 255 ignored.
        grid: (h, w) patches.
        num_classes: C.
    """
    height, width = grid
    points = Image.fromarray(labels).resize((width * PIECES, height * PIECES), Image.Resampling.NEAREST)
    cells = torch.from_numpy(np.array(points)).long().reshape(height, PIECES, width, PIECES)
    cells = cells.permute(0, 2, 1, 3).reshape(height * width, PIECES * PIECES)
    one_hot = F.one_hot(cells.clamp(max=num_classes), num_classes + 1)[..., :num_classes]
    return one_hot.float().mean(1)


def fit_linear(features: Tensor, shares: Tensor, *, steps: int = 600, batch: int = 2048, seed: int = 0) -> Tensor:
    """(D + 1, C) weights, the bias last, of a linear layer whose softmax is to give the shares: AdamW, cosine to 0.

    Args:
        features: (N, D), standardised.
        shares: (N, C).
        steps, batch: of the optimiser.
        seed: of the batches.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.cat([features, features.new_ones(len(features), 1)], 1)
    weights = torch.zeros(inputs.shape[1], shares.shape[1], requires_grad=True)
    solver = torch.optim.AdamW([weights], lr=1e-2, weight_decay=1e-2)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(solver, steps)
    for _ in range(steps):
        rows = torch.randint(len(inputs), (min(batch, len(inputs)),), generator=generator)
        loss = -(shares[rows] * F.log_softmax(inputs[rows] @ weights, 1)).sum(1).mean()
        solver.zero_grad()
        loss.backward()
        solver.step()
        rate.step()
    return weights.detach()


def mean_iou(confusion: Tensor) -> float:
    """Mean intersection over union in per cent from (C, C) counts [label, prediction], over classes that occur."""
    hit = confusion.diag().double()
    union = confusion.sum(0) + confusion.sum(1) - confusion.diag()
    return float((hit[union > 0] / union[union > 0]).mean() * 100)


class PatchFeatures:
    """Maps of a checkpoint as plain backbone, no segment embedding; attention is global or, with `topk_ratio`, TopK."""

    def __init__(
        self, checkpoint: Path, arch: str | dict, img_size: int, size: tuple[int, int], topk_ratio: float | None = None
    ) -> None:
        from mixedae.models import MixedAEViT
        from mixedae.models.archs import get_arch

        last = get_arch(arch)[1] - 1
        init = dict(type='Pretrained', checkpoint=str(checkpoint))
        self.model = MixedAEViT(arch=arch, img_size=img_size, out_indices=(last,), topk_ratio=topk_ratio, init_cfg=init)
        self.model.init_weights()
        self.model.eval()
        self.size = size
        self.grid = (size[0] // self.model.patch_size, size[1] // self.model.patch_size)
        self.mean = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
        self.std = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)

    @torch.no_grad()
    def __call__(self, files: list[Path], batch: int = 16) -> Tensor:
        """(N, h * w, D) of image files."""
        found = []
        for start in range(0, len(files), batch):
            images = torch.stack([self.read(file) for file in files[start : start + batch]])
            found.append(self.model(images)[-1].flatten(2).transpose(1, 2))
        return torch.cat(found)

    def read(self, file: Path) -> Tensor:
        image = Image.open(file).convert('RGB').resize(self.size[::-1], Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
        return (pixels - self.mean) / self.std


def evaluate(
    extract: PatchFeatures, sets: dict[str, list[tuple[Path, Path]]], num_classes: int, reduce_zero: bool, ignored: int
) -> float:
    """mIoU in per cent on the pairs of sets['val'] of a head trained on sets['train']."""
    train = extract([image for image, _ in sets['train']])
    shares = torch.cat(
        [class_shares(read_labels(f, reduce_zero, ignored), extract.grid, num_classes) for _, f in sets['train']]
    )
    flat = train.flatten(0, 1)
    mean, std = flat.mean(0), flat.std(0).clamp_min(1e-6)
    known = shares.sum(1) > 0
    weights = fit_linear(((flat - mean) / std)[known], shares[known])
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.long)
    for image, file in sets['val']:
        labels = torch.from_numpy(read_labels(file, reduce_zero, ignored))
        scores = (extract([image])[0] - mean) / std @ weights[:-1] + weights[-1]  # (h * w, C)
        scores = scores.T.reshape(1, num_classes, *extract.grid)
        guess = F.interpolate(scores, size=labels.shape, mode='bilinear', align_corners=False)[0].argmax(0)
        seen = labels != IGNORED
        pairs = labels[seen].long() * num_classes + guess[seen]
        confusion += torch.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
    return mean_iou(confusion)


def pairs(images: Path, labels: Path, count: int) -> list[tuple[Path, Path]]:
    """At most ``count`` (image, label map), evenly spaced in the order of their names."""
    from mixedae.analysis import spaced

    files = sorted(images.glob('*.jpg'))
    return [(files[i], labels / f'{files[i].stem}.png') for i in spaced(count, len(files))]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', type=Path)
    parser.add_argument('--arch', default='"tiny"', help='as JSON')
    parser.add_argument('--img-size', type=int, default=128, help='of pre-training')
    parser.add_argument('--size', type=int, nargs=2, default=(160, 208), help='(height, width) images are scaled to')
    parser.add_argument('--topk-ratio', type=float, help='K / L of TopK attention that is kept; else it is global')
    parser.add_argument('--count', type=int, nargs=2, default=(1000, 400), help='images of train and val at most')
    parser.add_argument(
        '--set',
        nargs=4,
        action='append',
        required=True,
        metavar=('NAME', 'FOLDER', 'CLASSES', 'IGNORED'),
        help='folder with images/ and annotations/; IGNORED: a label, or 0 for reduce_zero_label',
    )
    parser.add_argument('--out', type=Path, required=True)
    args = parser.parse_args(arguments)
    extract = PatchFeatures(args.checkpoint, json.loads(args.arch), args.img_size, tuple(args.size), args.topk_ratio)
    found = {}
    for name, folder, classes, ignored in args.set:
        sets = {
            split: pairs(Path(folder) / 'images' / split, Path(folder) / 'annotations' / split, count)
            for split, count in zip(('train', 'val'), args.count)
        }
        found[name] = evaluate(extract, sets, int(classes), ignored == '0', int(ignored))
        print(f'{name}: mIoU {found[name]:.2f}', flush=True)
    write_json(args.out, found)
    return 0


if __name__ == '__main__':
    sys.exit(main())
