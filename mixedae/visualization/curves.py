"""Scalars of a run, read from MMEngine's local visualisation backend, and line charts of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from .figure import INK, SERIES, new_figure, plain_axes

Curve = tuple[np.ndarray, np.ndarray]  # steps (n,), values (n,)


def read_scalars(run_dir: str | Path, starts: Sequence[str] | None = None) -> dict[str, Curve]:
    """Every scalar of a run: `name -> (steps, values)`, steps ascending.

    Reads all `<run_dir>/*/vis_data/scalars.json` (one JSON object a line, as MMEngine's LocalVisBackend writes them);
    of a resumed run the later file wins where both hold a step. A last line cut off by a kill is passed over, and so
    are the times of validations, which bear the names of those of training.

    Args:
        run_dir: work directory of the run.
        starts: names of the folders to read; all if None.

    Raises:
        FileNotFoundError: no such file, with the folder named.
    """
    files = sorted(Path(run_dir).glob('*/vis_data/scalars.json'))
    if starts is not None:
        files = [file for file in files if file.parent.parent.name in starts]
    if not files:
        raise FileNotFoundError(
            f'no vis_data/scalars.json under {run_dir}: is it the work directory of a run with a LocalVisBackend?'
        )
    values: dict[str, dict[int, float]] = {}
    for file in files:
        lines = file.read_text(encoding='utf-8').splitlines()
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                if number == len(lines):
                    continue
                raise ValueError(f'{file}, line {number} is not JSON: {error}') from error
            step = row.get('step', row.get('iter'))
            if step is None:
                continue
            training = 'lr' in row or 'loss' in row
            for name, value in row.items():
                if name in ('time', 'data_time') and not training:
                    continue
                if name not in ('step', 'iter', 'epoch') and isinstance(value, int | float):
                    values.setdefault(name, {})[int(step)] = float(value)
    return {
        name: (np.array(sorted(points)), np.array([points[step] for step in sorted(points)]))
        for name, points in values.items()
    }


def smooth(values: Sequence[float] | np.ndarray, window: int) -> np.ndarray:
    """Centred moving mean over `window` values, one more if that is even; fewer at both ends, so the length stays."""
    values = np.asarray(values, dtype=np.float64)
    if window <= 1 or len(values) < 3:
        return values
    half = window // 2
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def curves(
    series: Mapping[str, Curve | Sequence[tuple[float, float]]],
    *,
    xlabel: str = 'iteration',
    ylabel: str = '',
    percent: bool = False,
    reference: tuple[float, str] | None = None,
    smooth_window: int = 1,
    size: tuple[float, float] = (5.2, 2.9),
    ylim: tuple[float, float] | None = None,
) -> Figure:
    """A line chart with one line a series, each labelled at its end instead of in a legend.

    Args:
        series: name -> (steps, values) or [(step, value), ...]; series without a point are left out.
        percent: values are shares (0..1), shown as %.
        reference: (value, label) of a dashed horizontal line, chance for instance.
        smooth_window: moving mean in points; the raw values stay as a pale line behind.
    """
    figure = new_figure(*size)
    axes = figure.add_subplot()
    ends: list[list] = []
    drawn = [(name, *_as_arrays(points)) for name, points in series.items()]
    drawn = [(name, x, y) for name, x, y in drawn if len(x)]
    for i, (name, x, y) in enumerate(drawn):
        colour = SERIES[i % len(SERIES)]
        if smooth_window > 1:
            axes.plot(x, y, color=colour, linewidth=0.8, alpha=0.25)
            y = smooth(y, smooth_window)
        axes.plot(x, y, color=colour, linewidth=2.0, solid_capstyle='round', marker='o' if len(x) == 1 else None)
        ends.append([y[-1], name, colour, x[-1]])
    if reference is not None:
        axes.axhline(reference[0], color=INK, linewidth=1.0, linestyle=(0, (4, 3)), alpha=0.7)
        axes.annotate(reference[1], (0.99, reference[0]), xycoords=('axes fraction', 'data'), xytext=(0, -4),
                      textcoords='offset points', color=INK, fontsize=9, ha='right', va='top')  # fmt: skip
    if ylim:
        axes.set_ylim(*ylim)
    plain_axes(axes, xlabel, ylabel)
    axes.margins(x=0.01)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    if len(ends) > 1:
        _label_ends(axes, ends)
    return figure


def _as_arrays(points: Curve | Sequence[tuple[float, float]]) -> Curve:
    if isinstance(points, tuple) and len(points) == 2 and not np.isscalar(points[0]):
        return np.asarray(points[0], dtype=np.float64), np.asarray(points[1], dtype=np.float64)
    pairs = np.asarray(list(points), dtype=np.float64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def _label_ends(axes, ends: list[list]) -> None:
    """Write each name at the end of its line, pushed apart so that none covers another."""
    low, high = axes.get_ylim()
    gap = 0.075 * (high - low)
    ends = sorted(ends, key=lambda end: end[0])
    heights = [end[0] for end in ends]
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + gap)
    overflow = max(0.0, heights[-1] - high)
    heights = [height - overflow for height in heights]
    for (_, name, colour, _), height in zip(ends, heights, strict=True):
        axes.annotate(
            name,
            (1.0, height),
            xycoords=('axes fraction', 'data'),
            xytext=(6, 0),
            textcoords='offset points',
            color=colour,
            fontsize=9,
            va='center',
            annotation_clip=False,
        )
