"""Pictures of a run: curves, image grids, masks, windows, detections, label maps, and a self-contained HTML page.

Everything here takes plain numbers and uint8 RGB arrays (H, W, 3) and can be used alone; nothing keeps pyplot state.
"""

from .curves import curves, read_scalars, smooth
from .draw import colour_labels, draw_objects, draw_windows, fit, mask_colours, palette, to_image
from .figure import encode_image, new_figure, to_svg
from .grids import grid
from .html import Page, assert_self_contained
from .sheets import outline, sheet

__all__ = [
    'Page',
    'assert_self_contained',
    'colour_labels',
    'curves',
    'draw_objects',
    'draw_windows',
    'encode_image',
    'fit',
    'grid',
    'mask_colours',
    'new_figure',
    'outline',
    'palette',
    'read_scalars',
    'sheet',
    'smooth',
    'to_image',
    'to_svg',
]
