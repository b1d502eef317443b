"""Fully sharded training: every process keeps a part of the weights, gradients and optimiser state (FSDP2)."""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.distributed as dist
from mmengine.device import get_device
from mmengine.dist import get_world_size
from mmengine.utils import apply_to
from torch import Tensor, nn

from mixedae.layers import Block
from mixedae.registry import MODEL_WRAPPERS

try:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor, distribute_tensor
except ImportError:  # PyTorch before 2.6
    fully_shard = DTensor = None


@MODEL_WRAPPERS.register_module()
class FullySharded(nn.Module):
    """``model_wrapper_cfg = dict(type='mixedae.FullySharded')``: PyTorch's ``fully_shard`` on every Transformer block.

    A block's weights are gathered when it computes and let go afterwards. Checkpoints are whole and the same files as
    without sharding, so a run can go on with another number of processes or with DistributedDataParallel. With
    ``accumulative_counts`` gradients are summed over the processes in every part of a step. Weights cannot be looked at
    from outside of the model's forward: EMA, and hooks that call parts of the model themselves, do not work.

    Args:
        module: the model; its weights are initialised here, and are those of the first process.
        reshard_after_forward: let a block's weights go after its forward, too, and gather them again for its backward:
            less memory, more communication.

    Raises:
        RuntimeError: PyTorch is older than 2.6, or the model has no block of ours.
    """

    def __init__(self, module: nn.Module, reshard_after_forward: bool = True) -> None:
        super().__init__()
        if fully_shard is None:
            raise RuntimeError(
                f'mixedae.FullySharded needs PyTorch 2.6 or newer, here is {torch.__version__}: take '
                "model_wrapper_cfg = dict(type='mmengine.MMDistributedDataParallel')."
            )
        self._blocks = [child for child in module.modules() if isinstance(child, Block)]
        if not self._blocks:
            raise RuntimeError('mixedae.FullySharded found no Transformer block (mixedae.layers.Block) in the model.')
        if hasattr(module, 'init_weights'):
            module.init_weights()
        for tensor in itertools.chain(module.parameters(), module.buffers()):
            dist.broadcast(tensor.data, 0)
        mesh = init_device_mesh(get_device(), (get_world_size(),))
        for block in self._blocks:
            fully_shard(block, mesh=mesh, reshard_after_forward=reshard_after_forward)
        fully_shard(module, mesh=mesh, reshard_after_forward=False)  # what is left is used from the first to the last
        module.register_forward_pre_hook(self._gather_to_measure)
        self.module = module

    def _gather_to_measure(self, module: nn.Module, args: tuple) -> None:
        """The meter hook looks into blocks before they compute."""
        if getattr(module, 'measure', False):
            for block in self._blocks:
                block.unshard()

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        """MMEngine's."""
        return self.module.train_step(data, optim_wrapper)

    def val_step(self, data: Any) -> list:
        """MMEngine's."""
        return self.module.val_step(data)

    def test_step(self, data: Any) -> list:
        """MMEngine's."""
        return self.module.test_step(data)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's."""
        return self.module(*args, **kwargs)


def is_sharded(model: nn.Module) -> bool:
    """Do all processes have to take part in reading its weights?"""
    return isinstance(model, FullySharded)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor of which each process may hold a part; then all of them must call it."""
    return tensor.full_tensor() if DTensor is not None and isinstance(tensor, DTensor) else tensor


def give_parts(values: Any) -> None:
    """Takes part while another process makes these tensors whole."""
    apply_to(values, lambda value: isinstance(value, Tensor), lambda tensor: whole(tensor).flatten()[:0])


def part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, as a view."""
    return tensor.to_local() if DTensor is not None and isinstance(tensor, DTensor) else tensor


def split_like(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor on the device of another, and in parts if that is. All processes must call it."""
    if DTensor is None or not isinstance(like, DTensor):
        return value.to(like.device)
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def split_weights(weights: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Weights of a checkpoint as the model holds them; what does not fit is left for the loading to complain of."""
    held = model.state_dict()
    return {
        name: split_like(value, held[name]) if name in held and held[name].shape == value.shape else value
        for name, value in weights.items()
    }


def split_optimizer(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """State of an optimiser from a checkpoint as the optimiser holds it."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group['params']]

    def fit(value: Any, parameter: Tensor) -> Any:
        same = isinstance(value, Tensor) and value.shape == parameter.shape
        return split_like(value, parameter) if same else value

    entries = {
        number: {key: fit(value, parameters[number]) for key, value in entry.items()}
        for number, entry in state['state'].items()
    }
    return dict(state, state=entries)
