#!/usr/bin/env python
"""How well boxes without labels find the objects that are there, beside boxes that did not look at the image.

    python tools/evaluate_boxes.py boxes.json --truth annotations.json --images data/images --out work_dirs/boxes

Prints a table: CorLoc (share of the images whose first box has an IoU of 0.5 or more with any object), recall at IoU
0.5 with 1, 3, 10 and 100 boxes an image, average recall over IoU 0.5 to 0.95 (AR), the same by the objects' size.
Beside them: random boxes of the proposals' own sizes, as many and 100 an image; a box in the middle; the whole image.
Writes evaluation.json, recall.png, and with --images contact_sheet.png to --out. Crowds count neither as found nor as
missed. Images that the proposals do not list are left out, and counted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

COLUMNS = ('boxes', 'corloc', 'recall@1', 'recall@3', 'recall@10', 'recall@100', 'ar@10', 'ar@100')
BY_SIZE = ('recall@100 small', 'recall@100 medium', 'recall@100 large')


def table(rows: Mapping[str, Mapping[str, float | int | None]], columns: Sequence[str]) -> str:
    """Rows of numbers as text; shares in per cent."""
    width = max(len(name) for name in rows)
    heads = [column.replace('recall@', 'R@').replace('ar@', 'AR@') for column in columns]
    lines = [' ' * width + ''.join(f'{head:>14}' for head in heads)]
    for name, row in rows.items():
        cells = []
        for column in columns:
            value = row.get(column)
            text = '-' if value is None else f'{value:.1f}' if column == 'boxes' else f'{100 * value:.1f}'
            cells.append(f'{text:>14}')
        lines.append(f'{name:<{width}}' + ''.join(cells))
    return '\n'.join(lines)


def draw_recall(rows: Mapping[str, Mapping[str, float | int | None]], path: Path) -> None:
    """Recall over the number of boxes, a line a row."""
    from mixedae.analysis.figures import save_figure
    from mixedae.visualization import new_figure
    from mixedae.visualization.figure import FAINT, INK, SERIES
    from object_aware.boxes.recall import COUNTS

    figure = new_figure(5.2, 3.4)
    axes = figure.add_subplot()
    for number, (name, row) in enumerate(rows.items()):
        values = [100 * row[f'recall@{n}'] for n in COUNTS]
        axes.plot(COUNTS, values, marker='o', markersize=3.5, color=SERIES[number % len(SERIES)], label=name)
    axes.set_xscale('log')
    axes.set_xticks(COUNTS, [str(n) for n in COUNTS])
    axes.minorticks_off()
    axes.set_xlabel('boxes an image at most', color=INK, fontsize=9)
    axes.set_ylabel('recall at IoU 0.5, %', color=INK, fontsize=9)
    axes.grid(color=FAINT, linewidth=0.6)
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    axes.tick_params(colors=INK, labelsize=9)
    for side in ('top', 'right'):
        axes.spines[side].set_visible(False)
    save_figure(figure, path)


def draw_sheet(folder: Path, names: Sequence[str], proposals: Mapping, truths: Mapping, path: Path, shown: int) -> int:
    """Images with their true boxes (thin, white) and the best proposals (thick, blue first); how many were drawn."""
    import numpy as np
    from PIL import Image

    from mixedae.analysis.figures import save_figure
    from mixedae.visualization import draw_windows, fit, grid
    from mixedae.visualization.draw import SOURCE_COLOURS
    from object_aware.boxes.reading import read_picture

    cells = []
    for name in names:
        try:
            picture = read_picture(folder / name)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            continue
        small = fit(picture.pixels, 224)
        scale = np.array([small.shape[1] / picture.size[0], small.shape[0] / picture.size[1]] * 2)
        drawn = draw_windows(small, truths[name].boxes * scale, colours=[(255, 255, 255)], width=1)
        best = (proposals[name][0][:shown] * scale)[::-1]
        drawn = draw_windows(drawn, best, colours=list(SOURCE_COLOURS[: len(best)])[::-1], width=3)
        square = np.full((224, 224, 3), 255, dtype=np.uint8)
        square[: drawn.shape[0], : drawn.shape[1]] = drawn
        cells.append(square)
    rows = [cells[start : start + 6] for start in range(0, len(cells), 6)]
    if rows:
        save_figure(grid(rows, cell=1.7), path)
    return len(cells)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('proposals', metavar='PROPOSALS', help='file of tools/propose_boxes.py, or COCO results')
    parser.add_argument('--truth', required=True, metavar='ANNOTATIONS', help='COCO annotation file of the same images')
    parser.add_argument('--images', type=Path, metavar='FOLDER', help='image folder, for the contact sheet')
    parser.add_argument(
        '--out', type=Path, default=Path('work_dirs/boxes'), help='folder to write (default: %(default)s)'
    )
    parser.add_argument('--name', default='proposals', help='what the proposals are called in table and figure')
    parser.add_argument('--seed', type=int, default=0, help='of the random boxes and of the choice for the sheet')
    parser.add_argument('--show', type=int, default=24, help='images on the sheet (default: %(default)s)')
    parser.add_argument('--show-boxes', type=int, default=3, help='boxes of each, at most 4 (default: %(default)s)')
    args = parser.parse_args(arguments)
    try:
        import numpy as np

        from mixedae.analysis.figures import save_numbers
        from object_aware.boxes.baselines import centre_box, random_boxes
        from object_aware.boxes.recall import evaluate
        from object_aware.boxes.truth import read_scored, read_truth
        from object_aware.outputs import check_out, json_with

        kind, recognise = 'an evaluation that this tool wrote', json_with('proposals', 'truth', 'rows')
        check_out(args.out / 'evaluation.json', (args.proposals, args.truth), kind, recognise)
        truths, sizes = read_truth(args.truth)
        proposals = read_scored(args.proposals, args.truth)
        names = [name for name in truths if name in proposals]
        if not names:
            raise ValueError(
                f'{args.proposals} and {args.truth} have no image file name in common: are they of the same folder?'
            )
        truths, sizes = ({name: of[name] for name in names} for of in (truths, sizes))
        proposals = {name: proposals[name] for name in names}
        left = len(read_truth(args.truth)[0]) - len(names)
        rows = {
            args.name: evaluate(proposals, truths),
            'random, as many': evaluate(random_boxes(proposals, sizes, args.seed), truths),
            'random, 100': evaluate(random_boxes(proposals, sizes, args.seed, 100), truths),
            'middle half': evaluate(centre_box(sizes), truths),
            'whole image': evaluate(centre_box(sizes, 1.0), truths),
        }
        args.out.mkdir(parents=True, exist_ok=True)
        save_numbers(
            args.out / 'evaluation.json',
            dict(proposals=args.proposals, truth=args.truth, seed=args.seed, images_without_proposals=left, rows=rows),
        )
        draw_recall(rows, args.out / 'recall.png')
        if args.images is not None:
            with_objects = [name for name in names if len(truths[name].boxes)]
            chosen = np.random.default_rng(args.seed).permutation(len(with_objects))[: args.show]
            chosen_names = [with_objects[k] for k in sorted(chosen.tolist())]
            draw_sheet(args.images, chosen_names, proposals, truths, args.out / 'contact_sheet.png', args.show_boxes)
    except (ValueError, OSError, ImportError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    first = rows[args.name]
    print(f'{first["images"]:,} images with {first["objects"]:,} objects; shares in per cent')
    if left:
        print(f'{left:,} images of the annotation file are not in the proposals and were left out')
    print(table(rows, COLUMNS))
    print(table(rows, BY_SIZE))
    print(f'wrote evaluation.json and figures to {args.out}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
