#!/usr/bin/env python
"""Build a crop index from scenes: for every object a window in which it is the single, centred one, or the reason why
there is none.

    python tools/build_crops.py --scenes data/coco/annotations/instances_train2017.json data/coco/train2017 \\
        --out data/coco_crops.npz --size 224

Several ``--scenes ANNOTATIONS IMAGE_FOLDER`` pairs are joined. Rules are changed by ``--rules min_fill=0.2
max_others=0.2`` (see ``object_aware.WindowRules``). An index that is already there and up to date is left alone;
``--force`` builds it anew.
"""

from __future__ import annotations

import argparse
import ast
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from object_aware.index import CropIndex, as_size, build_crop_index, content_hash
from object_aware.progress import Progress, clock
from object_aware.scenes import read_scenes
from object_aware.windows import WindowRules


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
            value = ast.literal_eval(text)
            pair = isinstance(known[key], tuple)
            chosen[key] = tuple(float(part) for part in value) if pair else float(value)
            if pair and len(chosen[key]) != 2:
                raise ValueError
        except (ValueError, SyntaxError, TypeError):
            form = 'two numbers, low,high' if isinstance(known[key], tuple) else 'a number'
            raise ValueError(f'Window rule {key} needs {form}, not {text!r}.') from None
    return WindowRules(**chosen)


def up_to_date(
    out: Path, annotation_files: Sequence[str], size: tuple[int, int], rules: WindowRules
) -> CropIndex | None:
    """The index at ``out`` if it was built from these inputs and its images are there, else None."""
    try:
        index = CropIndex.load(out)
        index.image_folders()
        return index if index.content_hash == content_hash(annotation_files, size, rules) else None
    except (ValueError, OSError):
        return None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--scenes',
        nargs=2,
        action='append',
        required=True,
        metavar=('ANNOTATIONS', 'IMAGE_FOLDER'),
        help='COCO-format json and the folder of its images; may be given several times',
    )
    parser.add_argument('--out', required=True, type=Path, help='file to write, e.g. crops.npz')
    parser.add_argument(
        '--size', type=int, nargs='+', default=[224], help='crop size: one number, or height and width (default: 224)'
    )
    parser.add_argument('--rules', nargs='*', default=[], metavar='NAME=VALUE', help='rules other than the defaults')
    parser.add_argument('--force', action='store_true', help='build even if the file is up to date')
    args = parser.parse_args(arguments)
    try:
        size = as_size(args.size[0] if len(args.size) == 1 else args.size)
        rules = parse_rules(args.rules)
        start = time.monotonic()
        scenes = read_scenes(args.scenes)  # also on a second call: missing images must be noticed
        index = None if args.force else up_to_date(args.out, scenes.annotation_files, size, rules)
        if index is None:
            print(
                f'read {len(scenes):,} scenes with {len(scenes.boxes):,} boxes in {clock(time.monotonic() - start)}',
                flush=True,
            )
            index = build_crop_index(scenes, size, rules, Progress('objects'))
            index.save(args.out)
            done = f'wrote {args.out} ({args.out.stat().st_size / 1e6:.1f} MB) in {clock(time.monotonic() - start)}'
        else:
            done = f'{args.out} is up to date'
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    print(index.summary())
    print(done)
    return 0


if __name__ == '__main__':
    sys.exit(main())
