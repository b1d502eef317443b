"""Scenes with their objects and windows over them, and the crops that the loader emits."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

from browse_parts.look import COLOURS
from mixedae.visualization import encode_image
from object_aware.dataset import ObjectCropDataset
from object_aware.index import CropIndex
from object_aware.masks import paint
from object_aware.pixels import crop, open_image
from object_aware.rules import WindowMeasure, measure_window
from object_aware.windows import REASONS

CROWD = 'crowd'
OVERLAP = 'overlap crop'
LETTERS = {
    'accepted': 'A', 'crowded': 'C', 'too small': 'S', 'too long': 'L', 'at the border': 'B', 'no window': 'N',
    'too thin': 'T', CROWD: 'R',
}  # fmt: skip
"""What stands at the box of an object without a window."""

MOST_OBJECTS = 40  # drawn of one scene
MOST_CROPS = 5  # objects of a scene whose crops are shown
_SIDE = 480  # longer side of a scene's picture
_CROP_SIDE = 112


def reason_of(index: CropIndex, row: int) -> str:
    """What became of an object."""
    return CROWD if index.crowd[row] else REASONS[int(index.outcome[row])]


def choose_scenes(index: CropIndex, count: int, rng: np.random.Generator) -> list[int]:
    """Random scenes with objects, but so that every outcome that there is can be seen: first one scene of each."""
    chosen: list[int] = []
    outcome = np.where(index.crowd, 255, index.outcome)
    for value in np.unique(outcome).tolist():
        rows = np.flatnonzero(outcome == value)
        row = int(rng.choice(rows))
        chosen.append(int(np.searchsorted(index.object_offsets, row, side='right')) - 1)
    with_objects = np.flatnonzero(np.diff(index.object_offsets) > 0)
    every = np.union1d(with_objects, index.used_scenes)
    more = rng.choice(every, min(len(every), count + len(chosen)), replace=False).tolist()
    return list(dict.fromkeys([*chosen, *more]))[:count]


def masks_of(index: CropIndex, scene: int) -> list[np.ndarray | None]:
    """(H, W) bool mask, or None, of each object of a scene."""
    width, height = (int(side) for side in index.sizes[scene])
    rows = range(int(index.object_offsets[scene]), int(index.object_offsets[scene + 1]))
    return [paint(index.masks[row], height, width) for row in rows]


def measure_crop(index: CropIndex, number: int, window: np.ndarray) -> WindowMeasure | None:
    """What the rules ask about a window of a crop; None for a crop of a scene without objects."""
    scene, target = int(index.target_scenes[number]), int(index.targets[number])
    if target < 0:
        return None
    masks = None
    if index.rules.measure == 'mask' and len(index.mask_bytes):
        masks = masks_of(index, scene)
        masks.insert(0, masks.pop(target - int(index.object_offsets[scene])))
    return measure_window(window, index.boxes[target], index.others(number), masks)


def scene_figure(dataset: ObjectCropDataset, scene: int, epochs: Sequence[int] = (0, 1, 2)) -> tuple[str, set[str]]:
    """A scene as HTML, and the outcomes of its objects."""
    index = dataset.index
    width, height = (int(side) for side in index.sizes[scene])
    start, stop = int(index.object_offsets[scene]), int(index.object_offsets[scene + 1])
    low, high = (int(np.searchsorted(index.target_scenes, scene, side=side)) for side in ('left', 'right'))
    crop_of = {int(index.targets[number]): number for number in range(low, high)}
    rows = range(start, min(stop, start + MOST_OBJECTS))
    colour_of = {row: COLOURS[k % len(COLOURS)] for k, row in enumerate(crop_of)}
    scale = min(1.0, _SIDE / max(width, height))
    small = (max(1, round(height * scale)), max(1, round(width * scale)))
    whole = np.array([0, 0, width, height], dtype=np.float32)
    picture = crop(open_image(dataset.location(scene), (width, height)), whole, small).transpose(1, 2, 0)
    font = 0.045 * max(width, height)
    objects, reasons = [], set()
    for row in [*rows, *([-1] if -1 in crop_of else [])]:
        reason = OVERLAP if row < 0 else reason_of(index, row)
        reasons.add(reason)
        number = crop_of.get(row)
        boxes = [] if row < 0 else [_rect(index.boxes[row], 'box', colour_of.get(row))]
        if number is None:
            x, y = index.boxes[row][:2] + [0.15 * font, 0.9 * font]
            title = escape(f'{_class_name(index, row)}: {reason}')
            label = f'<text x="{x:.1f}" y="{y:.1f}" font-size="{font:.1f}">{LETTERS[reason]}</text>'
            objects.append(_object('rejected', reason, [*boxes, label], title))
            continue
        drawn = [_rect(dataset.draw((number, epoch))[1], 'drawn', colour_of[row]) for epoch in epochs]
        title = f'{OVERLAP if row < 0 else _class_name(index, row)}: {reason}'
        own = _rect(index.windows[number], 'window', colour_of[row])
        objects.append(_object('accepted', reason, [*drawn, *boxes, own], escape(title)))
    masks = _mask_picture(index, scene, small, colour_of) if len(index.mask_bytes) else ''
    name = index.names[scene].decode(errors='replace')
    figure = (
        f'<figure class="scene" data-reasons="{",".join(sorted(reasons))}">'
        f'<div class="view" style="aspect-ratio:{width}/{height};max-width:{420 * width / height:.0f}px">'
        f'<img src="{encode_image(picture, quality=72)}" alt="scene {escape(name)}" loading="lazy">{masks}'
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="objects and windows">'
        f'{"".join(objects)}</svg></div>'
        f'<figcaption>{escape(name)}, {width}x{height}, {_counts(index, range(start, stop))}</figcaption>'
        f'{_crops(dataset, crop_of, colour_of, epochs)}</figure>'
    )
    return figure, reasons


def _crops(
    dataset: ObjectCropDataset, crop_of: dict[int, int], colour_of: dict[int, str], epochs: Sequence[int]
) -> str:
    blocks = []
    for row, number in list(crop_of.items())[:MOST_CROPS]:
        pictures, measures = [], []
        for epoch in epochs:
            sample = dataset[(number, epoch)]
            pixels = sample['inputs'].numpy().transpose(1, 2, 0)
            measure = measure_crop(dataset.index, number, sample['data_samples']['window'].numpy())
            said = '' if measure is None else ', '.join(f'{k} {v:.2f}' for k, v in measure._asdict().items())
            uri = encode_image(_shrink(pixels), quality=76)
            pictures.append(f'<img src="{uri}" alt="crop of epoch {epoch}" title="{said}" loading="lazy">')
            measures.append(measure)
        reason = OVERLAP if row < 0 else reason_of(dataset.index, row)
        name = OVERLAP if row < 0 else _class_name(dataset.index, row)
        first = measures[0]
        said = '' if first is None else f': fill {first.fill:.2f}, offset {first.offset:.2f}, others {first.others:.2f}'
        blocks.append(
            f'<div class="o" data-reason="{reason}" style="border-color:{colour_of[row]}">'
            f'{"".join(pictures)}<p>{escape(name)}{said}</p></div>'
        )
    return f'<div class="crops">{"".join(blocks)}</div>' if blocks else ''


def _class_name(index: CropIndex, row: int) -> str:
    number = int(index.classes[row])
    return index.class_names[number] if 0 <= number < len(index.class_names) else 'object'


def _counts(index: CropIndex, rows: range) -> str:
    reasons = [reason_of(index, row) for row in rows]
    said = ', '.join(f'{reasons.count(reason)} {reason}' for reason in dict.fromkeys(reasons)) or 'no objects'
    return said + (f'; the first {MOST_OBJECTS} are drawn' if len(rows) > MOST_OBJECTS else '')


def _rect(box: np.ndarray, kind: str, colour: str | None) -> str:
    x1, y1, x2, y2 = (float(c) for c in box)
    place = f'x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}"'
    stroke = f' style="stroke:{colour}"' if colour else ''
    return f'<rect class="rim {kind}" {place}/><rect class="{kind}" {place}{stroke}/>'


def _object(kind: str, reason: str, parts: Sequence[str], title: str) -> str:
    return f'<g class="o {kind}" data-reason="{reason}"><title>{title}</title>{"".join(parts)}</g>'


def _shrink(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    scale = min(1.0, _CROP_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))


def _mask_picture(index: CropIndex, scene: int, size: tuple[int, int], colour_of: dict[int, str]) -> str:
    """The masks as one small transparent picture: those with a crop in their colours, others white."""
    height, width = size
    canvas = np.zeros((height, width, 4), dtype=np.uint8)
    start = int(index.object_offsets[scene])
    for k, mask in enumerate(masks_of(index, scene)):
        if mask is None:
            continue
        small = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize((width, height))) > 127
        colour = colour_of.get(start + k)
        rgb = (255, 255, 255) if colour is None else tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
        canvas[small] = (*rgb, 70 if colour is None else 105)
    if not canvas[..., 3].any():
        return ''
    out = io.BytesIO()
    Image.fromarray(canvas).quantize(16, method=Image.Quantize.FASTOCTREE).save(out, format='PNG', optimize=True)
    uri = 'data:image/png;base64,' + base64.b64encode(out.getvalue()).decode()
    return f'<img class="masks" src="{uri}" alt="masks">'
