"""MMEngine's parts that the runner replaces by ours."""

from __future__ import annotations

import copy
from typing import Any

OURS = {
    'CheckpointHook': 'mixedae.SafeCheckpointHook',
    'EpochBasedTrainLoop': 'mixedae.ExactEpochLoop',
    'IterBasedTrainLoop': 'mixedae.ExactIterLoop',
    'OptimWrapper': 'mixedae.GuardedOptimWrapper',
    'AmpOptimWrapper': 'mixedae.GuardedAmpOptimWrapper',
}
"""MMEngine's part to ours, which takes the same options."""


def ours(part: Any) -> Any:
    """The config of one of MMEngine's parts, with the type of ours that replaces it; anything else as it is."""
    if not isinstance(part, dict) or 'type' not in part:
        return part
    kind = part['type'] if isinstance(part['type'], str) else part['type'].__name__
    scope, _, name = kind.rpartition('.')
    if name not in OURS or scope not in ('', 'mmengine', 'mmdet', 'mmseg'):
        return part
    if not isinstance(part['type'], str) and not part['type'].__module__.startswith('mmengine.'):
        return part
    part = copy.copy(part)
    part['type'] = OURS[name]
    return part
