"""Pre-training steps (forward, backward, optimiser) of MixedAE and its parts beside MAE, at equal source images.

    python tools/benchmark.py step
    python tools/benchmark.py step --arch base --size 224 --batch 256 --decoder 512 8 16 --device cuda --repeats 30

The ratios are time over the time of our own MAE, and of mmpretrain's where that is installed, in the same turn (same
encoder, decoder, optimiser and images). The floor is what a step's multiply-adds take at the rate of one large matrix
product, timed in the same turns.
"""

from __future__ import annotations

import argparse
from typing import Any

from . import floor, mmpretrain_mae
from .attention import spread
from .pretraining import OURS, THEIRS, Contender, Sizes, describe, figures
from .torch_timing import add_device_arguments, prepare, take_turns

PACKAGES = mmpretrain_mae.PACKAGES
FUSED = 'MixedAE, fused kernel'
CONTENDERS: dict[str, dict[str, Any]] = {
    OURS: {},
    THEIRS: {},
    'MixedAE': {},
    FUSED: dict(encoder=dict(backend='triton')),
    'MixedAE, selection by torch.topk': dict(encoder=dict(backend='sdpa')),
    'MixedAE without contrastive loss': dict(contrastive_weight=0),
    'naive mixing': dict(segment_embed=False, topk_ratio=None, contrastive_weight=0),
}
BRIEF = (OURS, THEIRS, 'MixedAE', FUSED)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_device_arguments(parser, repeats=9)
    add_size_arguments(parser, batch=64)
    parser.add_argument('--brief', action='store_true', help='only MixedAE and the two of MAE: less memory and time')
    parser.add_argument(
        '--compile',
        nargs='?',
        const='default',
        metavar='MODE',
        help="compile our Transformer blocks (a mode of torch.compile; max-autotune-no-cudagraphs); mmpretrain's stay",
    )


def add_size_arguments(parser: argparse.ArgumentParser, batch: int) -> None:
    """``--arch``, ``--size``, ``--batch``, ``--decoder``."""
    parser.add_argument('--arch', default='tiny', help='tiny, small, base, large or huge (default: %(default)s)')
    parser.add_argument('--size', type=int, default=128, help='side of the images in pixels (default: %(default)s)')
    parser.add_argument('--batch', type=int, default=batch, help='source images of a step (default: %(default)s)')
    parser.add_argument(
        '--decoder',
        type=int,
        nargs=3,
        default=(256, 4, 8),
        metavar=('WIDTH', 'DEPTH', 'HEADS'),
        help='(default: 256 4 8)',
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    device, dtype = prepare(args)
    sizes = Sizes(args.arch, args.size, args.batch, tuple(args.decoder))
    product = floor.Product(device, dtype)
    contenders, notes = {}, ['time: median [quartiles] of the turns']
    if args.compile is not None:
        notes.append(f"the Transformer blocks of all but mmpretrain's are compiled, mode {args.compile}")
    for name in BRIEF if args.brief else CONTENDERS:
        if name == FUSED and not fused_fits(sizes, device, dtype):
            notes.append(f'{FUSED} was not measured: it needs a GPU, Triton and a short enough sequence')
            continue
        try:
            contenders[name] = Contender(name, CONTENDERS[name], sizes, device, dtype, args.compile)
        except ImportError as error:
            notes.append(str(error))
    times = take_turns({**contenders, floor.NAME: product}, args.repeats, device)
    found = figures(contenders, times, product)
    notes.append(product.note(times[floor.NAME]))
    notes.append('kept: bytes of the tensors that forward keeps for backward, parameters not counted')
    notes.append('peak: most bytes of tensors alive during a step, weights and moments of AdamW among them')
    columns = ['model', f'time / {OURS}', f'time / {THEIRS}', 'ms', 'images/s', 'floor, ms', 'time / floor']
    columns += [f'kept / {OURS}', f'peak / {OURS}']
    rows = [[name, *cells(figure)] for name, figure in found.items()]
    table = dict(title=f'One step: {describe(sizes, device, dtype)}', columns=columns, rows=rows, notes=notes)
    return dict(tables=[table], figures=found, rate=product.rate(times[floor.NAME]))


def fused_fits(sizes: Sizes, device: Any, dtype: Any) -> bool:
    """Whether the fused kernel can take the queries of the encoder."""
    import torch

    from mixedae.functional import attention
    from mixedae.models import get_arch

    width, _, heads = get_arch(sizes.arch)
    shape = (1, heads, 1 + (sizes.size // 16) ** 2, width // heads)
    return 'triton' in attention.usable_backends(torch.empty(shape, device=device, dtype=dtype))


def cells(figure: dict[str, Any]) -> list[str]:
    """A row of the table, its name left out."""
    ratios = [spread(figure['ratio'][base]) if base in figure['ratio'] else '-' for base in (OURS, THEIRS)]
    counted = 'multiply_adds' in figure
    return [
        *ratios,
        f'{1000 * figure["seconds"]:.0f}',
        f'{figure["images_per_second"]:.1f}',
        f'{1000 * figure["floor_seconds"]:.0f}' if counted else '-',
        f'{figure["over_floor"][0]:.2f}' if counted else '-',
        f'{figure["kept_ratio"]:.2f}',
        f'{figure["peak_ratio"]:.2f}',
    ]
