#!/usr/bin/env python
"""Build a crop index from scenes: for every object a window in which it is the single, centred one, or the reason why
there is none.

    python tools/build_crops.py --scenes data/coco/annotations/instances_train2017.json data/coco/train2017 \\
        --out data/coco_crops.safetensors --size 224

Several ``--scenes ANNOTATIONS IMAGE_FOLDER`` pairs are joined. ANNOTATIONS is a COCO file, a list of detections or
proposals, or a folder of Pascal VOC xml files. Rules are changed by ``--rules min_fill=0.2
max_others=0.2`` (see ``object_aware.WindowRules``). An index that is already there and up to date is left alone;
``--force`` builds it anew; a file that is no crop index is never overwritten. What is finished of a large build is kept
in ``OUT.parts`` until the index is written: after an interruption the same command goes on from there.
"""

from __future__ import annotations

import argparse
import ast
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from object_aware.building import EMPTY_SCENES, build_crop_index, content_hash
from object_aware.image_files import missing_files
from object_aware.index import VERSION, CropIndex, as_size, is_crop_index
from object_aware.outputs import check_out
from object_aware.parallel import usable_cores
from object_aware.part_files import PartFiles
from object_aware.progress import Progress, clock
from object_aware.scenes import Selection, read_scenes, sources_of
from object_aware.windows import WindowRules

LARGE = 1 << 25  # bytes of annotations from which unfinished work is kept


def parse_rules(settings: Sequence[str]) -> WindowRules:
    """``['min_fill=0.2', 'aspect=0.8,1.25']`` → rules.

    Raises:
        ValueError: an unknown rule or a value that is no number.
    """
    known = {field.name: field.default for field in fields(WindowRules)}
    chosen = {}
    for setting in settings:
        key, separator, text = setting.partition('=')
        if not separator or key not in known:
            raise ValueError(f'Unknown window rule {setting!r}: write name=value with one of {", ".join(known)}.')
        try:
            if isinstance(known[key], str):
                chosen[key] = text
                continue
            value = ast.literal_eval(text)
            pair = isinstance(known[key], tuple)
            chosen[key] = tuple(float(part) for part in value) if pair else float(value)
            if pair and len(chosen[key]) != 2:
                raise ValueError
        except (ValueError, SyntaxError, TypeError):
            form = 'two numbers, low,high' if isinstance(known[key], tuple) else 'a number'
            raise ValueError(f'Window rule {key} needs {form}, not {text!r}.') from None
    return WindowRules(**chosen)


def up_to_date(out: Path, identity: str) -> CropIndex | None:
    """The index at ``out`` if it was built from these inputs and all of its images are there, else None."""
    try:
        index = CropIndex.load(out)
        if index.content_hash != identity:
            return None
        for number, folder in enumerate(index.image_folders()):
            names = [name.decode() for name in index.names[index.folder_of == number]]
            if folder.suffix != '.tar' and missing_files(folder, names):
                return None  # reading the scenes says which
        return index
    except (ValueError, OSError):
        return None


def build(args: argparse.Namespace, size: tuple[int, int], rules: WindowRules) -> tuple[CropIndex, str]:
    """Build the index, or find it up to date; returns it and what was done."""
    start = time.monotonic()
    read = [path for pair in args.scenes for path in pair]
    check_out(args.out, [*read, args.image_list], 'a crop index', is_crop_index)
    selection = Selection(args.image_list, args.score_threshold, args.nms_iou, args.top_n)
    sources = sources_of(args.scenes, selection)
    if args.out.is_file() and not args.force and all(os.path.exists(source) for source in sources):
        identity = content_hash(sources, size, rules, empty_scenes=args.empty_scenes, selection=selection)
        index = up_to_date(args.out, identity)
        if index is not None:
            return index, f'{args.out} is up to date'
    large = sum(os.path.getsize(source) for source in sources if os.path.isfile(source)) > LARGE
    parts = PartFiles(args.out.with_name(f'{args.out.name}.parts'), f'version {VERSION}') if large else None
    if parts is not None and len(parts):
        print(f'going on with {len(parts):,} finished pieces in {parts.folder}', flush=True)
    scenes = read_scenes(
        args.scenes,
        masks=rules.measure == 'mask',
        selection=selection,
        workers=args.workers,
        parts=parts,
        progress=(lambda what: Progress(what, unit='MB', scale=1e6)) if large else None,
    )
    for note in scenes.notes:
        print(note)
    with_mask = int((scenes.masks.lengths > 0).sum())
    print(
        f'read {len(scenes):,} scenes with {len(scenes.boxes):,} boxes and {with_mask:,} masks '
        f'in {clock(time.monotonic() - start)}',
        flush=True,
    )
    index = build_crop_index(
        scenes, size, rules, Progress('objects'), empty_scenes=args.empty_scenes, workers=args.workers, parts=parts
    )
    index.save(args.out)
    if parts is not None:
        parts.remove()
    megabytes = args.out.stat().st_size / 1e6
    return index, f'wrote {args.out} ({megabytes:,.1f} MB) in {clock(time.monotonic() - start)}'


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--scenes',
        nargs=2,
        action='append',
        required=True,
        metavar=('ANNOTATIONS', 'IMAGE_FOLDER'),
        help='COCO-format json, list of detections or proposals, or folder of Pascal VOC xml, and the folder of its '
        'images; may be given several times',
    )
    parser.add_argument('--out', required=True, type=Path, help='file to write, e.g. crops.safetensors')
    parser.add_argument(
        '--size', type=int, nargs='+', default=[224], help='crop size: one number, or height and width (default: 224)'
    )
    parser.add_argument(
        '--measure',
        choices=('mask', 'box'),
        help='measure objects by their masks where they have one, or all by their boxes (default: mask)',
    )
    parser.add_argument(
        '--empty-scenes',
        choices=EMPTY_SCENES,
        default='skip',
        help='scenes without an object that has a window: skip them, or take large windows that overlap',
    )
    scored = parser.add_argument_group('detections and proposals')
    scored.add_argument('--score-threshold', type=float, help='leave out boxes with a lower score')
    scored.add_argument('--nms-iou', type=float, help='leave out boxes that overlap a better one more than this')
    scored.add_argument('--top-n', type=int, help='keep so many boxes of an image at most')
    scored.add_argument('--image-list', help='COCO file with the images that the ids of a list of results refer to')
    parser.add_argument('--rules', nargs='*', default=[], metavar='NAME=VALUE', help='rules other than the defaults')
    parser.add_argument(
        '--workers',
        type=int,
        default=usable_cores(),
        help='processes; the index does not depend on them (default: %(default)s, the cores of this machine)',
    )
    parser.add_argument('--force', action='store_true', help='build even if the file is up to date')
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    try:
        size = as_size(args.size[0] if len(args.size) == 1 else args.size)
        rules = parse_rules([*args.rules, *([f'measure={args.measure}'] if args.measure else [])])
        if args.workers < 1:
            raise ValueError(f'--workers must be at least 1, not {args.workers}.')
        index, done = build(args, size, rules)
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('interrupted; the same command goes on from what is finished', file=sys.stderr)
        return 130
    print(index.summary())
    print(done)
    return 0


if __name__ == '__main__':
    sys.exit(main())
