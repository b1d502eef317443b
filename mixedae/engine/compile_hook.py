"""``torch.compile`` for the Transformer blocks."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mixedae.layers import Block
from mixedae.registry import HOOKS


@HOOKS.register_module()
class CompileHook(Hook):
    """Compiles every block of encoder, decoder or backbone, in place, before training begins.

    Blocks of one shape share what is compiled, so that a deep model takes no longer to compile than a shallow one.
    Names of weights, checkpoints and what else calls the model stay as they are. MMEngine's ``compile = True`` compiles
    the whole of ``train_step`` with the optimiser wrapper and its looks at the numbers; leave that off.

    Args:
        options: arguments of ``torch.compile``, ``mode='max-autotune-no-cudagraphs'`` for instance.

    Raises:
        ValueError: the model has no block of ours.
    """

    def __init__(self, **options: Any) -> None:
        self.options = options

    def before_train(self, runner: Runner) -> None:
        blocks = [module for module in runner.model.modules() if isinstance(module, Block)]
        if not blocks:
            raise ValueError('CompileHook found no Transformer block (mixedae.layers.Block) in the model: take it out.')
        for block in blocks:
            block.compile(**self.options)
        runner.logger.info(f'{len(blocks)} blocks are compiled in the first iterations, which take longer.')
