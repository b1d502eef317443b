"""Pre-training steps (forward, backward, optimiser) of MixedAE and its parts beside MAE, at equal source images.

    python tools/benchmark.py step
    python tools/benchmark.py step --arch base --size 224 --batch 256 --device cuda --repeats 30

The ratio is time over the time of our own MAE in the same turn (same encoder, decoder, optimiser and images).
"""

from __future__ import annotations

import argparse
from typing import Any

from .attention import spread
from .torch_timing import add_device_arguments, kept_for_backward, prepare, slowdown, take_turns

CONTENDERS: dict[str, dict[str, Any]] = {
    'MAE': {},
    'MixedAE': {},
    'MixedAE, selection by torch.topk': dict(encoder=dict(backend='sdpa')),
    'MixedAE without contrastive loss': dict(contrastive_weight=0),
    'naive mixing': dict(segment_embed=False, topk_ratio=None, contrastive_weight=0),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_device_arguments(parser, repeats=9)
    parser.add_argument('--arch', default='tiny', help='tiny, small, base, large or huge (default: %(default)s)')
    parser.add_argument('--size', type=int, default=128, help='side of the images in pixels (default: %(default)s)')
    parser.add_argument('--batch', type=int, default=64, help='source images of a step (default: %(default)s)')
    parser.add_argument(
        '--decoder',
        type=int,
        nargs=3,
        default=(256, 4, 8),
        metavar=('WIDTH', 'DEPTH', 'HEADS'),
        help='(default: 256 4 8)',
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    device, dtype = prepare(args)
    images = torch.randn(args.batch, 3, args.size, args.size, generator=torch.Generator().manual_seed(0)).to(device)
    steps, kept = {}, {}
    for name, options in CONTENDERS.items():
        model, optimizer = build(name, options, args, device)
        steps[name] = lambda model=model, optimizer=optimizer: step(model, optimizer, images, dtype)
        kept[name] = kept_for_backward(lambda model=model: total_loss(model, images, dtype))
    times = take_turns(steps, args.repeats, device)
    rows, figures = [], {}
    for name, timing in times.items():
        ratio = slowdown(timing, times['MAE'])
        seconds = sorted(timing.cpu)[len(timing.cpu) // 2]
        memory = kept[name] / kept['MAE']
        rows.append([name, spread(ratio), f'{1000 * seconds:.0f}', f'{args.batch / seconds:.0f}', f'{memory:.2f}'])
        figures[name] = dict(ratio=ratio, seconds=seconds, kept_bytes=kept[name], kept_ratio=memory)
    width, depth, heads = args.decoder
    title = (
        f'ViT {args.arch}/16, {args.size} px, {args.batch} images, decoder {depth}x{width} ({heads} heads), '
        f'{str(dtype).removeprefix("torch.")}, {device}, {torch.get_num_threads()} threads'
    )
    columns = ['model', 'time / MAE', 'ms a step', 'images/s', 'kept for backward / MAE']
    notes = ['time: median [quartiles] of the turns']
    return dict(tables=[dict(title=title, columns=columns, rows=rows, notes=notes)], figures=figures)


def build(name: str, options: dict[str, Any], args: argparse.Namespace, device: Any) -> tuple[Any, Any]:
    """Model and optimiser of a contender.

    Raises:
        ValueError: the model refuses the arguments.
    """
    import torch

    from mixedae.models import MAE, MixedAE

    torch.manual_seed(0)
    width, depth, heads = args.decoder
    encoder = dict(arch=args.arch, img_size=args.size, **options.get('encoder', {}))
    decoder = dict(embed_dim=width, depth=depth, num_heads=heads)
    rest = {key: value for key, value in options.items() if key != 'encoder'}
    model = (MAE if name == 'MAE' else MixedAE)(encoder=encoder, decoder=decoder, **rest).to(device).train()
    fused = device.type == 'cuda'
    return model, torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05, fused=fused)


def total_loss(model: Any, images: Any, dtype: Any) -> Any:
    """The sum of the model's losses."""
    import torch

    with torch.autocast(images.device.type, dtype=dtype, enabled=dtype != torch.float32):
        losses = model(images, mode='loss')
    return sum(value for name, value in losses.items() if name.startswith('loss'))


def step(model: Any, optimizer: Any, images: Any, dtype: Any) -> None:
    """One training step."""
    total_loss(model, images, dtype).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
