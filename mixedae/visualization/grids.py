"""A grid of images with titles, as one figure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from .figure import INK, new_figure


def grid(
    rows: Sequence[Sequence[np.ndarray | None]],
    *,
    column_titles: Sequence[str] = (),
    row_titles: Sequence[str] = (),
    cell: float = 1.5,
) -> Figure:
    """Images (H, W, 3) uint8 in rows and columns; None leaves a cell empty. `cell` is a column's width in inches."""
    if not rows or not rows[0]:
        raise ValueError('a grid needs at least one row with one image')
    columns = max(len(row) for row in rows)
    if column_titles and len(column_titles) != columns:
        raise ValueError(f'{len(column_titles)} column titles for {columns} columns')
    if row_titles and len(row_titles) != len(rows):
        raise ValueError(f'{len(row_titles)} row titles for {len(rows)} rows')
    shapes = [image.shape for row in rows for image in row if image is not None]
    ratio = max(shape[0] / shape[1] for shape in shapes)
    figure = new_figure(cell * columns, cell * ratio * len(rows) + 0.3)
    for r, row in enumerate(rows):
        for c in range(columns):
            axes = figure.add_subplot(len(rows), columns, r * columns + c + 1)
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_visible(False)
            axes.patch.set_alpha(0.0)
            if c < len(row) and row[c] is not None:
                axes.imshow(row[c], interpolation='nearest')
            if r == 0 and column_titles:
                axes.set_title(column_titles[c], color=INK, fontsize=9)
            if c == 0 and row_titles:
                axes.set_ylabel(row_titles[r], color=INK, fontsize=9)
    return figure
