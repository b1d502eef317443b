"""Parts of the training loop: meters, layer-wise learning rates, the runner and what keeps a run alive, checks."""

from mixedae.engine.checkpoint_hook import SafeCheckpointHook
from mixedae.engine.finite import FiniteHook, GuardedAmpOptimWrapper, GuardedOptimWrapper
from mixedae.engine.layer_decay import LayerDecayOptimWrapperConstructor
from mixedae.engine.loops import ExactEpochLoop, ExactIterLoop
from mixedae.engine.meter_hook import PretrainMeterHook
from mixedae.engine.quarantine_hook import QuarantineHook
from mixedae.engine.runner import SafeRunner
from mixedae.engine.signals import StopHook

__all__ = [
    'ExactEpochLoop',
    'ExactIterLoop',
    'FiniteHook',
    'GuardedAmpOptimWrapper',
    'GuardedOptimWrapper',
    'LayerDecayOptimWrapperConstructor',
    'PretrainMeterHook',
    'QuarantineHook',
    'SafeCheckpointHook',
    'SafeRunner',
    'StopHook',
]
