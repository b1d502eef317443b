"""Homologous (TopK) attention of every backend beside PyTorch's fused attention with all keys, at equal shapes.

    python tools/benchmark.py attention
    python tools/benchmark.py attention --device cuda --repeats 50

The ratio is time over the time of plain attention in the same turn: 1.00 would be TopK for nothing. On a GPU there are
at least 64 sequences, and each turn is as many calls as take 10 ms.
"""

from __future__ import annotations

import argparse
from typing import Any

from .torch_timing import add_device_arguments, calls_for, kept_for_backward, prepare, slowdown, take_turns

SHAPES = {  # (sequences, heads, patches, channels of a head)
    'ViT-B/16, 224 px': (8, 12, 196, 64),
    'ViT-Ti/16, 128 px': (16, 3, 64, 64),
}
GPU_BATCH = 64  # sequences at least, so that all of the chip has work


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_device_arguments(parser, repeats=11)
    parser.add_argument('--batch', type=int, help='sequences (default: 8 and 16, on a GPU 64)')
    parser.add_argument('--topk-ratio', type=float, default=0.25, help='K / L (default: %(default)s)')


def run(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    device, dtype = prepare(args)
    tables, figures = [], {}
    for title, (batch, heads, patches, width) in SHAPES.items():
        shape = (args.batch or (batch if device.type == 'cpu' else max(batch, GPU_BATCH)), heads, 1 + patches, width)
        topk = max(1, round(args.topk_ratio * patches))
        torch.manual_seed(0)
        q, k, v = (torch.randn(shape, device=device, dtype=dtype).requires_grad_() for _ in range(3))
        columns, rows, figures[title] = table(q, k, v, topk, args.repeats)
        calls = '{forward} calls a turn forward, {both} with backward'.format(**figures[title]['plain']['calls'])
        name = str(dtype).removeprefix('torch.')
        tables.append(
            dict(
                title=f'{title}: q, k, v {shape}, K = {topk}, {name}, {device}, {torch.get_num_threads()} threads',
                columns=columns,
                rows=rows,
                notes=[f'time as a multiple of plain attention: median [quartiles] of the turns; {calls}'],
            )
        )
    return dict(tables=tables, figures=figures)


def table(q: Any, k: Any, v: Any, topk: int, repeats: int) -> tuple[list[str], list[list[str]], dict[str, Any]]:
    """Columns, rows and plain numbers of one shape."""
    import torch
    import torch.nn.functional as F

    from mixedae.functional import topk_attention
    from mixedae.functional.attention import BACKENDS, fastest_backend, usable_backends

    chosen = fastest_backend(q, topk, 1)
    ways = {'plain': lambda: F.scaled_dot_product_attention(q, k, v)}
    for backend in [name for name in BACKENDS if name in usable_backends(q)]:
        ways[backend] = lambda backend=backend: topk_attention(q, k, v, topk, backend=backend)
    grad = torch.randn_like(v)
    ahead_alone = {name: (lambda way=way: _without_grad(way)) for name, way in ways.items()}
    with_backward = {name: (lambda way=way: torch.autograd.grad(way(), (q, k, v), grad)) for name, way in ways.items()}
    calls = dict(forward=calls_for(ahead_alone, q.device), both=calls_for(with_backward, q.device))
    forward = take_turns(ahead_alone, repeats, q.device, calls=calls['forward'])
    both = take_turns(with_backward, repeats, q.device, calls=calls['both'])
    rows, numbers = [], {}
    for name, way in ways.items():
        kept = kept_for_backward(way)
        ahead, whole = slowdown(forward[name], forward['plain']), slowdown(both[name], both['plain'])
        label = f'{name} (auto)' if name == chosen else name
        digits = 2 if q.device.type == 'cpu' else 4
        milliseconds = 1000 * sorted(both[name].cpu)[repeats // 2]
        rows.append([label, spread(ahead), spread(whole), f'{milliseconds:.{digits}f}', f'{kept / 2**20:.1f}'])
        numbers[name] = dict(forward=ahead, both=whole, milliseconds=milliseconds, kept_bytes=kept, calls=calls)
        numbers[name]['auto'] = name == chosen
    columns = ['backend', 'forward', 'with backward', 'ms with backward', 'MiB kept']
    return columns, rows, numbers


def spread(values: tuple[float, float, float]) -> str:
    """``1.21 [1.20, 1.23]``."""
    return f'{values[0]:.2f} [{values[1]:.2f}, {values[2]:.2f}]'


def _without_grad(way: Any) -> None:
    import torch

    with torch.no_grad():
        way()
