"""Parts of the training loop: meters, layer-wise learning rates, the runner, checks before a run."""

from mixedae.engine.layer_decay import LayerDecayOptimWrapperConstructor
from mixedae.engine.meter_hook import PretrainMeterHook
from mixedae.engine.runner import SafeRunner

__all__ = ['LayerDecayOptimWrapperConstructor', 'PretrainMeterHook', 'SafeRunner']
