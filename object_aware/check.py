"""Measure the guarantee on what the loader really emits.

    python -m object_aware.check INDEX [--num-samples N] [--size H W] [--image-root DIR] [--workers N]

Draws samples of an :class:`ObjectCropDataset` through a PyTorch loader with the group sampler (so pixels are decoded,
epochs count up and groups are formed as in training), takes window and object out of each sample and measures them.
Prints a table; exits with 1 if any rule is broken, with 2 on bad input.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from torch.utils.data import DataLoader

from .dataset import ObjectCropDataset
from .progress import Progress, clock
from .sampler import GroupSampler
from .windows import measure_window, violations


@dataclass
class CheckReport:
    """What was measured.

    Attributes:
        samples: how many samples.
        violations: for each broken rule, how many samples broke it; 'group' counts groups with two crops of one scene.
        measures: (samples, 4) inside, offset, fill, others of each.
        canonical: how many windows are the index's own (drawing found none).
        seconds: time taken by the loader.
    """

    samples: int
    violations: Counter[str]
    measures: np.ndarray
    canonical: int
    seconds: float
    limits: dict[str, str] = field(default_factory=dict)

    @property
    def num_violations(self) -> int:
        return sum(self.violations.values())

    def table(self) -> str:
        """The report as text: for each rule its limit, how often it was broken, quartiles of what was measured."""
        lines = [f'{"rule":<10}{"limit":>10}{"broken":>8}{"min":>9}{"25 %":>9}{"median":>9}{"75 %":>9}{"max":>9}']
        for k, (rule, limit) in enumerate(self.limits.items()):
            spread = ''
            if k < self.measures.shape[1]:
                spread = ''.join(f'{value:9.3f}' for value in np.quantile(self.measures[:, k], (0, 0.25, 0.5, 0.75, 1)))
            lines.append(f'{rule:<10}{limit:>10}{self.violations[rule]:8d}{spread}')
        lines.append(
            f'{self.samples:,} samples, {self.num_violations} violations; '
            f'{100 * self.canonical / max(self.samples, 1):.1f} % used the '
            f"index's own window; {self.samples / max(self.seconds, 1e-9):,.0f} crops/s ({clock(self.seconds)})"
        )
        return '\n'.join(lines)


def check_dataset(
    dataset: ObjectCropDataset,
    num_samples: int = 10_000,
    *,
    group_size: int = 4,
    num_workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Measure windows and groups that a loader emits, over as many epochs as it takes.

    Args:
        dataset: the dataset to check.
        num_samples: how many samples, rounded up to whole groups.
        group_size: objects per mixing group, g.
        num_workers: loader processes.
        progress: called with (samples done, samples in all).
    """
    if num_samples < 1:
        raise ValueError(f'At least one sample must be checked, not {num_samples}.')
    index = dataset.index
    total = -(-num_samples // group_size) * group_size
    broken: Counter[str] = Counter()
    measures = []
    canonical = 0
    crop_of = {int(row): number for number, row in enumerate(index.targets)}
    sampler = GroupSampler(dataset, group_size, seed=dataset.seed, rank=0, world_size=1)
    loader = DataLoader(dataset, batch_size=group_size, sampler=sampler, num_workers=num_workers)
    start = time.monotonic()
    epoch = 0
    while len(measures) < total:
        sampler.set_epoch(epoch)
        epoch += 1
        for batch in loader:
            samples = batch['data_samples']
            for row, scene, window in zip(
                samples['object'].tolist(), samples['scene'].tolist(), samples['window'].numpy()
            ):
                number = crop_of[row]
                width, height = (int(side) for side in index.sizes[scene])
                others = index.others(number)
                # The size that is emitted, which may be smaller than the size the index was built for.
                broken.update(violations(window, index.boxes[row], others, (width, height), dataset.size, index.rules))
                measures.append(measure_window(window, index.boxes[row], others))
                canonical += bool(np.array_equal(window, index.windows[number]))
                if scene != index.target_scenes[number]:
                    broken['scene'] += 1
            if len(set(samples['scene'].tolist())) < group_size:
                broken['group'] += 1
            if progress is not None:
                progress(min(len(measures), total), total)
            if len(measures) >= total:
                break
    rules = index.rules
    limits = {
        'inside': f'>= {rules.min_inside:g}',
        'offset': f'<= {rules.max_offset:g}',
        'fill': f'>= {rules.min_fill:g}',
        'others': f'< {rules.max_others:g}',
        'upsample': f'<= {rules.max_upsample:g}',
        'aspect': f'{rules.aspect[0]:.2g}-{rules.aspect[1]:.2g}',
        'border': 'in scene',
        'scene': 'of object',
        'group': 'distinct',
    }
    return CheckReport(
        len(measures), broken, np.array(measures, dtype=np.float64), canonical, time.monotonic() - start, limits
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog='python -m object_aware.check',
        description='Measure the single-centric-object guarantee on what the loader emits.',
    )
    parser.add_argument('index', help='crop index written by tools/build_crops.py')
    parser.add_argument('--num-samples', type=int, default=10_000, help='samples to measure (default: %(default)s)')
    parser.add_argument(
        '--size', type=int, nargs='+', help="crop size, one number or height and width (default: the index's)"
    )
    parser.add_argument('--image-root', help='folder of the images if they moved')
    parser.add_argument('--group-size', type=int, default=4, help='objects per mixing group (default: %(default)s)')
    parser.add_argument('--workers', type=int, default=0, help='loader processes (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args(arguments)
    try:
        size = None if args.size is None else args.size[0] if len(args.size) == 1 else args.size
        dataset = ObjectCropDataset(args.index, size, seed=args.seed, image_root=args.image_root)
        report = check_dataset(
            dataset,
            args.num_samples,
            group_size=args.group_size,
            num_workers=args.workers,
            progress=Progress('samples'),
        )
    except (ValueError, OSError, RuntimeError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    print(report.table())
    return 1 if report.num_violations else 0


if __name__ == '__main__':
    sys.exit(main())
