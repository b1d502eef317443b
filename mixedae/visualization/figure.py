"""Figures that belong to nobody: an explicit Figure and canvas, no pyplot, and their way into a page."""

from __future__ import annotations

import base64
import io
import re

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

# Colours of the figures. In an SVG of `to_svg` each becomes a CSS variable of the page, so that one figure serves the
# light and the dark theme; in a PNG they are taken as they stand (they are legible on white).
INK = '#22303c'  # text and axes
FAINT = '#c9d1d8'  # grid lines
SERIES = ('#2563c9', '#d9601a', '#12875f', '#a2429b', '#a67c00', '#0e8aa8')
_VARIABLES = {INK: 'var(--ink)', FAINT: 'var(--line)', **{c: f'var(--s{i})' for i, c in enumerate(SERIES)}}


def new_figure(width: float, height: float) -> Figure:
    """A figure of `width` x `height` inches with its own canvas and a transparent ground; pyplot never hears of it."""
    figure = Figure(figsize=(width, height), layout='constrained')
    FigureCanvasAgg(figure)
    figure.patch.set_alpha(0.0)
    return figure


def plain_axes(axes: Axes, xlabel: str = '', ylabel: str = '') -> None:
    """No frame but a faint bottom line, faint horizontal grid lines behind what is drawn, no tick marks."""
    for side in ('top', 'right', 'left'):
        axes.spines[side].set_visible(False)
    axes.spines['bottom'].set_color(FAINT)
    axes.patch.set_alpha(0.0)
    axes.grid(axis='y', color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0, labelsize=9)
    axes.set_xlabel(xlabel, color=INK, fontsize=9)
    axes.set_ylabel(ylabel, color=INK, fontsize=9)


def to_svg(figure: Figure, label: str = '') -> str:
    """The figure as an inline `<svg>` element: text stays text, colours follow the page's theme, ids are its own.

    Args:
        label: what a screen reader says, and the salt of the ids, so give two figures of one page two labels.
    """
    out = io.StringIO()
    with matplotlib.rc_context({'svg.fonttype': 'none', 'svg.hashsalt': label or 'figure', 'path.simplify': True}):
        figure.savefig(out, format='svg', metadata={'Date': None, 'Creator': None})
    svg = out.getvalue()
    svg = svg[svg.index('<svg') :]
    svg = re.sub(r'<(metadata|style).*?</\1>', '', svg, flags=re.S)  # a style of one SVG would hold for the whole page
    svg = re.sub(r'(?:font-family: |font: )([^;"]*)', _inherit_font, svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    # The namespace of links is not needed inside HTML, and a fixed size would not shrink on a phone.
    svg = re.sub(r'\sxmlns(:xlink)?="[^"]*"', '', svg).replace('xlink:href', 'href')
    svg = re.sub(
        r'^<svg[^>]*viewBox="([^"]*)"[^>]*>', rf'<svg viewBox="\1" role="img" aria-label="{_escape(label)}">', svg
    )
    return _unique_ids(svg, label)


def encode_image(image: np.ndarray, *, photo: bool = True, quality: int = 86) -> str:
    """A uint8 RGB array (H, W, 3) as a data URI: JPEG for a photograph, PNG for flat colours."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f'an image must be uint8 (H, W, 3), got {image.dtype} {image.shape}')
    out = io.BytesIO()
    picture = Image.fromarray(np.ascontiguousarray(image))
    if photo:
        picture.save(out, format='JPEG', quality=quality, optimize=True)
    else:
        picture.save(out, format='PNG', optimize=True)
    kind = 'jpeg' if photo else 'png'
    return f'data:image/{kind};base64,' + base64.b64encode(out.getvalue()).decode('ascii')


def _inherit_font(match: re.Match[str]) -> str:
    """Keep the size of a font shorthand, drop its family: the page has one."""
    size = re.search(r'([\d.]+)px', match.group(1))
    return f'font-size: {size.group(1)}px' if size else 'font-family: inherit'


def _unique_ids(svg: str, label: str) -> str:
    """Prefix every id with the label: two figures in one page must not share the id of a clip path."""
    prefix = re.sub(r'[^a-z0-9]+', '-', label.lower()).strip('-') or 'figure'
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', svg)
    return re.sub(r'url\(#([^)]+)\)', rf'url(#{prefix}-\1)', svg)


def _escape(text: str) -> str:
    return text.replace('&', '&amp;').replace('"', '&quot;').replace('<', '&lt;')
