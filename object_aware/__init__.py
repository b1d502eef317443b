"""Object-aware data: scenes → boxes → crops → groups.

Scenes with many objects in, crops that each hold one centred object out, and a sampler that groups crops of different
scenes for mixing.

Names are imported when they are first used, so that a process which only decides windows never loads PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .baselines import SceneCropDataset
    from .building import build_crop_index, content_hash
    from .dataset import ObjectCropDataset
    from .device_scenes import DeviceScenes, WindowDataset
    from .images import ImageDataset
    from .index import CropIndex
    from .sampler import GroupSampler, InfiniteGroupSampler
    from .scenes import Scenes, read_scenes
    from .sharded import ShardedCropDataset
    from .shards import write_shards
    from .windows import WindowMeasure, WindowRules, canonical_window, draw_window, measure_window, violations

__all__ = [
    'CropIndex',
    'DeviceScenes',
    'GroupSampler',
    'ImageDataset',
    'InfiniteGroupSampler',
    'ObjectCropDataset',
    'SceneCropDataset',
    'Scenes',
    'ShardedCropDataset',
    'WindowDataset',
    'WindowMeasure',
    'WindowRules',
    'build_crop_index',
    'canonical_window',
    'content_hash',
    'draw_window',
    'measure_window',
    'read_scenes',
    'violations',
    'write_shards',
]

_MODULE_OF = {
    'CropIndex': 'index',
    'DeviceScenes': 'device_scenes',
    'GroupSampler': 'sampler',
    'ImageDataset': 'images',
    'InfiniteGroupSampler': 'sampler',
    'ObjectCropDataset': 'dataset',
    'SceneCropDataset': 'baselines',
    'Scenes': 'scenes',
    'ShardedCropDataset': 'sharded',
    'WindowDataset': 'device_scenes',
    'build_crop_index': 'building',
    'content_hash': 'building',
    'read_scenes': 'scenes',
    'write_shards': 'shards',
}  # the others are in windows


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(f'.{_MODULE_OF.get(name, "windows")}', __name__), name)
