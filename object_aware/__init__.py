"""Object-aware data: scenes → boxes → crops → groups.

Scenes with many objects in, crops that each hold one centred object out, and a sampler that groups crops of different
scenes for mixing.
"""

from .dataset import ObjectCropDataset
from .images import ImageDataset
from .index import CropIndex, build_crop_index, content_hash
from .sampler import GroupSampler
from .scenes import Scenes, read_scenes
from .windows import WindowMeasure, WindowRules, canonical_window, draw_window, measure_window, violations

__all__ = [
    'CropIndex',
    'GroupSampler',
    'ImageDataset',
    'ObjectCropDataset',
    'Scenes',
    'WindowMeasure',
    'WindowRules',
    'build_crop_index',
    'canonical_window',
    'content_hash',
    'draw_window',
    'measure_window',
    'read_scenes',
    'violations',
]
