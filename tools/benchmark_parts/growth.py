"""How time and memory of a pre-training step grow with image size, batch, model and group size, beside MAE and a floor.

    python tools/benchmark.py growth
    python tools/benchmark.py growth --arch base --batch 64 --decoder 512 8 16 --device cuda --repeats 20

Each row differs from the setting in the title in what it names. MixedAE, our MAE that sees the same share of an image,
and one large matrix product take turns; the floor is what the step's multiply-adds take at the product's rate. Rows are
also written to standard error as they come. The largest model comes last; `--archs small base` leaves ViT-L out.
"""

from __future__ import annotations

import argparse
import gc
import math
import sys
from dataclasses import replace
from typing import Any

from object_aware.progress import Progress

from . import floor
from .attention import spread
from .pretraining import OURS, Contender, Sizes, describe, figures
from .step import add_size_arguments
from .torch_timing import add_device_arguments, prepare, take_turns

MIXED = 'MixedAE'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_device_arguments(parser, repeats=5)
    add_size_arguments(parser, batch=8)
    parser.add_argument('--sizes', type=int, nargs='*', default=[128, 224, 320, 512], help='(default: 128 224 320 512)')
    parser.add_argument('--batches', type=int, nargs='*', default=[4, 16, 64], help='(default: 4 16 64)')
    parser.add_argument('--archs', nargs='*', default=['small', 'base', 'large'], help='(default: small base large)')
    parser.add_argument(
        '--groups', type=int, nargs='*', default=[2, 3, 4, 6, 8], help='images of a group, g (default: 2 3 4 6 8)'
    )
    parser.add_argument(
        '--groups-size', type=int, default=192, help='side of the images when g changes (default: %(default)s)'
    )


def settings(args: argparse.Namespace) -> list[tuple[str, Sizes, int]]:
    """(label, sizes, g) of every row."""
    base = Sizes(args.arch, args.size, args.batch, tuple(args.decoder))
    rows = [(f'{side} px', replace(base, size=side), 4) for side in args.sizes]
    rows += [(f'{batch} images', replace(base, batch=batch), 4) for batch in args.batches]
    together = math.lcm(*args.groups) if args.groups else 1
    batch = together * max(1, round(args.batch / together))  # a multiple of every g
    of_groups = replace(base, size=args.groups_size, batch=batch)
    rows += [(f'g = {group}, {of_groups.size} px, {batch} images', of_groups, group) for group in args.groups]
    return rows + [(f'ViT {arch}', replace(base, arch=arch), 4) for arch in args.archs]  # the largest last


def run(args: argparse.Namespace) -> dict[str, Any]:
    device, dtype = prepare(args)
    product = floor.Product(device, dtype)
    rows = settings(args)
    show = Progress('growth')
    found, rates = {}, []
    for number, (label, sizes, group) in enumerate(rows):
        found[label], rate = measure(sizes, group, product, args.repeats, device, dtype)
        rates.append(rate)
        print(f'{label}: {", ".join(cells(found[label][MIXED]))}', file=sys.stderr, flush=True)
        show(number + 1, len(rows))
    first = Sizes(args.arch, args.size, args.batch, tuple(args.decoder))
    columns = ['setting', 'ms a step', 'floor, ms', 'time / floor', 'time / MAE', 'peak, MiB', 'peak / MAE']
    table = dict(
        title=f'MixedAE, where nothing else is said: {describe(first, device, dtype)}',
        columns=columns,
        rows=[[label, *cells(figure[MIXED])] for label, figure in found.items()],
        notes=[
            'time / ...: median [quartiles] of the turns',
            f'floor: at {min(rates) / 1e9:.1f} to {max(rates) / 1e9:.1f} G multiply-adds a second, the rate of one '
            f'{product.title} in the turns of each row',
            'peak: most bytes of tensors alive during a step, weights and moments of AdamW among them',
        ],
    )
    return dict(tables=[table], figures=found, rates=rates)


def measure(
    sizes: Sizes, group: int, product: floor.Product, repeats: int, device: Any, dtype: Any
) -> tuple[dict[str, Any], float]:
    """Figures of MixedAE and MAE in one setting, and the product's rate there."""
    share = 1 / group
    visible = share + 1e-6  # MAE rounds down what it shows
    contenders = {
        OURS: Contender(OURS, dict(mask_ratio=1 - visible), sizes, device, dtype),
        MIXED: Contender(MIXED, dict(mixing_ratio=share, topk_ratio=share), sizes, device, dtype),
    }
    times = take_turns({**contenders, floor.NAME: product}, repeats, device, warmup=1)
    found = figures(contenders, times, product)
    del contenders
    gc.collect()  # the next setting's models take the room of these
    return found, product.rate(times[floor.NAME])


def cells(figure: dict[str, Any]) -> list[str]:
    """A row of the table, its label left out."""
    return [
        f'{1000 * figure["seconds"]:.0f}',
        f'{1000 * figure["floor_seconds"]:.0f}',
        spread(figure['over_floor']),
        spread(figure['ratio'][OURS]),
        f'{figure["peak_bytes"] / 2**20:.0f}',
        f'{figure["peak_ratio"]:.2f}',
    ]
