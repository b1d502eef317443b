"""A sheet of small pictures with titles as one image, pixel by pixel; quick enough to be drawn during training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GAP = 4  # pixels between pictures
PAPER, TEXT = (255, 255, 255), (34, 48, 60)


def sheet(
    rows: Sequence[Sequence[np.ndarray | None]], column_titles: Sequence[str] = (), *, cell: int = 128
) -> np.ndarray:
    """Pictures (H, W, 3) uint8 in rows and columns on white; None leaves a cell empty.

    Args:
        rows: all of the same length; pictures of one shape.
        column_titles: one for each column; a title may have several lines.
        cell: width of a picture on the sheet in pixels; smaller ones are enlarged by whole pixels, so patches stay
            sharp.

    Returns:
        ``(height, width, 3)`` uint8.
    """
    shapes = {picture.shape for row in rows for picture in row if picture is not None}
    if len(shapes) != 1 or len({len(row) for row in rows}) != 1:
        raise ValueError(f'a sheet takes rows of one length with pictures of one shape, not {sorted(shapes)}')
    if column_titles and len(column_titles) != len(rows[0]):
        raise ValueError(f'{len(column_titles)} column titles for {len(rows[0])} columns')
    height, width = shapes.pop()[:2]
    times = max(1, round(cell / width))
    height, width = height * times, width * times
    font = ImageFont.load_default(size=11)
    lines = max((title.count('\n') + 1 for title in column_titles), default=0)
    top = 15 * lines + GAP
    paper = Image.new('RGB', (GAP + len(rows[0]) * (width + GAP), top + len(rows) * (height + GAP)), PAPER)
    pen = ImageDraw.Draw(paper)
    for c, title in enumerate(column_titles):
        pen.multiline_text((GAP + c * (width + GAP), 1), title, fill=TEXT, font=font)
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            if picture is not None:
                enlarged = np.ascontiguousarray(picture.repeat(times, axis=0).repeat(times, axis=1))
                paper.paste(Image.fromarray(enlarged), (GAP + c * (width + GAP), top + r * (height + GAP)))
    return np.asarray(paper)


def outline(
    image: np.ndarray, cells: Sequence[int], grid: tuple[int, int], colour: tuple[int, int, int], width: int = 1
) -> np.ndarray:
    """The image (h * P, w * P, 3) with a frame around the patches numbered ``cells`` (row-major)."""
    out = np.array(image)
    side = image.shape[0] // grid[0]
    for number in cells:
        y, x = number // grid[1] * side, number % grid[1] * side
        patch = out[y : y + side, x : x + side]
        patch[:width], patch[-width:], patch[:, :width], patch[:, -width:] = (colour,) * 4
    return out
