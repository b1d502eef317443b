#!/usr/bin/env python
"""Boxes without any label: normalised cuts of a ViT's patch features, or selective search.

    python tools/propose_boxes.py data/images --method ncut --checkpoint work_dirs/run/iter_4000.pth --out boxes.json
    python tools/propose_boxes.py data/images --method ncut --timm vit_small_patch16_224.dino --checkpoint dino.pth \\
        --out boxes.json
    python tools/propose_boxes.py data/images --method selective-search --out boxes.json

Writes one file in COCO's annotation format (one category, "object"; every box with a score, and with a mask where the
method has one), that tools/build_crops.py takes like any other. A run that was stopped goes on where it stopped;
--force begins anew. A file that this tool did not write is never overwritten. Images that do not decode are counted and
listed in the file.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

METHODS = ('ncut', 'selective-search')


def make_ncut(
    folder: str,
    sample: Sequence[str],
    load: dict[str, Any],
    size: tuple[int, int],
    settings: dict[str, Any],
    threads: int | None,
):
    """The proposer of normalised cuts, its mean features learnt from a sample of the images."""
    import torch

    from object_aware.boxes.cutting import CutProposer
    from object_aware.boxes.features import load_features

    if threads:
        torch.set_num_threads(threads)
    proposer = CutProposer(load_features(**load), size, **settings)
    if proposer.centre == 'position':
        pictures = []
        for name in sample:
            try:
                pictures.append(proposer.read(Path(folder, name)))
            except Exception:
                continue  # counted and listed when its batch comes
        proposer.fit(pictures)
    return proposer


def make_search(settings: dict[str, Any]):
    """The proposer of selective search."""
    from object_aware.boxes.selective_search import SearchProposer

    return SearchProposer(**settings)


def prepare(args: argparse.Namespace, names: Sequence[str]) -> tuple[Callable[[], Any], dict[str, Any]]:
    """How to make the proposer, and all that decides its boxes as plain JSON values."""
    chosen = {key: value for key, value in (('top_n', args.top_n), ('nms_iou', args.nms_iou)) if value is not None}
    if args.disjoint:
        chosen = {'top_n': 5, 'nms_iou': 0.1, **chosen, 'over': 'smaller'}
    if args.method == 'selective-search':
        if args.checkpoint or args.timm:
            raise ValueError('Selective search has no model: leave --checkpoint and --timm out.')
        chosen |= dict(mode=args.mode, seed=args.seed)
        make_search(chosen)  # a wrong option is told before work begins
        return partial(make_search, chosen), dict(method=args.method, **chosen)
    if not args.checkpoint:
        raise ValueError('Normalised cuts need the weights of a ViT: give --checkpoint FILE.')
    checkpoint = Path(args.checkpoint)
    load = dict(
        checkpoint=str(checkpoint),
        timm_name=args.timm,
        kind=args.features,
        block=args.block,
        num_heads=args.num_heads,
        topk_ratio=args.topk_ratio,
    )
    if len(args.image_size) > 2:
        raise ValueError('The image size is one number, or height and width.')
    size = (args.image_size[0], args.image_size[-1])
    chosen |= dict(
        taus=args.tau,
        objects=args.objects,
        components=args.components,
        centre=args.centre,
        refine=not args.coarse,
    )
    step = max(1, len(names) // args.sample)
    sample = list(names[::step][: args.sample]) if args.centre == 'position' else []
    make_ncut(args.images, [], load, size, {**chosen, 'centre': 'none'}, None)  # a wrong file or option is told now
    weights = hashlib.sha256(checkpoint.read_bytes()).hexdigest() if checkpoint.is_file() else str(checkpoint)
    settings = dict(method=args.method, **{**load, 'checkpoint': checkpoint.name}, weights=weights, size=list(size))
    settings |= dict(chosen, sample=len(sample), device=args.device)
    threads = 1 if args.workers > 1 else None
    make = partial(make_ncut, args.images, sample, load, size, dict(chosen, device=args.device), threads)
    return make, settings


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('images', metavar='IMAGES', help='folder of images, searched with its subfolders')
    parser.add_argument('--list', metavar='FILE', help='only the images named in this text file, one a line')
    parser.add_argument('--method', choices=METHODS, default='ncut', help='default: ncut')
    parser.add_argument('--out', required=True, type=Path, help='file to write, e.g. boxes.json')
    parser.add_argument('--top-n', type=int, help='boxes of an image at most (default: 20; selective search: 100)')
    parser.add_argument('--nms-iou', type=float, help='NMS (default: 0.7; selective search: 0.8)')
    parser.add_argument(
        '--disjoint',
        action='store_true',
        help='for crops: at most 5 boxes an image (--top-n), none of which shares more than a tenth (--nms-iou) of the '
        'smaller one with a better one',
    )
    parser.add_argument('--batch-size', type=int, default=16, help='images at a time (default: %(default)s)')
    parser.add_argument('--workers', type=int, default=0, help='processes (default: 0, all in this one)')
    parser.add_argument('--limit', type=int, help='only the first so many images, to try out')
    parser.add_argument('--force', action='store_true', help='begin anew even if there is something to go on with')
    cuts = parser.add_argument_group('normalised cuts')
    cuts.add_argument('--checkpoint', metavar='FILE', help='weights: of our pre-training, of MAE, or of --timm')
    cuts.add_argument('--timm', metavar='NAME', help='name of the timm ViT that the weights are of')
    cuts.add_argument('--num-heads', type=int, help='heads of a ViT that is of no named size')
    cuts.add_argument(
        '--image-size', type=int, nargs='+', default=[224], help='images are stretched to this (default: 224)'
    )
    cuts.add_argument(
        '--features', default='keys', choices=('keys', 'queries', 'values', 'tokens'), help='default: keys'
    )
    cuts.add_argument('--block', type=int, default=-1, help='of which block; -1 is the last (default)')
    cuts.add_argument('--topk-ratio', type=float, help='TopK attention as in pre-training, e.g. 0.25 (default: global)')
    cuts.add_argument(
        '--centre',
        choices=('none', 'image', 'position'),
        default='position',
        help='what is subtracted from the features: nothing, their mean over the image, or the mean of a sample of '
        'images at each position (default)',
    )
    cuts.add_argument('--sample', type=int, default=256, help='images in that sample (default: %(default)s)')
    cuts.add_argument('--tau', type=float, nargs='+', default=[0.0, 0.2, 0.4], help='thresholds (default: 0 0.2 0.4)')
    cuts.add_argument('--objects', type=int, default=3, help='cuts for each threshold (default: %(default)s)')
    cuts.add_argument(
        '--components', choices=('seed', 'all'), default='all', help="parts of the object's side (default: all)"
    )
    cuts.add_argument('--coarse', action='store_true', help='edges at patch borders, not between patches')
    cuts.add_argument('--device', default='cpu', help='cpu (default) or cuda')
    search = parser.add_argument_group('selective search')
    search.add_argument('--mode', choices=('single', 'fast'), default='fast', help='one hierarchy, or eight (default)')
    search.add_argument('--seed', type=int, default=0, help='of the ranking')
    args = parser.parse_args(arguments)
    try:
        for name in ('batch_size', 'sample', 'limit'):
            if getattr(args, name) is not None and getattr(args, name) < 1:
                raise ValueError(f'--{name.replace("_", "-")} must be at least 1, not {getattr(args, name)}.')
        from object_aware.boxes.proposing import is_proposals, propose
        from object_aware.boxes.reading import list_images
        from object_aware.outputs import check_out
        from object_aware.progress import Progress

        read = (args.images, args.list, args.checkpoint)
        check_out(args.out, read, 'a file of boxes that this tool wrote', is_proposals)
        names = list_images(args.images, args.list)[: args.limit]
        make, settings = prepare(args, names)
        summary = propose(
            names,
            args.images,
            make,
            args.out,
            settings,
            batch_size=args.batch_size,
            workers=args.workers,
            force=args.force,
            progress=Progress('images'),
        )
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('stopped; the same command goes on from here', file=sys.stderr)
        return 130
    if summary.resumed:
        print(f'went on behind {summary.resumed:,} images of a stopped run')
    print(f'{summary.boxes:,} boxes of {summary.images:,} images, {summary.boxes / summary.images:.1f} an image')
    if summary.unreadable:
        shown = '; '.join(f'{name} ({reason})' for name, reason in summary.unreadable[:3])
        print(f'{len(summary.unreadable):,} images could not be read, all listed in the file: {shown}')
    print(f'{args.out} is up to date' if summary.up_to_date else f'wrote {args.out}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
