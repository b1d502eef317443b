"""Counts by outcome, and histograms of objects and of emitted windows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from browse_parts.scenes import measure_crop
from mixedae.visualization import new_figure, to_svg
from mixedae.visualization.figure import INK, SERIES, plain_axes
from object_aware.dataset import ObjectCropDataset
from object_aware.index import CropIndex

MEANING = {
    'accepted': 'has a window in which it is the single, centred object',
    'crowded': 'others cover too much of every window',
    'too small': 'its windows would have to be enlarged too much',
    'too long': 'its shape is too far from the crop’s',
    'at the border': 'no window inside the scene is centred on it',
    'no window': 'no window was found for another reason',
    'too thin': 'its pixels fill too little of every window that holds them',
}


def reason_rows(index: CropIndex) -> list[list[object]]:
    """Rows of the table of outcomes: name, number, share, meaning."""
    counts = index.reason_counts()
    total = max(sum(counts.values()), 1)
    return [
        [reason, f'{count:,}', f'{100 * count / total:.1f} %', MEANING.get(reason, '')]
        for reason, count in counts.items()
    ]


def object_figures(index: CropIndex) -> list[tuple[str, str]]:
    """Histograms of all objects: size and aspect, accepted and rejected."""
    boxes, kept = index.boxes[~index.crowd], index.outcome[~index.crowd] == 0
    side = np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-3)
    size, aspect = np.sqrt(side.prod(axis=1)), side[:, 0] / side[:, 1]
    sides = dict(accepted=kept, rejected=~kept)
    bins = np.geomspace(max(1.0, np.quantile(size, 0.001)), size.max() * 1.001, 31)
    shapes = np.geomspace(1 / 8, 8, 33)
    return [
        (
            _histogram({k: size[m] for k, m in sides.items()}, bins, 'object size, square root of the box area (px)'),
            'Size of the objects.',
        ),
        (
            _histogram({k: np.clip(aspect[m], 1 / 8, 8) for k, m in sides.items()}, shapes, 'width / height of boxes'),
            'Shape of the objects.',
        ),
    ]


def up_to(limit: float, usual: float) -> np.ndarray:
    """Edges of 30 bins from 0 to a little above a rule's limit, to ``usual`` at least."""
    return np.linspace(0, max(usual, 1.1 * limit), 31)


def window_figures(dataset: ObjectCropDataset, count: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Histograms of windows as the loader draws them in epoch 0, with the rules' limits."""
    index, rules = dataset.index, dataset.index.rules
    numbers = np.sort(rng.choice(len(index), min(count, len(index)), replace=False))
    drawn = {int(number): dataset.draw((int(number), 0))[1] for number in numbers}
    measured = [measure_crop(index, number, window) for number, window in drawn.items()]
    measures = np.array([measure for measure in measured if measure is not None], dtype=np.float64).reshape(-1, 4)
    windows = np.array(list(drawn.values()), dtype=np.float64)
    side = windows[:, 2:] - windows[:, :2]
    enlarged = np.max(np.array(dataset.size[::-1]) / side, axis=1)
    aspect = side[:, 0] / side[:, 1] * dataset.size[0] / dataset.size[1]
    panels: list[tuple[str, np.ndarray, np.ndarray, Sequence[float], str]] = [
        (
            'fill',
            measures[:, 2],
            np.linspace(0, 1, 31),
            (rules.min_fill,),
            'share of the window that the object covers',
        ),
        (
            'offset',
            measures[:, 1],
            up_to(rules.max_offset, 0.3),
            (rules.max_offset,),
            'distance of the centres, in sides',
        ),
        (
            'inside',
            measures[:, 0],
            1 - up_to(1 - rules.min_inside, 0.15)[::-1],
            (rules.min_inside,),
            'share of the object that is inside',
        ),
        (
            'others',
            measures[:, 3],
            up_to(rules.max_others, 0.36),
            (rules.max_others,),
            'others over the object, by area',
        ),
        (
            'upsampling',
            enlarged,
            up_to(rules.max_upsample, 4.5),
            (rules.max_upsample, 1.0),
            'crop pixels per scene pixel',
        ),
        (
            'aspect',
            aspect,
            np.linspace(min(0.6, 0.9 * rules.aspect[0]), max(1.5, 1.1 * rules.aspect[1]), 37),
            rules.aspect,
            'width / height of the window over the crop’s',
        ),
    ]
    figures = []
    for name, values, bins, limits, label in panels:
        inside = np.clip(values, bins[0], bins[-1])
        drawing = _histogram({'windows': inside}, bins, label, limits)
        figures.append((drawing, f'{name.capitalize()} of {len(values):,} windows.'))
    return figures


def _histogram(series: dict[str, np.ndarray], bins: np.ndarray, label: str, limits: Sequence[float] = ()) -> str:
    figure = new_figure(5.2, 2.6)
    axes = figure.add_subplot()
    log = len(bins) > 2 and not np.isclose(bins[1] - bins[0], bins[2] - bins[1])
    for k, (name, values) in enumerate(series.items()):
        counts, _ = np.histogram(values, bins)
        axes.stairs(counts, bins, color=SERIES[k], linewidth=1.8, fill=k == 0, alpha=0.45 if k == 0 else 1, label=name)
    if log:
        axes.set_xscale('log')
        if bins[-1] / bins[0] < 100:
            axes.set_xticks([1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8])
        axes.xaxis.set_major_formatter(lambda value, _: f'{value:g}')
        axes.xaxis.set_minor_formatter(lambda value, _: '')
    for limit in limits:
        axes.axvline(limit, color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
    plain_axes(axes, label)
    if len(series) > 1:
        axes.legend(frameon=False, labelcolor=INK, fontsize=9)
    return to_svg(figure, label)
