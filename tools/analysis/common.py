"""What the analysis command lines share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
if str(REPO) not in sys.path:  # so that a checkout works without being installed
    sys.path.insert(0, str(REPO))


def add_image_arguments(parser: argparse.ArgumentParser, count: int) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument('--images', metavar='FOLDER', help='folder of whole images, searched with its subfolders')
    source.add_argument('--crops', metavar='INDEX', help='crop index of tools/build_crops.py')
    parser.add_argument('--image-root', metavar='FOLDER', help="replaces the folder of the index's images")
    parser.add_argument('--count', type=int, default=count, help=f'how many images at most (default: {count})')
    parser.add_argument('--seed', type=int, default=0, help='chooses the images, their windows and the masks')


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('config', help="the run's config, e.g. the .py file in its work directory")
    parser.add_argument('checkpoint', nargs='+', help='one or several checkpoints of that config')
    parser.add_argument(
        '--compare',
        nargs=2,
        action='append',
        default=[],
        metavar=('CONFIG', 'CHECKPOINT'),
        help='another run to set beside it; may be given several times',
    )
    parser.add_argument('--name', action='append', default=[], help='name of a model in the figure, in their order')
    parser.add_argument('--device', default='cpu', help='cpu (default) or cuda')


def named_models(args: argparse.Namespace) -> list[tuple[str, str, str]]:
    """(name, config, checkpoint) of each model that was asked for; without --name: run folder and file name."""
    pairs = [(args.config, checkpoint) for checkpoint in args.checkpoint] + [tuple(pair) for pair in args.compare]
    if len(args.name) > len(pairs):
        raise ValueError(f'{len(args.name)} names were given for {len(pairs)} checkpoints.')
    names = list(args.name)
    for _, checkpoint in pairs[len(names) :]:
        path = Path(checkpoint)
        names.append(f'{path.resolve().parent.name}/{path.stem}')
    if len(set(names)) < len(names):
        raise ValueError(f'Two models have the same name ({", ".join(names)}): give each a --name of its own.')
    return [(name, *pair) for name, pair in zip(names, pairs)]


def read_images(args: argparse.Namespace, size: tuple[int, int], group_size: int = 1):
    from mixedae.analysis import load_images

    return load_images(
        size,
        folder=args.images,
        crop_index=args.crops,
        image_root=args.image_root,
        count=args.count,
        group_size=group_size,
        seed=args.seed,
    )


def run(work: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser, arguments: Sequence[str] | None):
    """Parses, works, and turns an error into one sentence and exit code 2."""
    args = parser.parse_args(arguments)
    try:
        Path(args.out).mkdir(parents=True, exist_ok=True)
        work(args)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    return 0
