#!/usr/bin/env python
"""Convert the encoder of a checkpoint into the layout of another library.

    python tools/convert_checkpoint.py IN OUT --to timm|mae|hf|hf-mae|mmpretrain|mixedae [--safetensors] [--force]

IN is a checkpoint of our pre-training or transfer, of MAE, timm, Hugging Face, iBOT/DINO, mmpretrain, mmseg or
detectron2's ViTDet: the format is recognised. OUT is a file (.pth or .safetensors), with its model card beside it
(.md), or for hf and hf-mae a folder. Nothing in IN is ever run. What was written is read again and compared.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
if str(REPO) not in sys.path:  # so that a checkout works without being installed
    sys.path.insert(0, str(REPO))

TARGETS = ('timm', 'mae', 'hf', 'hf-mae', 'mmpretrain', 'mixedae')


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', metavar='IN', help='checkpoint file, or a folder of Hugging Face')
    parser.add_argument('out', metavar='OUT', help='file to write (.pth, .safetensors), or folder for hf and hf-mae')
    parser.add_argument('--to', required=True, choices=TARGETS, help='layout to write')
    parser.add_argument('--safetensors', action='store_true', help='write safetensors whatever the suffix of OUT is')
    parser.add_argument('--force', action='store_true', help='overwrite')
    parser.add_argument('--with-decoder', action='store_true', help='also the decoder of pre-training (mae, hf-mae)')
    parser.add_argument(
        '--weights',
        default='auto',
        metavar='KEY',
        help='which weights of IN, e.g. student (default: averaged ones first)',
    )
    parser.add_argument('--heads', type=int, metavar='H', help='attention heads, where IN and the width do not tell')
    parser.add_argument(
        '--source-grid', type=int, nargs=2, metavar=('ROWS', 'COLUMNS'), help='patch grid of IN, where it does not tell'
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    args = parse_args(arguments)
    try:
        from mixedae.checkpoints import open_weights
        from mixedae.checkpoints.encoder_weights import extract
        from mixedae.checkpoints.exporting import TARGETS as LAYOUTS
        from mixedae.checkpoints.exporting import prepare
        from mixedae.checkpoints.report import summary
        from mixedae.checkpoints.writing import write
    except ImportError as error:
        print(f'error: {error}: run `make env` to set the environment up, then .venv/bin/python', file=sys.stderr)
        return 2
    try:
        opened = open_weights(args.checkpoint, args.weights)
        grid = tuple(args.source_grid) if args.source_grid else None
        encoder = extract(opened, num_heads=args.heads, source_grid=grid)
        encoder = prepare(encoder, LAYOUTS[args.to], args.with_decoder)
        files = write(encoder, LAYOUTS[args.to], opened, args.out, safetensors=args.safetensors, force=args.force)
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    height, width = encoder.img_size
    print(
        f'{args.checkpoint}: {encoder.format}, width {encoder.embed_dim}, {encoder.depth} blocks, '
        f'{height} x {width} px, patch {encoder.patch_size[0]} px'
    )
    for note in encoder.notes:
        print(f'  note: {note}')
    reasons: dict[str, list[str]] = {}
    for name, reason in encoder.left_out.items():
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        print(f'  left out, {reason}: {summary(names)}')
    for file in files:
        print(f'wrote {file} ({file.stat().st_size / 1e6:.2f} MB)')
    return 0


if __name__ == '__main__':
    sys.exit(main())
