"""Fine-tuning steps of UPerNet on our backbone beside mmseg's own `MAE` backbone: speed, memory, and which sizes work.

    python tools/benchmark.py finetune
    python tools/benchmark.py finetune --arch base --batch 8 --device cuda --repeats 30

Heads, crop, batch, optimiser and precision are the same; `mmseg MAE` has mmseg's backbone (ViT with tables of relative
positions, attention written out) and its neck `Feature2Pyramid`, `MixedAEViT` ours with such tables and the neck
`MultiBlockPyramid`. Each goes once, in turns. The last table tries other sizes of image, backbone and neck alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .attention import spread
from .torch_timing import add_device_arguments, kept_for_backward, prepare, slowdown, take_turns

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ('mmsegmentation', 'onedl-mmsegmentation', 'timm')
THEIRS = 'mmseg MAE'
CONTENDERS: dict[str, dict[str, Any] | None] = {
    THEIRS: None,
    'MixedAEViT': {},
    'MixedAEViT, decomposed positions': dict(rel_pos='decomposed'),
    'MixedAEViT, absolute positions only': dict(rel_pos=None),
    'MixedAEViT, activation checkpointing': dict(with_cp=True),
}
SIZES = ((448, 448), (512, 640), (800, 1333))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_device_arguments(parser, repeats=5)
    parser.add_argument('--arch', default='tiny', help='tiny, small, base, large or huge (default: %(default)s)')
    parser.add_argument('--size', type=int, default=512, help='side of the crops in pixels (default: %(default)s)')
    parser.add_argument('--batch', type=int, default=2, help='crops of a step, 2 or more (default: %(default)s)')


def run(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    if args.batch < 2:
        raise ValueError(f'--batch must be at least 2 (batch norm over pooled maps), not {args.batch}.')
    device, dtype = prepare(args)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(args.batch, 3, args.size, args.size, generator=generator).to(device)
    labels = torch.randint(0, 150, (args.batch, 1, args.size, args.size), generator=generator).to(device)
    steps, memory, sizes = {}, {}, {}
    for name, options in CONTENDERS.items():
        model = build(options, args).to(device).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.05, fused=device.type == 'cuda')
        samples = label_samples(labels)

        def one_step(model: Any = model, optimizer: Any = optimizer, samples: Any = samples) -> None:
            loss(model, images, samples, dtype).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        steps[name] = one_step
        memory[name] = memory_of(model, one_step, lambda model=model, s=samples: loss(model, images, s, dtype), device)
        sizes[name] = [tries(model, size, device, dtype) for size in SIZES]
    times = take_turns(steps, args.repeats, device)
    rows, figures = [], {}
    for name, timing in times.items():
        speed = 1 / slowdown(timing, times[THEIRS])[0]
        seconds = sorted(timing.cpu)[len(timing.cpu) // 2]
        share = memory[name] / memory[THEIRS]
        rows.append(
            [
                name,
                f'{speed:.2f}',
                spread(slowdown(timing, times[THEIRS])),
                f'{args.batch / seconds:.2f}',
                f'{share:.2f}',
                f'{memory[name] / 2**20:.0f}',
            ]
        )
        figures[name] = dict(speed=speed, seconds=seconds, bytes=memory[name], share=share, sizes=sizes[name])
    what = 'peak memory' if device.type == 'cuda' else 'kept for backward'
    columns = ['backbone', f'images/s / {THEIRS}', 'time ratio', 'images/s', f'{what} / {THEIRS}', f'{what}, MiB']
    title = (
        f'UPerNet on ViT {args.arch}/16, {args.size} px, {args.batch} images, {str(dtype).removeprefix("torch.")}, '
        f'{device}, {torch.get_num_threads()} threads: forward, backward, AdamW'
    )
    notes = ['time ratio: median [quartiles] of the turns']
    if device.type == 'cpu':
        notes.append('memory: tensors that the forward pass keeps for backward, parameters not counted')
    tables = [dict(title=title, columns=columns, rows=rows, notes=notes)]
    columns = ['backbone', *(f'{height} x {width}' for height, width in SIZES)]
    rows = [[name, *results] for name, results in sizes.items()]
    tables.append(dict(title=f'Other sizes (height x width), built for {args.size} px', columns=columns, rows=rows))
    return dict(tables=tables, figures=figures)


def build(options: dict[str, Any] | None, args: argparse.Namespace) -> Any:
    """UPerNet of mmcfg with our backbone, or (``options`` None) with mmseg's MAE backbone and neck.

    Raises:
        ValueError: mmseg is not installed, or the backbone refuses its arguments.
    """
    import torch

    try:
        from mmengine.config import Config
        from mmengine.registry import MODELS, DefaultScope
        from mmseg.utils import register_all_modules
    except ImportError as error:
        raise ValueError(f'This benchmark needs mmseg and mmcv: {error}') from None

    from mixedae.models import get_arch

    register_all_modules(init_default_scope=False)
    width, depth, heads = get_arch(args.arch)
    out_indices = [depth * quarter // 4 - 1 for quarter in (1, 2, 3, 4)] if depth != 12 else [3, 5, 7, 11]
    cfg = Config.fromfile(ROOT / 'mmcfg' / '_base_' / 'models' / 'upernet_vit.py').model
    cfg.data_preprocessor = None
    norm = dict(type='BN', requires_grad=True)
    cfg.decode_head.update(in_channels=[width] * 4, channels=width, norm_cfg=norm)
    cfg.auxiliary_head.update(in_channels=width, norm_cfg=norm)
    if options is None:
        cfg.backbone = dict(
            type='MAE',
            img_size=(args.size, args.size),
            patch_size=16,
            embed_dims=width,
            num_layers=depth,
            num_heads=heads,
            mlp_ratio=4,
            init_values=1.0,
            drop_path_rate=0.1,
            out_indices=out_indices,
        )
        cfg.neck = dict(type='Feature2Pyramid', embed_dim=width, rescales=[4, 2, 1, 0.5], norm_cfg=norm)
    else:
        changes = dict(arch=args.arch, out_indices=out_indices, rel_pos_size=args.size)
        cfg.backbone = {**cfg.backbone, **changes, **options}
        cfg.neck = dict(type='mixedae.MultiBlockPyramid', in_channels=width, norm='BN')
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmseg'):
        return MODELS.build(cfg)


def label_samples(labels: Any) -> list[Any]:
    """Label maps ``(B, 1, H, W)`` as mmseg's heads take them."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    size = tuple(labels.shape[2:])
    samples = []
    for label in labels:
        sample = SegDataSample(metainfo=dict(img_shape=size, ori_shape=size, pad_shape=size))
        sample.gt_sem_seg = PixelData(data=label)
        samples.append(sample)
    return samples


