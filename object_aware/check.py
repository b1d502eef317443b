"""Measure the guarantee on what the loader really emits.

    python -m object_aware.check INDEX [--num-samples N] [--workers N] [--windows-only] [--differ class|size]

Draws samples of an :class:`ObjectCropDataset` through a PyTorch loader with the group sampler (so pixels are decoded,
epochs count up and groups are formed as in training), takes window and object out of each sample and measures them by
``rules.py``: by the pixels of the masks, painted by pycocotools, where the rules measure by mask. None of the compiled
code that drew the windows is used. Prints a table; exits with 1 if any rule is broken, with 2 on bad input.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from .dataset import ObjectCropDataset
from .index import CropIndex
from .masks import paint
from .overlap import iou
from .progress import Progress, clock
from .rules import broken_frame, broken_rules, measure_window
from .sampler import GroupSampler

MEASURED = ('inside', 'offset', 'fill', 'others', 'overlap')
"""The columns of ``CheckReport.measures``; 'overlap' is the IoU of a crop without an object, NaN for all others."""

_BATCH = 16  # groups that the loader gives at a time
_SHOWN = 5  # violations that the report names
_CHUNK = 2000  # samples that a process measures at a time


@dataclass
class CheckReport:
    """What was measured.

    Attributes:
        samples: how many samples.
        violations: for each broken rule, how many samples broke it; 'group' counts groups with two crops of one scene,
            'class' and 'size' groups with two crops of one class or size bin.
        measures: (samples, 5) ``MEASURED`` of each, NaN where one does not apply.
        canonical: how many windows are the index's own (drawing found none).
        seconds: time taken by the loader.
        limits: what each rule asks, as text.
        shown: a few of the samples that break a rule, as text.
    """

    samples: int
    violations: Counter[str]
    measures: np.ndarray
    canonical: int
    seconds: float
    limits: dict[str, str] = field(default_factory=dict)
    shown: tuple[str, ...] = ()

    @property
    def num_violations(self) -> int:
        return sum(self.violations.values())

    def table(self) -> str:
        """The report as text: for each rule its limit, how often it was broken, quartiles of what was measured."""
        lines = [f'{"rule":<10}{"limit":>10}{"broken":>8}{"min":>9}{"25 %":>9}{"median":>9}{"75 %":>9}{"max":>9}']
        for rule, limit in self.limits.items():
            spread = ''
            if rule in MEASURED:
                values = self.measures[:, MEASURED.index(rule)]
                values = values[~np.isnan(values)]
                if not len(values):  # no sample that the rule is about
                    continue
                spread = ''.join(f'{value:9.3f}' for value in np.quantile(values, (0, 0.25, 0.5, 0.75, 1)))
            lines.append(f'{rule:<10}{limit:>10}{self.violations[rule]:8d}{spread}')
        lines += [f'broken: {text}' for text in self.shown]
        lines.append(
            f'{self.samples:,} samples, {self.num_violations} violations; '
            f'{100 * self.canonical / max(self.samples, 1):.1f} % used the '
            f"index's own window; {self.samples / max(self.seconds, 1e-9):,.0f} crops/s ({clock(self.seconds)})"
        )
        return '\n'.join(lines)


class _WindowsOnly(Dataset):
    """The samples of a dataset without their pixels."""

    def __init__(self, dataset: ObjectCropDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Any) -> dict[str, Any]:
        number, window, _ = self.dataset.draw(tuple(key[:2]) if isinstance(key, tuple) else key)
        index = self.dataset.index
        sample = dict(scene=int(index.target_scenes[number]), object=int(index.targets[number]))
        return dict(data_samples=dict(sample, window=torch.from_numpy(np.array(window, dtype=np.float32))))


def crops_of(index: CropIndex, objects: np.ndarray, scenes: np.ndarray) -> np.ndarray:
    """(n,) number of the crop that a sample (row of its object or -1, scene) is of; -1 if there is none."""
    rows = np.asarray(index.targets)
    of_object = np.argsort(rows, kind='stable')
    place = np.searchsorted(rows, objects, sorter=of_object).clip(max=len(rows) - 1)
    numbers = np.where((objects >= 0) & (rows[of_object[place]] == objects), of_object[place], -1)
    alone = np.flatnonzero(rows < 0)  # at most one in a scene
    if len(alone):
        of_scene = alone[np.argsort(index.target_scenes[alone], kind='stable')]
        found = of_scene[np.searchsorted(index.target_scenes[of_scene], scenes).clip(max=len(of_scene) - 1)]
        numbers = np.where((objects < 0) & (index.target_scenes[found] == scenes), found, numbers)
    return numbers


def measure_crops(
    index: CropIndex, numbers: Sequence[int], windows: np.ndarray, out_size: tuple[int, int]
) -> tuple[np.ndarray, list[list[str]]]:
    """Measure windows of crops, best sorted by crop: the masks of a scene are painted once for a run of its windows.

    Args:
        index: the crop index.
        numbers: (n,) crops.
        windows: (n, 4) a window of each.
        out_size: (height, width) of the crops that are emitted; it may be smaller than the index's.

    Returns:
        (n, 5) measures (see ``MEASURED``), and for each window the rules that it breaks.
    """
    rules = index.rules
    measures, broken = np.full((len(windows), len(MEASURED)), np.nan), []
    scene_at = number_at = -1
    masks: list[np.ndarray | None] = []
    for k, number in enumerate(numbers):
        scene, row, window = int(index.target_scenes[number]), int(index.targets[number]), windows[k]
        width, height = (int(side) for side in index.sizes[scene])
        if row < 0:
            overlap = float(iou(window[None], index.windows[number])[0])
            measures[k, 4] = overlap
            names = [] if overlap > rules.min_iou else ['overlap']
            broken.append(names + broken_frame(window, (width, height), out_size, rules))
            continue
        start, stop = int(index.object_offsets[scene]), int(index.object_offsets[scene + 1])
        if scene != scene_at:
            masks = [None] * (stop - start)
            if rules.measure == 'mask':
                masks = [paint(bytes(index.masks[n]), height, width) for n in range(start, stop)]
                masks = [mask if mask is not None and mask.any() else None for mask in masks]
        if scene != scene_at or number != number_at:
            # The union of the others' pixels, as if it were one object, beside those that have boxes only.
            others = [n for n in range(start, stop) if n != row]
            painted = [masks[n - start] for n in others if masks[n - start] is not None]
            boxed = [n for n in others if masks[n - start] is None]
            union = np.logical_or.reduce(painted) if painted else None
            boxes = np.concatenate([index.boxes[boxed], np.zeros((int(union is not None), 4), dtype=np.float32)])
            pixels = [masks[row - start], *(None for _ in boxed), *(() if union is None else (union,))]
        scene_at, number_at = scene, number
        measure = measure_window(window, index.boxes[row], boxes, pixels)
        measures[k, :4] = measure
        broken.append(broken_rules(window, measure, (width, height), out_size, rules))
    return measures, broken


def check_dataset(
    dataset: ObjectCropDataset,
    num_samples: int = 10_000,
    *,
    group_size: int = 4,
    num_workers: int = 0,
    differ: str | Sequence[str] = 'scene',
    windows_only: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Measure windows and groups that a loader emits, over as many epochs as it takes.

    Args:
        dataset: the dataset to check.
        num_samples: how many samples, rounded up to whole groups.
        group_size: objects per mixing group, g.
        num_workers: loader processes; as many measure afterwards.
        differ: what the group sampler is asked for besides scenes: 'class' or 'size'.
        windows_only: leave out the decoding of pixels.
        progress: called with (samples done, samples in all), loading first and then measuring.
    """
    if num_samples < 1:
        raise ValueError(f'At least one sample must be checked, not {num_samples}.')
    index = dataset.index
    total = -(-num_samples // group_size) * group_size
    sampler = GroupSampler(dataset, group_size, seed=dataset.seed, rank=0, world_size=1, differ=differ)
    source = _WindowsOnly(dataset) if windows_only else dataset
    loader = DataLoader(source, batch_size=_BATCH * group_size, sampler=sampler, num_workers=num_workers)
    parts: list[tuple[np.ndarray, ...]] = []
    start, epoch, done = time.monotonic(), 0, 0
    while done < total:
        sampler.set_epoch(epoch)
        epoch += 1
        for batch in loader:
            samples = batch['data_samples']
            parts.append(tuple(samples[name].numpy().copy() for name in ('object', 'scene', 'window')))  # not shared
            done += len(parts[-1][0])
            if progress is not None:
                progress(min(done, total), 2 * total)
            if done >= total:
                break
    seconds, done = time.monotonic() - start, total
    objects, scenes, windows = (np.concatenate(column)[:total] for column in zip(*parts))

    broken: Counter[str] = Counter()
    numbers = crops_of(index, objects, scenes)
    true_scenes = np.searchsorted(index.object_offsets, objects, side='right') - 1
    known = (numbers >= 0) & (np.asarray(index.target_scenes)[numbers] == np.where(objects < 0, scenes, true_scenes))
    wrong_scene = ~known | ((objects >= 0) & (true_scenes != scenes))
    broken['scene'] = int(np.count_nonzero(wrong_scene))
    broken['group'] = _repeats(scenes, group_size)
    kind = sampler.differ
    if kind != 'scene':
        broken[kind] = _repeats(_kinds(index, kind, sampler.size_bins)[numbers], group_size)

    order = np.lexsort((objects, scenes))
    order = order[known[order]]
    measures = np.full((len(windows), len(MEASURED)), np.nan)
    shown = []
    chunks = [order[k : k + _CHUNK] for k in range(0, len(order), _CHUNK)]
    for chunk, (values, names) in zip(chunks, _measured(dataset, numbers, windows, chunks, num_workers)):
        measures[chunk] = values
        for k, rules in zip(chunk.tolist(), names):
            broken.update(rules)
            if rules and len(shown) < _SHOWN:
                place = ', '.join(f'{c:.2f}' for c in windows[k])
                shown.append(f'{", ".join(rules)}: object {objects[k]} of {dataset.path(scenes[k])}, window {place}')
        done += len(chunk)
        if progress is not None:
            progress(done, total + len(order))
    canonical = int(np.count_nonzero((index.windows[numbers] == windows).all(axis=1) & known))
    limits = _limits(dataset, kind)
    return CheckReport(len(windows), broken, measures, canonical, seconds, limits, tuple(shown))


def _measured(
    dataset: ObjectCropDataset, numbers: np.ndarray, windows: np.ndarray, chunks: list[np.ndarray], workers: int
):
    jobs = ((dataset.index, numbers[chunk].tolist(), windows[chunk], dataset.size) for chunk in chunks)
    if workers < 1:
        yield from (measure_crops(*job) for job in jobs)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(measure_crops, *zip(*jobs))


def _repeats(labels: np.ndarray, group_size: int) -> int:
    """How many groups hold a label twice."""
    groups = np.sort(labels.reshape(-1, group_size), axis=1)
    return int(np.count_nonzero((groups[:, 1:] == groups[:, :-1]).any(axis=1)))


def _kinds(index: CropIndex, kind: str, bins: int) -> np.ndarray:
    """(T,) class, or size bin, of each crop: the t-th smallest of T windows is in bin t * bins // T."""
    targets = np.asarray(index.targets)
    if kind == 'class':
        return np.where(targets < 0, -1, np.asarray(index.classes)[targets])
    areas = np.prod(index.windows[:, 2:] - index.windows[:, :2], axis=1)
    ranks = np.empty(len(areas), dtype=np.int64)
    ranks[np.argsort(areas, kind='stable')] = np.arange(len(areas))
    return ranks * bins // len(areas)


def _limits(dataset: ObjectCropDataset, kind: str) -> dict[str, str]:
    rules = dataset.index.rules
    limits = {
        'inside': f'>= {rules.min_inside:g}',
        'offset': f'<= {rules.max_offset:g}',
        'fill': f'>= {rules.min_fill:g}',
        'others': f'< {rules.max_others:g}',
        'overlap': f'> {rules.min_iou:g}',
        'upsample': f'<= {rules.max_upsample:g}',
        'aspect': f'{rules.aspect[0]:.2g}-{rules.aspect[1]:.2g}',
        'border': 'in scene',
        'scene': 'of object',
        'group': 'distinct',
    }
    return limits if kind == 'scene' else {**limits, kind: 'distinct'}


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
    parser.add_argument(
        '--differ', choices=('scene', 'class', 'size'), default='scene', help='what differs within a group besides'
    )
    parser.add_argument(
        '--workers', type=int, default=0, help='processes that load, and then measure (default: %(default)s)'
    )
    parser.add_argument('--windows-only', action='store_true', help='do not decode pixels')
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
            differ=args.differ,
            windows_only=args.windows_only,
            progress=Progress('samples loaded and measured'),
        )
    except (ValueError, OSError, RuntimeError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    print(report.table())
    print(f'measured by {dataset.index.rules.measure}' + (', pixels not decoded' if args.windows_only else ''))
    return 1 if report.num_violations else 0


if __name__ == '__main__':
    sys.exit(main())
