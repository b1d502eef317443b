"""[CLS] attention of the last layer, mean over heads, on whole images or object crops.

    python tools/analysis/cls_attention.py work_dirs/run/config.py work_dirs/run/iter_600.pth --images data/images
    python tools/analysis/cls_attention.py A.py A.pth --compare B.py B.pth --name MixedAE --name MAE \\
        --crops crops.safetensors

Writes cls_attention.png (a row an image, a column a model), cls_attention.npz (the maps) and cls_attention.json to
--out. With object crops the numbers hold the share of the attention that falls into the object's box.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from common import add_image_arguments, add_model_arguments, named_models, read_images, run


def measure(args: argparse.Namespace) -> None:
    import numpy as np

    from mixedae.analysis import box_shares, cls_attention, concentration, load_model
    from mixedae.analysis.figures import heat_overlay, save_figure, save_numbers
    from mixedae.visualization import grid
    from object_aware.progress import Progress

    out, results, maps, sets = Path(args.out), {}, {}, {}
    for name, config, checkpoint in named_models(args):
        model = load_model(config, checkpoint).to(args.device)
        size = model.encoder.img_size
        if size not in sets:
            sets[size] = read_images(args, size)
        images = sets[size]
        maps[name] = cls_attention(
            model, images.pixels, global_attention=args.global_attention, progress=Progress(f'{name}: images')
        )
        spread = concentration(maps[name])
        row = dict(
            config=config,
            checkpoint=checkpoint,
            attention_on_patches=maps[name].sum((1, 2)).mean().item(),
            spread=spread.mean().item(),
        )
        if images.boxes is not None:
            inside, area = box_shares(maps[name], images.boxes)
            row |= dict(inside_box=inside.mean().item(), box_area=area.mean().item())
            row['inside_box_error'] = (inside.std() / max(len(inside), 2) ** 0.5).item() if len(inside) > 1 else None
        results[name] = row
    first = next(iter(sets.values()))
    meaning = dict(
        attention_on_patches='attention of [CLS] to all patches; the rest is on itself',
        spread='exp(entropy) of the map over the number of patches: 1 is flat',
        inside_box="share of the map inside the object's box; a flat map gives box_area",
    )
    save_numbers(
        out / 'cls_attention.json',
        dict(
            what='attention of the [CLS] query in the last block, mean over heads',
            meaning=meaning,
            images=args.images or args.crops,
            count=len(first.pixels),
            names=first.names,
            seed=args.seed,
            global_attention=args.global_attention,
            models=results,
        ),
    )
    np.savez_compressed(out / 'cls_attention.npz', **{name.replace('/', '_'): m.numpy() for name, m in maps.items()})
    shown = min(args.show, len(first.pixels))
    rows = []
    for i in range(shown):
        picture = first.pixels[i].permute(1, 2, 0).numpy()
        rows.append([picture] + [heat_overlay(picture, maps[name][i].numpy()) for name in maps])
    save_figure(grid(rows, column_titles=['image', *maps]), out / 'cls_attention.png')
    for name, row in results.items():
        box = f", {row['inside_box']:.1%} in the object's box ({row['box_area']:.1%} of the area)"
        print(f'{name}: spread {row["spread"]:.2f}' + (box if 'inside_box' in row else ''))
    print(f'figure, maps and numbers in {out}')


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    add_image_arguments(parser, count=64)
    parser.add_argument('--show', type=int, default=8, help='rows of the figure (default: 8)')
    parser.add_argument(
        '--global-attention', action='store_true', help='all blocks global, as after transfer, not as in pre-training'
    )
    parser.add_argument('--out', default='work_dirs/analysis/cls_attention', help='folder to write to')
    return run(measure, parser, arguments)


if __name__ == '__main__':
    sys.exit(main())