def loss(model: Any, images: Any, samples: list[Any], dtype: Any) -> Any:
    """The sum of the losses of both heads."""
    import torch

    with torch.autocast(images.device.type, dtype=dtype, enabled=dtype != torch.float32):
        losses = model(images, samples, mode='loss')
    return sum(value for name, value in losses.items() if 'loss' in name)


def memory_of(model: Any, step: Any, forward: Any, device: Any) -> int:
    """Bytes: on a GPU the peak of a step less what was there before it, on a CPU what forward keeps for backward."""
    import torch

    if device.type != 'cuda':
        return kept_for_backward(forward)
    step()  # the optimiser's state exists from here on
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    own = sum(p.numel() * p.element_size() for p in model.parameters()) * 3  # weights and AdamW's two moments
    torch.cuda.reset_peak_memory_stats(device)
    step()
    return torch.cuda.max_memory_allocated(device) - before + own  # other contenders on the GPU are not counted


def tries(model: Any, size: tuple[int, int], device: Any, dtype: Any) -> str:
    """'works', or what goes wrong with an image of this size."""
    import torch

    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            maps = model.extract_feat(torch.zeros(1, 3, *size, device=device))
        return 'works' if all(torch.isfinite(m).all() for m in maps) else 'not finite'
    except (RuntimeError, AssertionError, ValueError) as error:
        return f'fails ({type(error).__name__})'
    finally:
        model.train(was_training)
