"""Parts of the training loop: meters, layer-wise learning rates, the runner and what keeps a run alive, checks."""

from mixedae.engine.checkpoint_hook import SafeCheckpointHook
from mixedae.engine.compile_hook import CompileHook
from mixedae.engine.finite import FiniteHook, GuardedAmpOptimWrapper, GuardedOptimWrapper
from mixedae.engine.layer_decay import LayerDecayOptimWrapperConstructor
from mixedae.engine.loops import ExactEpochLoop, ExactIterLoop
from mixedae.engine.meter_hook import PretrainMeterHook
from mixedae.engine.picture_hook import PictureHook
from mixedae.engine.probe_hook import ProbeHook
from mixedae.engine.quarantine_hook import QuarantineHook
from mixedae.engine.runner import SafeRunner
from mixedae.engine.sharding import FullySharded
from mixedae.engine.signals import StopHook
from mixedae.engine.throughput_hook import ThroughputHook

__all__ = [
    'CompileHook',
    'ExactEpochLoop',
    'ExactIterLoop',
    'FiniteHook',
    'FullySharded',
    'GuardedAmpOptimWrapper',
    'GuardedOptimWrapper',
    'LayerDecayOptimWrapperConstructor',
    'PictureHook',
    'PretrainMeterHook',
    'ProbeHook',
    'QuarantineHook',
    'SafeCheckpointHook',
    'SafeRunner',
    'StopHook',
    'ThroughputHook',
]
