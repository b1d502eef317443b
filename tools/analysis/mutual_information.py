"""Masking lowers, mixing raises what is known of an image: mutual information for r = 1/2 (Eq 5 of the paper).

    python tools/analysis/mutual_information.py
    python tools/analysis/mutual_information.py --images data/images --count 2000

Exact in a Gaussian model of two images, for every correlation between them: gaussian.png. With --images also estimated
on patches of photographs, for pairs of crops from different scenes and from one scene: patches.png. All numbers, and
what they cannot tell, go to mutual_information.json in --out. No trained model is involved.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from common import run


def measure(args: argparse.Namespace) -> None:
    from mixedae.analysis.figures import save_numbers
    from mixedae.analysis.mutual_information import LIMITS

    out = Path(args.out)
    numbers = dict(what='mutual information with the first image, nats, r = 1/2', exact=exact(args, out))
    if args.images:
        numbers['patches'] = estimate(args, out)
        numbers['limits'] = LIMITS
    save_numbers(out / 'mutual_information.json', numbers)
    print(f'figures and numbers in {out}')


def exact(args: argparse.Namespace, out: Path) -> dict:
    """The Gaussian model, averaged over masks, for a row of correlations."""
    import numpy as np
    import torch

    from mixedae.analysis import mixing_information, pair_covariance
    from mixedae.analysis.figures import save_figure
    from mixedae.functional import draw_mixing_mask
    from mixedae.visualization import curves

    grid = (args.grid, args.grid)
    masks = draw_mixing_mask(args.masks, args.grid**2, 2, generator=torch.Generator().manual_seed(args.seed)).numpy()
    correlations = np.round(np.arange(0, 1, 0.05), 2)
    rows = []
    for between in correlations:
        cov = pair_covariance(grid, args.within, float(between))
        parts = [mixing_information(cov, mask, noise=args.noise) for mask in masks]
        rows.append({key: float(np.mean([part[key] for part in parts])) for key in parts[0]})
    # The axis is in percent because its ticks are whole numbers.
    names = {'full': 'whole image seen', 'mixed': 'mixed', 'masked': 'masked'}
    lines = {label: [(100 * c, row[key]) for c, row in zip(correlations, rows)] for key, label in names.items()}
    figure = curves(lines, xlabel='correlation of the two images, %', ylabel='I( . ; first image), nats')
    save_figure(figure, out / 'gaussian.png')
    print(f'exact: independent images gap {rows[0]["gap"]:.6f}, correlation 0.5 gap {rows[10]["gap"]:.3f} nats')
    return dict(
        model='one value a patch, correlation exp(-distance / within) inside an image, `between` across images',
        grid=grid,
        within=args.within,
        noise=args.noise,
        masks=args.masks,
        correlation=correlations,
        rows=rows,
    )


def estimate(args: argparse.Namespace, out: Path) -> dict:
    """Gaussians fitted to pairs of crops of photographs."""
    import numpy as np

    from mixedae.analysis import PAIR_KINDS, crop_pairs, estimate_mixing, patch_features
    from mixedae.analysis.figures import bars, save_figure
    from object_aware import ImageDataset
    from object_aware.progress import Progress

    dataset = ImageDataset(args.images)
    chosen = np.random.default_rng(args.seed).permutation(len(dataset))[: args.count]
    paths = [dataset.path(int(i)) for i in chosen]
    pairs = crop_pairs(paths, args.grid * args.patch_size, args.per_scene, args.seed, Progress('scenes'))
    features, kept = patch_features(
        [pairs['first'], *(pairs[kind] for kind in PAIR_KINDS)], args.patch_size, args.components
    )
    first, scenes = features[0], pairs['scene']
    results = {}
    for kind, second in zip(PAIR_KINDS, features[1:]):
        options = dict(masks=args.masks, seed=args.seed)
        results[kind] = estimate_mixing(first, second, scenes, **options)
        # Partners moved on by half of the scenes: each crop gets one of a scene that it has nothing to do with.
        shuffled = np.roll(second, len(paths) // 2 * args.per_scene, axis=0)
        results[kind]['shuffled'] = estimate_mixing(first, shuffled, scenes, **options)
    series = {
        'fitted pairs': [results[kind]['gap'] for kind in PAIR_KINDS],
        'fitted pairs, shuffled (truth 0)': [results[kind]['shuffled']['gap'] for kind in PAIR_KINDS],
        'unseen scenes': [results[kind]['held_out_gap'] for kind in PAIR_KINDS],
    }
    errors = {'unseen scenes': [2 * results[kind]['held_out_gap_error'] for kind in PAIR_KINDS]}
    figure = bars(PAIR_KINDS, series, errors=errors, ylabel='mixed minus masked, nats a hidden patch')
    save_figure(figure, out / 'patches.png')
    for kind, row in results.items():
        print(
            f'{kind}: mixed minus masked {row["held_out_gap"]:+.3f} ± {row["held_out_gap_error"]:.3f} nats a hidden '
            f'patch on unseen scenes; fitted {row["gap"]:.3f}, of which by chance about {row["shuffled"]["gap"]:.3f}'
        )
    return dict(
        images=args.images,
        scenes=len(paths),
        pairs=len(first),
        grid=(args.grid, args.grid),
        patch_size=args.patch_size,
        components=args.components,
        variance_kept=kept,
        masks=args.masks,
        seed=args.seed,
        unit='nats for each hidden patch',
        results=results,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', metavar='FOLDER', help='folder of photographs, searched with its subfolders')
    parser.add_argument('--count', type=int, default=2000, help='how many photographs at most (default: 2000)')
    parser.add_argument('--per-scene', type=int, default=2, help='pairs of each photograph (default: 2)')
    parser.add_argument('--grid', type=int, default=4, help='patches along a side, even (default: 4)')
    parser.add_argument('--patch-size', type=int, default=8, help='pixels of a patch in the crops (default: 8)')
    parser.add_argument('--components', type=int, default=4, help='PCA values of a patch (default: 4)')
    parser.add_argument('--within', type=float, default=2.0, help='Gaussian model: correlation length, in patches')
    parser.add_argument('--noise', type=float, default=0.1, help='Gaussian model: noise on observed patches')
    parser.add_argument('--masks', type=int, default=8, help='masks to average over (default: 8)')
    parser.add_argument('--seed', type=int, default=0, help='of images, windows and masks')
    parser.add_argument('--out', default='work_dirs/analysis/mutual_information', help='folder to write to')
    return run(measure, parser, arguments)


if __name__ == '__main__':
    sys.exit(main())
