"""Boxes from anywhere: COCO results and proposals, Pascal VOC, or no labels at all.

Reading: :mod:`.source`. Proposing without labels: :mod:`.cutting` (normalised cuts of ViT features) and
:mod:`.selective_search`, both run by :mod:`.proposing`. Measuring: :mod:`.recall` and :mod:`.baselines`.
"""

from .overlaps import box_iou, nms, select
from .proposals import Proposals
from .source import Part, read_source

__all__ = ['Part', 'Proposals', 'box_iou', 'nms', 'read_source', 'select']
