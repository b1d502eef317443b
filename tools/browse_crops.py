#!/usr/bin/env python
"""One HTML page to look at a crop index: windows over their scenes, what was rejected and why, histograms, and mixed
groups as the model sees them.

    python tools/browse_crops.py crops.safetensors --out crops.html --num-scenes 40

The page holds all of its pictures and asks no server for anything. Scenes are drawn at random by ``--seed``, so that
every outcome that there is appears at least once. Class names stand on the page where the annotations had some; no
sample holds them.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

import numpy as np
from browse_parts.groups import group_colours, group_rows
from browse_parts.look import SCRIPT, STYLE
from browse_parts.scenes import LETTERS, choose_scenes, scene_figure
from browse_parts.statistics import object_figures, reason_rows, window_figures

from mixedae.visualization import Page
from mixedae.visualization.html import HEAD
from object_aware import ObjectCropDataset
from object_aware.outputs import begins_with, check_out
from object_aware.progress import Progress, clock

MOST_SCENES = 200


def build_page(args: argparse.Namespace) -> Page:
    """All of the page.

    Raises:
        ValueError, OSError, RuntimeError: an index or images that cannot be used.
    """
    if not 1 <= args.num_scenes <= MOST_SCENES:
        raise ValueError(
            f'--num-scenes must be in 1..{MOST_SCENES}, not {args.num_scenes}: the page would be too large.'
        )
    dataset = ObjectCropDataset(args.index, seed=args.seed, flip_prob=0.0, image_root=args.image_root)
    index, rng = dataset.index, np.random.default_rng(args.seed)
    height, width = dataset.size
    page = Page(
        f'Crops of {args.index.name}',
        f'{len(index):,} crops of {height}x{width} pixels (height x width) from {len(index.used_scenes):,} of '
        f'{len(index.names):,} scenes.',
    )
    page.style(STYLE)
    page.section('outcomes', 'Outcomes', 'What became of each object, and why.')
    page.table(['outcome', 'objects', 'share', 'it means'], reason_rows(index))
    page.facts({name: _plain(value) for name, value in index.rules.as_dict().items()})

    scenes = choose_scenes(index, args.num_scenes, rng)
    progress = Progress('scenes')
    figures, seen = [], {}
    for k, scene in enumerate(scenes, 1):
        figure, reasons = scene_figure(dataset, scene)
        figures.append(figure)
        for reason in reasons:
            seen[reason] = seen.get(reason, 0) + 1
        progress(k, len(scenes))
    letters = ', '.join(f'{LETTERS[reason]} {reason}' for reason in seen if reason in LETTERS and reason != 'accepted')
    page.section(
        'scenes',
        'Scenes',
        'Thick: the window of the index. Thin: three windows as the loader draws them in three epochs, and below the '
        'crops of these. Dotted: the box of the object, in the same colour. White, dashed: objects without a window, '
        f'with a letter: {letters}.',
    )
    page.raw(_chips(seen, len(scenes), len(index.mask_bytes) > 0))
    page.raw(f'<div class="scenes">{"".join(figures)}</div>')

    lead = 'All objects of the index, crowd regions apart.'
    page.section('objects', 'Objects', lead)
    page.figures(object_figures(index))
    page.section(
        'windows',
        'Windows',
        'As the loader draws them in epoch 0, a random sample. Dashed: the limits of the rules (and 1, where scene '
        'pixels are crop pixels).',
    )
    page.figures(window_figures(dataset, args.num_windows, rng))

    rows = group_rows(dataset, args.groups, args.group_size, args.patch_size, args.seed, args.differ)
    page.section(
        'groups',
        'Mixed groups',
        f'Groups of {args.group_size} crops of different scenes, in patches of {args.patch_size} pixels: which crop '
        'each patch is taken from, and the mix that the model sees.',
    )
    names = [*(f'crop {k + 1}' for k in range(args.group_size)), 'mixing mask', 'mix']
    page.pictures(names, rows, cell=110)
    page.legend(group_colours(args.group_size))
    page.script(SCRIPT)
    return page


def _plain(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ' to '.join(_plain(part) for part in value)
    return f'{value:.3g}' if isinstance(value, float) else str(value)


def _chips(seen: dict[str, int], scenes: int, masks: bool) -> str:
    buttons = [f'<button type="button" data-reason="" aria-pressed="true">all ({scenes} scenes)</button>']
    buttons += [
        f'<button type="button" data-reason="{reason}" aria-pressed="false">{reason} ({count})</button>'
        for reason, count in sorted(seen.items(), key=lambda item: -item[1])
    ]
    if masks:
        buttons.append('<button type="button" data-masks aria-pressed="true">masks</button>')
    return f'<div class="chips" role="group" aria-label="show scenes with">{"".join(buttons)}</div>'


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('index', type=Path, help='crop index written by tools/build_crops.py')
    parser.add_argument('--out', type=Path, required=True, help='page to write, e.g. crops.html')
    parser.add_argument('--num-scenes', type=int, default=24, help='scenes to show (default: %(default)s)')
    parser.add_argument('--num-windows', type=int, default=1000, help='windows to measure (default: %(default)s)')
    parser.add_argument('--groups', type=int, default=4, help='mixed groups to show (default: %(default)s)')
    parser.add_argument('--group-size', type=int, default=4, help='crops of a group (default: %(default)s)')
    parser.add_argument('--patch-size', type=int, default=16, help='patch size of the model (default: %(default)s)')
    parser.add_argument('--differ', choices=('scene', 'class', 'size'), default='scene', help='as of the sampler')
    parser.add_argument('--seed', type=int, default=0, help='which scenes, windows and groups (default: %(default)s)')
    parser.add_argument('--image-root', type=Path, help='folder of the images if they moved')
    args = parser.parse_args(arguments)
    start = time.monotonic()
    try:
        check_out(args.out, [args.index], 'a page that this tool wrote', begins_with(HEAD.encode()))
        path = build_page(args).write(args.out)
    except (ValueError, OSError, RuntimeError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    print(f'wrote {path} ({path.stat().st_size / 1e6:.1f} MB) in {clock(time.monotonic() - start)}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
