"""Crops per second from the bytes of JPEG files: ours against "decode all, crop, resize" with the same output.

    python tools/benchmark.py data
    python tools/benchmark.py data --scenes ANNOTATIONS.json IMAGE_FOLDER

Scenes (drawn ones, or those of --scenes) are resized to each of --sizes and encoded as JPEG; a crop index is built on
them and windows are drawn by its rules. With --tiles N a scene is N x N of the photographs, each with its own boxes, so
that small photographs keep their detail in a large scene. Then each contender makes the same crops from the files:

    plain      Pillow decodes all pixels, resizes the window (bicubic with antialiasing), gives (3, H, W)
    draft      the same with libjpeg's reduced decoding where the window is twice the crop or more
    whole      libjpeg-turbo decodes all pixels (simplejpeg), otherwise ours
    ours       object_aware.pixels.crop
    together   object_aware.pixels.crops_from with all windows of an image at once

PSNR is that of each crop against plain.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from object_aware import CropIndex, ObjectCropDataset, build_crop_index, read_scenes
from object_aware.decoding import Region
from object_aware.pixels import crop, crops_from, open_image
from object_aware.progress import Progress
from object_aware.resizing import resize_window
from object_aware.synthetic import write_demo_data
from tools.benchmark_parts.common import interleave, ratio

PACKAGES = ('simplejpeg', 'numba')
CONTENDERS = ('plain', 'draft', 'whole', 'ours', 'together')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--scenes', nargs=2, metavar=('ANNOTATIONS', 'IMAGE_FOLDER'), help='COCO-format json and its images'
    )
    parser.add_argument('--sizes', nargs='+', default=['640x480', '1920x1280'], metavar='WxH', help='of the scenes')
    parser.add_argument('--crops', type=int, nargs='+', default=[224, 128], metavar='N', help='sides of the crops')
    parser.add_argument('--tiles', type=int, default=1, metavar='N', help='photographs per side of a scene')
    parser.add_argument('--quality', type=int, default=85, help='of the JPEG files (default: %(default)s)')
    parser.add_argument(
        '--subsampling', default='4:2:0', choices=['4:2:0', '4:2:2', '4:4:4'], help='of chroma (default: %(default)s)'
    )
    parser.add_argument('--progressive', action='store_true', help='progressive JPEG files')
    parser.add_argument('--images', type=int, default=40, help='scenes (default: %(default)s)')
    parser.add_argument('--windows', type=int, default=120, help='crops in one repeat (default: %(default)s)')
    parser.add_argument('--repeats', type=int, default=7, help='of each contender (default: %(default)s)')


def run(args: argparse.Namespace) -> dict[str, Any]:
    sizes = [_parse_size(text) for text in args.sizes]
    rows, details = [], []
    with tempfile.TemporaryDirectory(prefix='benchmark_data_') as temporary:
        folder = Path(temporary)
        if args.scenes:
            annotations, images = (Path(part) for part in args.scenes)
        else:
            write_demo_data(
                folder / 'drawn', num_train=min(24, args.images * args.tiles**2), num_val=1, size=(640, 480)
            )
            annotations, images = folder / 'drawn/det/annotations/train.json', folder / 'drawn/det/images'
        for size in sizes:
            scenes = write_scenes(annotations, images, folder / f'{size[0]}x{size[1]}', size, args)
            kilobytes = np.mean([file.stat().st_size for file in scenes[1].iterdir()]) / 1000
            for side in args.crops:
                found = measure(scenes, folder, side, args)
                details.append(dict(size=list(size), side=side, kilobytes=kilobytes, **found))
                rows += _rows(f'{size[0]}x{size[1]} -> {side}', kilobytes, found)
    kind = f'quality {args.quality}, {args.subsampling}{", progressive" if args.progressive else ""}'
    tiles = f', each of {args.tiles} x {args.tiles} photographs' if args.tiles > 1 else ''
    table = dict(
        title=f'{args.images} scenes ({args.scenes[0] if args.scenes else "drawn"}), {kind}{tiles}; {args.windows} '
        f'windows by the rules, {args.repeats} repeats in turns, one process',
        columns=['scene -> crop', 'contender', 'crops/s', 'ratio', '25-75 %', 'PSNR min', '10 %', 'median', 'equal'],
        rows=rows,
        notes=[
            'crops/s: per second of CPU time, median. ratio: to plain, median of the repeats. PSNR in dB of crops that '
            'are not equal to plain, equal: share that is.'
        ],
    )
    return dict(tables=[table], details=details)


def write_scenes(
    annotations: Path, images: Path, out: Path, size: tuple[int, int], args: argparse.Namespace
) -> tuple[Path, Path]:
    """Photographs with boxes, resized to scenes of one size and encoded; (annotation file, image folder)."""
    coco = json.loads(annotations.read_text(encoding='utf-8'))
    boxes: dict[Any, list[dict]] = {}
    for annotation in coco['annotations']:
        boxes.setdefault(annotation['image_id'], []).append(annotation)
    wide = size[0] / size[1]
    usable = [k for k in coco['images'] if k['id'] in boxes and 0.8 < k['width'] / k['height'] / wide < 1.25]
    if not usable:
        raise ValueError(f'{annotations} has no images with boxes of about the aspect {size[0]}:{size[1]}.')
    (out / 'images').mkdir(parents=True)
    records, objects = [], []
    width, height = size[0] // args.tiles, size[1] // args.tiles
    for number in range(args.images):
        scene = Image.new('RGB', size)
        for tile in range(args.tiles**2):
            source = usable[(number * args.tiles**2 + tile) % len(usable)]
            x, y = tile % args.tiles * width, tile // args.tiles * height
            with Image.open(images / source['file_name']) as image:
                scene.paste(image.convert('RGB').resize((width, height), Image.Resampling.LANCZOS), (x, y))
            across, down = width / source['width'], height / source['height']
            for annotation in boxes[source['id']]:
                left, top, w, h = annotation['bbox']
                objects.append(
                    dict(
                        id=len(objects) + 1, image_id=number + 1, category_id=1, iscrowd=annotation.get('iscrowd', 0),
                        bbox=[x + left * across, y + top * down, w * across, h * down],
                    )
                )  # fmt: skip
        name = f'{number:05d}.jpg'
        scene.save(
            out / 'images' / name, quality=args.quality, subsampling=args.subsampling, progressive=args.progressive
        )
        records.append(dict(id=number + 1, file_name=name, width=size[0], height=size[1]))
    content = dict(images=records, annotations=objects, categories=[dict(id=1, name='object')])
    (out / 'scenes.json').write_text(json.dumps(content))
    return out / 'scenes.json', out / 'images'


def measure(scenes: tuple[Path, Path], folder: Path, side: int, args: argparse.Namespace) -> dict[str, Any]:
    """Time the contenders on one set of windows, and compare their crops."""
    build_crop_index(read_scenes([scenes]), side).save(folder / f'{scenes[0].parent.name}_{side}.safetensors')
    index = CropIndex.load(folder / f'{scenes[0].parent.name}_{side}.safetensors')
    dataset = ObjectCropDataset(index.path)
    order = np.random.default_rng(0).permutation(len(dataset))
    windows: list[tuple[str, np.ndarray]] = []
    for k in range(args.windows):
        number, window, _ = dataset.draw((int(order[k % len(order)]), k // len(order)))
        windows.append((dataset.path(int(index.target_scenes[number])), np.asarray(window, dtype=np.float32)))
    grouped: dict[str, list[int]] = {}
    for k, (path, _) in enumerate(windows):
        grouped.setdefault(path, []).append(k)

    def each(make: Callable[[str, np.ndarray, int], np.ndarray]) -> Callable[[], float]:
        def contend() -> float:
            for path, window in windows:
                make(path, window, side)
            return len(windows)

        return contend

    def together() -> float:
        for path, members in grouped.items():
            crops_from(open_image(path), np.stack([windows[k][1] for k in members]), (side, side))
        return len(windows)

    makers = dict(plain=plain, draft=draft, whole=whole, ours=ours)
    timings = interleave(
        {**{name: each(make) for name, make in makers.items()}, 'together': together},
        args.repeats,
        Progress(f'{scenes[0].parent.name} -> {side}'),
    )
    wanted = [plain(path, window, side) for path, window in windows]
    quality = {}
    for name, make in makers.items():
        decibels = np.array([psnr(make(path, window, side), want) for (path, window), want in zip(windows, wanted)])
        different = decibels[np.isfinite(decibels)]
        quality[name] = dict(
            equal=float(np.isinf(decibels).mean()),
            psnr=[float(q) for q in np.quantile(different, (0, 0.1, 0.5))] if len(different) else None,
        )
    sides = np.array([min(window[2] - window[0], window[3] - window[1]) for _, window in windows])
    return dict(
        timings={name: timing.as_dict() for name, timing in timings.items()},
        ratios={name: ratio(timing, timings['plain']) for name, timing in timings.items()},
        quality=quality,
        window_sides=[float(q) for q in np.quantile(sides, (0, 0.25, 0.5, 0.75, 1))],
        windows_per_image=len(windows) / len(grouped),
    )


def plain(path: str, window: np.ndarray, side: int) -> np.ndarray:
    image = Image.open(io.BytesIO(Path(path).read_bytes()))
    image.load()
    resized = image.resize((side, side), Image.Resampling.BICUBIC, box=tuple(float(c) for c in window))
    return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))


def draft(path: str, window: np.ndarray, side: int) -> np.ndarray:
    image = Image.open(io.BytesIO(Path(path).read_bytes()))
    width = image.width
    x1, y1, x2, y2 = (float(c) for c in window)
    wanted = min(x2 - x1, y2 - y1) / side / 2
    factor = 8 if wanted >= 8 else 4 if wanted >= 4 else 2 if wanted >= 2 else 1
    if factor > 1:
        image.draft(None, (image.width // factor, image.height // factor))
    image.load()
    scale = round(width / image.width)
    box = (x1 / scale, y1 / scale, min(x2 / scale, image.width), min(y2 / scale, image.height))
    resized = image.resize((side, side), Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)
    return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))


def whole(path: str, window: np.ndarray, side: int) -> np.ndarray:
    region = Region(simplejpeg.decode_jpeg(Path(path).read_bytes(), 'RGB'), 0, 0, 1)
    out = np.empty((3, side, side), dtype=np.uint8)
    resize_window(region.pixels, *(float(c) for c in window), False, out)
    return out


def ours(path: str, window: np.ndarray, side: int) -> np.ndarray:
    return crop(open_image(path), window, (side, side))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 arrays; infinite where they are equal."""
    error = np.mean((a.astype(np.float64) - b) ** 2)
    return float(np.inf) if error == 0 else float(10 * np.log10(255**2 / error))


def _rows(label: str, kilobytes: float, found: dict[str, Any]) -> list[list[str]]:
    rows = []
    for name in CONTENDERS:
        middle, low, high = found['ratios'][name]
        quality = found['quality'].get(name)
        decibels = ['', '', '']
        if quality is not None and quality['psnr'] is not None:
            decibels = [f'{value:.1f}' for value in quality['psnr']]
        equal = '' if quality is None else f'{100 * quality["equal"]:.0f} %'
        note = f'{name} ({found["windows_per_image"]:.1f} per image)' if name == 'together' else name
        first = f'{label} ({kilobytes:.0f} kB)' if name == CONTENDERS[0] else ''
        rate = f'{found["timings"][name]["rate"]:,.0f}'
        rows.append([first, note, rate, f'{middle:.2f}', f'{low:.2f}-{high:.2f}', *decibels, equal])
    return rows


def _parse_size(text: str) -> tuple[int, int]:
    width, separator, height = text.lower().partition('x')
    if not separator or not width.isdigit() or not height.isdigit() or int(width) < 64 or int(height) < 64:
        raise ValueError(f'A scene size is written WIDTHxHEIGHT, with at least 64 pixels each, not {text!r}.')
    return int(width), int(height)
