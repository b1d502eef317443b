"""Arranging the groups of an epoch: CPU time and memory of the group sampler.

    python tools/benchmark.py sampler
    python tools/benchmark.py sampler --objects 15600000 --scenes 8100000

Objects get a scene and a class at random; without arguments there are as many as in Objects365.
"""

from __future__ import annotations

import argparse
import itertools
import time
import tracemalloc
from typing import Any

import numpy as np


class Drawn:
    """A dataset for the sampler alone."""

    def __init__(self, objects: int, scenes: int, classes: int) -> None:
        rng = np.random.default_rng(0)
        self.scene_ids = np.sort(rng.integers(scenes, size=objects, dtype=np.int32))
        self.class_ids = rng.integers(classes, size=objects, dtype=np.int32)

    def __len__(self) -> int:
        return len(self.scene_ids)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--objects', type=int, default=30_000_000, help='default: %(default)s')
    parser.add_argument('--scenes', type=int, default=2_000_000, help='default: %(default)s')
    parser.add_argument('--classes', type=int, default=365, help='default: %(default)s')
    parser.add_argument('--group-size', type=int, default=4, help='objects of a group (default: %(default)s)')
    parser.add_argument('--keys', type=int, default=1_000_000, help='keys that are taken (default: %(default)s)')


def run(args: argparse.Namespace) -> dict[str, Any]:
    from object_aware import GroupSampler

    for name in ('objects', 'scenes', 'classes', 'keys'):
        if getattr(args, name) < 1:
            raise ValueError(f'--{name} must be at least 1, not {getattr(args, name)}.')
    dataset = Drawn(args.objects, args.scenes, args.classes)

    def sampler(**options: Any) -> GroupSampler:
        return GroupSampler(dataset, args.group_size, rank=0, world_size=1, **options)

    figures: dict[str, dict[str, float]] = {'arrange': {}, 'key': {}}
    rows = []
    for differ in ('scene', 'class'):
        start = time.process_time()
        groups = sampler(differ=differ)
        made = time.process_time()
        groups.arrange(0)
        arranged = time.process_time()
        tracemalloc.start()
        groups.arrange(1)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        figures['arrange'][differ] = dict(make=made - start, arrange=arranged - made, peak=peak)
        rows.append(
            [f'groups differ in {differ}', f'{made - start:.2f}', f'{arranged - made:.2f}', f'{peak / 1e6:,.0f}']
        )
    lines = []
    for spares in (0, 4):
        keys = iter(sampler(spares=spares))
        next(keys)  # arranges the epoch
        start = time.process_time()
        taken = sum(1 for _ in itertools.islice(keys, args.keys))
        seconds = (time.process_time() - start) / max(taken, 1)
        figures['key'][spares] = seconds
        lines.append(f'a key with {spares} spares: {1e6 * seconds:.2f} us')
    columns = ['', 'make, s', 'an epoch, s', 'MB beside the scenes']
    title = (
        f'{args.objects:,} objects of {args.scenes:,} scenes and {args.classes:,} classes, groups of {args.group_size}'
    )
    note = 'CPU time of one core. make: once a run. MB: the most that arranging takes, its result included.'
    return dict(tables=[dict(title=title, columns=columns, rows=rows, notes=[note, *lines])], figures=figures)
