"""A contender of the pre-training benchmarks: a model, its optimiser, one step, and what it kept and computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from tools.analysis.step_memory import peak_bytes

from . import floor, mmpretrain_mae
from .common import Timing
from .finetune import memory_of
from .torch_timing import kept_for_backward, slowdown

OURS = 'MAE'
THEIRS = "mmpretrain's MAE"


@dataclass(frozen=True)
class Sizes:
    """What is trained.

    Attributes:
        arch: tiny, small, base, large or huge.
        size: side of the images in pixels.
        batch: source images of a step.
        decoder: width, depth and heads.
    """

    arch: str
    size: int
    batch: int
    decoder: tuple[int, int, int]


class Contender:
    """A model in training mode, its AdamW and the random images of its steps.

    Args:
        name: ``OURS``, ``THEIRS`` or a title for MixedAE.
        options: arguments of the model beside its sizes; those under ``encoder`` go there.
        sizes: see :class:`Sizes`.
        device: a torch.device.
        dtype: of the products; autocast where it is not float32.
        compiled: compile our Transformer blocks, as :class:`mixedae.engine.CompileHook` does, in this mode of
            ``torch.compile``; None: not.

    Raises:
        ImportError: mmpretrain cannot be imported.
        ValueError: the model refuses the arguments.
    """

    def __init__(
        self, name: str, options: dict[str, Any], sizes: Sizes, device: Any, dtype: Any, compiled: str | None = None
    ) -> None:
        import torch
        from mmengine.logging import MMLogger
        from mmengine.utils import digit_version

        from mixedae.engine import CompileHook

        self.sizes, self.device, self.dtype = sizes, device, dtype
        torch.manual_seed(0)
        self.model = build(name, options, sizes).to(device).train()
        if compiled is not None and name != THEIRS:
            hook = CompileHook(mode=compiled)
            hook.before_train(SimpleNamespace(model=self.model, logger=MMLogger.get_current_instance()))
        learned = [p for p in self.model.parameters() if p.requires_grad]
        fused = device.type == 'cuda' or digit_version(torch.__version__) >= digit_version('2.4')  # as in mmcfg
        self.optimizer = torch.optim.AdamW(learned, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05, fused=fused)
        shape = (sizes.batch, 3, sizes.size, sizes.size)
        self.images = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)

    def loss(self) -> Any:
        """The sum of the model's losses."""
        import torch

        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            losses = self.model(self.images, mode='loss')
        return sum(value for name, value in losses.items() if name.startswith('loss'))

    def __call__(self) -> None:
        """One training step."""
        self.loss().backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def memory(self) -> dict[str, int]:
        """Bytes that forward keeps for backward, and the peak of a step with weights and the optimiser's moments."""
        kept = kept_for_backward(self.loss)
        if self.device.type == 'cuda':
            return dict(kept_bytes=kept, peak_bytes=memory_of(self.model, self, self.loss, self.device))
        self()  # the moments exist from here on
        lasting = [*self.model.parameters(), *self.model.buffers()]
        lasting += [value for state in self.optimizer.state.values() for value in state.values()]
        return dict(kept_bytes=kept, peak_bytes=peak_bytes(self) + sum(tensor.nbytes for tensor in lasting))

    def operations(self) -> float | None:
        """Multiply-adds of a step, forward and backward; None where they are not counted (mmpretrain's model)."""
        from mixedae.analysis import count_operations
        from mixedae.models.pretrainer import Pretrainer

        if not isinstance(self.model, Pretrainer):
            return None
        return self.sizes.batch * count_operations(self.model).training


def build(name: str, options: dict[str, Any], sizes: Sizes) -> Any:
    """The model of a contender."""
    if name == THEIRS:
        return mmpretrain_mae.build(sizes.arch, sizes.size, sizes.decoder)
    from mixedae.models import MAE, MixedAE

    width, depth, heads = sizes.decoder
    encoder = dict(arch=sizes.arch, img_size=sizes.size, **options.get('encoder', {}))
    decoder = dict(embed_dim=width, depth=depth, num_heads=heads)
    rest = {key: value for key, value in options.items() if key != 'encoder'}
    return (MAE if name == OURS else MixedAE)(encoder=encoder, decoder=decoder, **rest)


def figures(
    contenders: Mapping[str, Contender], times: Mapping[str, Timing], product: floor.Product
) -> dict[str, dict[str, Any]]:
    """For each contender: seconds and images/s, ratios of time and memory to ``OURS`` and ``THEIRS``, and the floor.

    Args:
        contenders: with ``OURS`` among them.
        times: of the contenders and, under ``floor.NAME``, of the product.
        product: see :mod:`tools.benchmark_parts.floor`.
    """
    memory = {name: contender.memory() for name, contender in contenders.items()}
    found = {}
    for name, contender in contenders.items():
        seconds = floor.middle(times[name])
        figure = dict(seconds=seconds, images_per_second=contender.sizes.batch / seconds, **memory[name])
        figure['ratio'] = {base: slowdown(times[name], times[base]) for base in (OURS, THEIRS) if base in contenders}
        for key, value in memory[name].items():
            figure[key.replace('bytes', 'ratio')] = value / memory[OURS][key]
        operations = contender.operations()
        if operations is not None:
            figure['multiply_adds'] = operations
            figure['floor_seconds'] = operations / product.rate(times[floor.NAME])
            figure['over_floor'] = product.over_floor(times[name], times[floor.NAME], operations)
        found[name] = figure
    return found


def describe(sizes: Sizes, device: Any, dtype: Any) -> str:
    """Sizes, precision and device, for the title of a table."""
    import torch

    width, depth, heads = sizes.decoder
    return (
        f'ViT {sizes.arch}/16, {sizes.size} px, {sizes.batch} images, decoder {depth}x{width} ({heads} heads), '
        f'{str(dtype).removeprefix("torch.")}, {device}, {torch.get_num_threads()} threads'
    )
