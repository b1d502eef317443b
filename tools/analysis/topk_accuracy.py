"""TopK accuracy of pre-trained models: per layer, measured on images, and along training, from the run's log.

    python tools/analysis/topk_accuracy.py work_dirs/run/config.py work_dirs/run/iter_600.pth --images data/images
    python tools/analysis/topk_accuracy.py A.py A.pth --compare B.py B.pth --name with --name without \\
        --crops crops.safetensors

Writes layers.png, training.png (if a run's folder holds its log) and topk_accuracy.json to --out. Chance is r = 1/g; in
a global block the r·L best keys are counted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent))
from common import add_image_arguments, add_model_arguments, named_models, read_images, run

if TYPE_CHECKING:
    from mixedae.analysis.topk_accuracy import LayerAccuracy

LEFT_OUT = ', segments left out'


def alike(a: list[tuple[int, float]], b: list[tuple[int, float]]) -> bool:
    """Whether two curves cannot be told apart in a figure: half a per cent."""
    return all(abs(x - y) < 0.005 for (_, x), (_, y) in zip(a, b))


def measure(args: argparse.Namespace) -> None:
    from mixedae.analysis import layer_accuracy, load_model
    from mixedae.analysis.figures import save_figure, save_numbers
    from mixedae.visualization import curves
    from object_aware.progress import Progress

    out, results, images = Path(args.out), {}, {}
    for name, config, checkpoint in named_models(args):
        model = load_model(config, checkpoint).to(args.device)
        group_size = getattr(model, 'group_size', 4)
        key = (model.encoder.img_size, group_size)
        if key not in images:
            images[key] = read_images(args, *key)
        ways = {name: True}
        if args.without_segments and model.encoder.segment_embed is not None:
            ways[name + LEFT_OUT] = False
        for way, use_segments in ways.items():
            measured = layer_accuracy(
                model,
                images[key].pixels,
                draws=args.draws,
                seed=args.seed,
                use_segments=use_segments,
                progress=Progress(f'{way}: groups'),
            )
            results[way] = dict(config=config, checkpoint=checkpoint, use_segments=use_segments, **numbers(measured))
    history = read_history(args)
    source = args.images or args.crops
    counts = sorted({len(part.pixels) for part in images.values()})
    save_numbers(
        out / 'topk_accuracy.json',
        dict(
            what="TopK accuracy: share of kept patch keys that come from the query patch's own image",
            images=source,
            count=counts,
            seed=args.seed,
            draws=args.draws,
            models=results,
            training={name: {f'{i:02d}': c for i, c in layers.items()} for name, layers in history.items()},
        ),
    )
    chance = next(iter(results.values()))['chance']
    by_layer = {
        name: [(row['layer'] + 1, row['topk_acc']) for row in result['layers']] for name, result in results.items()
    }
    for name, result in results.items():  # a line that would hide another one
        whole = name.removesuffix(LEFT_OUT)
        if not result['use_segments'] and alike(by_layer[name], by_layer[whole]):
            del by_layer[name]
            print(f'{whole}: the same without its segment embedding, drawn once')
    options = dict(
        ylabel='TopK accuracy', percent=True, reference=(chance, f'chance {chance:.0%}'), ylim=(0, 1), size=(7.6, 3.2)
    )
    save_figure(curves(by_layer, xlabel='layer', **options), out / 'layers.png')
    if history:
        save_figure(curves(training_lines(history), xlabel='iteration', **options), out / 'training.png')
    for name, result in results.items():
        print(f'{name}: ' + ' '.join(f'{row["topk_acc"]:.1%}' for row in result['layers']))
    print(f'chance {chance:.1%}; figures and numbers in {out}')


def numbers(measured: LayerAccuracy) -> dict:
    """A measurement as plain numbers."""
    return dict(
        chance=measured.chance,
        groups=len(measured.topk_acc),
        layers=[
            dict(
                layer=i,
                topk_acc=measured.by_layer[i],
                standard_error=measured.error[i],
                topk_acc_by_head=measured.topk_acc[:, i].mean(0),
                own_attention=measured.own_attention[:, i].mean(),
                topk=measured.topk[i],
                is_global=measured.is_global[i],
            )
            for i in range(len(measured.topk))
        ],
    )


def read_history(args: argparse.Namespace) -> dict[str, dict]:
    """TopK accuracy along training of each run whose log can be found, name -> block -> (iterations, values)."""
    from mixedae.analysis import accuracy_along_training

    if args.history:
        return {Path(folder).name: accuracy_along_training(folder) for folder in args.history}
    found = {}
    for name, _, checkpoint in named_models(args):
        folder = Path(checkpoint).resolve().parent
        if folder in [known for known, _ in found.values()]:
            continue  # another checkpoint of the same run
        try:
            found[name] = (folder, accuracy_along_training(folder))
        except (FileNotFoundError, ValueError):
            print(f'{name}: no log of TopK accuracy beside {checkpoint}; give its run with --history', file=sys.stderr)
    return {name: layers for name, (_, layers) in found.items()}


def training_lines(history: dict[str, dict]) -> dict:
    """Of several runs the last layer; of one run four layers from first to last."""
    if len(history) > 1:
        return {f'{name}, last layer': list(layers.values())[-1] for name, layers in history.items()}
    layers = next(iter(history.values()))
    last = max(layers)
    chosen = sorted({round(last * part / 3) for part in range(4)})
    return {f'layer {i + 1}': layers[i] for i in chosen if i in layers}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    add_image_arguments(parser, count=256)
    parser.add_argument('--draws', type=int, default=1, help='mixing masks for each group (default: 1)')
    parser.add_argument(
        '--without-segments',
        action='store_true',
        help='measure each model a second time with its segment embedding left out: what it finds by content alone',
    )
    parser.add_argument(
        '--history', action='append', metavar='RUN', help="work directory of a run (default: the checkpoint's folder)"
    )
    parser.add_argument('--out', default='work_dirs/analysis/topk_accuracy', help='folder to write to')
    return run(measure, parser, arguments)


if __name__ == '__main__':
    sys.exit(main())
