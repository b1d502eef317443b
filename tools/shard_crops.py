#!/usr/bin/env python
"""Split a crop index and its images into shards: tar files that any WebDataset reader streams, with an index each.

    python tools/shard_crops.py data/coco_crops.safetensors --out data/coco_shards --num-shards 64

Train on them with ``mixedae.ShardedCropDataset`` (see docs/object_aware.md): process r of R takes the shards r, r + R,
..., which may lie on a disk of its own machine. Shards that are there are left alone, so after an interruption the same
command goes on. ``--part k/n`` writes every n-th shard only, so that several processes or machines share the work.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from object_aware.index import CropIndex
from object_aware.progress import Progress, clock
from object_aware.shards import write_shards


def parse_part(text: str) -> tuple[int, int]:
    """``'2/8'`` → (2, 8).

    Raises:
        ValueError: it is not of that form.
    """
    first, separator, count = text.partition('/')
    if not separator or not first.isdigit() or not count.isdigit():
        raise ValueError(f'--part takes k/n, 0/4 for instance, not {text!r}.')
    return int(first), int(count)


def summary(manifest: dict, seconds: float) -> str:
    """What was written, in a line."""
    shards = manifest['shards']
    total, crops = sum(shard['bytes'] for shard in shards), sum(shard['crops'] for shard in shards)
    index_bytes, scenes = sum(shard['index_bytes'] for shard in shards), sum(shard['scenes'] for shard in shards)
    fewest, most = (pick(shard['crops'] for shard in shards) for pick in (min, max))
    return (
        f'{len(shards):,} shards with {crops:,} crops of {scenes:,} scenes ({fewest:,} to {most:,} crops each): '
        f'{total / 1e6:,.1f} MB of tar files ({total / scenes:,.0f} bytes a scene), {index_bytes / 1e6:,.1f} MB of '
        f'indices ({index_bytes / crops:,.0f} bytes a crop); {clock(seconds)}'
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('index', type=Path, help='crop index written by tools/build_crops.py')
    parser.add_argument('--out', type=Path, required=True, help='folder of the shards')
    parser.add_argument(
        '--num-shards', type=int, required=True, help='how many: a multiple of the processes that will train'
    )
    parser.add_argument('--seed', type=int, default=0, help='which scene goes to which shard (default: %(default)s)')
    parser.add_argument('--image-root', type=Path, help='folder of the images if they moved')
    parser.add_argument('--part', default='0/1', help='k/n: only the shards k, k + n, ... (default: all)')
    args = parser.parse_args(arguments)
    start = time.monotonic()
    try:
        manifest = write_shards(
            CropIndex.load(args.index),
            args.out,
            args.num_shards,
            seed=args.seed,
            image_root=args.image_root,
            part=parse_part(args.part),
            progress=Progress('scenes'),
        )
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    if manifest is None:
        print(f'this part is done; shards of other parts are still missing in {args.out}')
    else:
        print(summary(manifest, time.monotonic() - start))
    return 0


if __name__ == '__main__':
    sys.exit(main())
