"""Figures of the analyses, on white ground, and the files that they are written to."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from mixedae.visualization import new_figure
from mixedae.visualization.figure import INK, SERIES, plain_axes


def save_figure(figure: Figure, path: str | os.PathLike, dpi: int = 130) -> None:
    """Writes a figure as PNG on white ground."""
    figure.patch.set_facecolor('white')
    figure.patch.set_alpha(1.0)
    figure.savefig(path, dpi=dpi)


def save_numbers(path: str | os.PathLike, numbers: Mapping[str, Any]) -> None:
    """Writes numbers as JSON; arrays become lists, floats keep six digits."""
    Path(path).write_text(json.dumps(_plain(numbers), indent=2, ensure_ascii=False) + '\n', encoding='utf-8')


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(f'{float(value):.6g}') if np.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    return value


def bars(
    groups: Sequence[str],
    series: Mapping[str, Sequence[float]],
    *,
    errors: Mapping[str, Sequence[float]] | None = None,
    ylabel: str = '',
    size: tuple[float, float] = (6.4, 3.2),
) -> Figure:
    """Bars side by side: one cluster a group, one colour a series, thin lines for errors."""
    figure = new_figure(*size)
    axes = figure.add_subplot()
    width = 0.8 / len(series)
    for i, (name, values) in enumerate(series.items()):
        at = np.arange(len(groups)) + (i - (len(series) - 1) / 2) * width
        axes.bar(at, values, width * 0.92, color=SERIES[i % len(SERIES)], label=name)
        if errors and name in errors:
            axes.errorbar(at, values, yerr=errors[name], fmt='none', ecolor=INK, elinewidth=1)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set_xticks(range(len(groups)), groups)
    plain_axes(axes, ylabel=ylabel)
    axes.spines['bottom'].set_visible(False)  # the line at 0 is drawn
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    return figure


def heat_overlay(image: np.ndarray, heat: np.ndarray, strength: float = 0.65) -> np.ndarray:
    """An image ``(H, W, 3)`` uint8 lit by a map ``(h, w)``: dark where it is low, as it is where it is highest."""
    height, width = image.shape[:2]
    low, high = float(heat.min()), float(heat.max())
    level = (heat - low) / (high - low) if high > low else np.ones_like(heat)
    level = Image.fromarray((level * 255).astype(np.uint8)).resize((width, height), Image.Resampling.BILINEAR)
    light = 1 - strength + strength * np.asarray(level, dtype=np.float64)[..., None] / 255
    return np.rint(image * light).astype(np.uint8)
