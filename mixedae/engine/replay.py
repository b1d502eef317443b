"""Doing a captured training step again, with an eye on every number."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from torch import Tensor, nn

from mixedae.checkpoints import CheckpointError, read_file
from mixedae.engine.batches import load_again
from mixedae.engine.capture import KIND
from mixedae.engine.configs import read_config, walk
from mixedae.engine.random_state import set_random_state


@dataclass
class ReplayReport:
    """What a step did the second time.

    Attributes:
        source: the capture.
        losses: the losses now.
        first_losses: the losses then.
        weights: names of weights and buffers that are not finite before the step.
        batch: entries of the batch that are not finite.
        forward: modules with finite input and other output, in the order of their calls.
        backward: modules whose output has a gradient that is not finite, in the order of the backward pass.
        gradients: parameters whose gradient is not finite.
    """

    source: str
    losses: dict[str, float] = field(default_factory=dict)
    first_losses: dict[str, float] = field(default_factory=dict)
    weights: list[str] = field(default_factory=list)
    batch: list[str] = field(default_factory=list)
    forward: list[str] = field(default_factory=list)
    backward: list[str] = field(default_factory=list)
    gradients: list[str] = field(default_factory=list)

    @property
    def finite(self) -> bool:
        """Was every number finite?"""
        losses = all(torch.tensor(value).isfinite() for value in self.losses.values())
        return losses and not (self.weights or self.batch or self.forward or self.backward or self.gradients)

    def verdict(self) -> str:
        """Where the first number that is not finite appears, in one sentence."""
        for found, where in (
            (self.weights, 'in the weights before the step: {}.'),
            (self.batch, 'in the batch: {}.'),
            (self.forward, 'in the forward pass, in the output of {}; its input is finite.'),
        ):
            if found:
                return 'First number that is not finite: ' + where.format(found[0])
        if not all(torch.tensor(value).isfinite() for value in self.losses.values()):
            return 'First number that is not finite: the loss itself; every module before it is finite.'
        if self.backward or self.gradients:
            where = f'at the output of {self.backward[0]}' if self.backward else f'of {self.gradients[0]}'
            return f'First number that is not finite: in the backward pass, the gradient {where}; the loss is finite.'
        return 'Every number is finite this time.'

    def __str__(self) -> str:
        lines = [self.source]
        for name, value in self.losses.items():
            then = self.first_losses.get(name)
            lines.append(f'  {name}: {value:.6g}' + ('' if then is None else f' (then {then:.6g})'))
        for title, names in (
            ('weights', self.weights),
            ('batch', self.batch),
            ('forward', self.forward),
            ('backward', self.backward),
            ('gradients', self.gradients),
        ):
            if names:
                more = f' and {len(names) - 5} more' if len(names) > 5 else ''
                lines.append(f'  not finite, {title}: {", ".join(names[:5])}{more}')
        return '\n'.join([*lines, self.verdict()])


def replay(capture: str | Path, config: str | None = None, device: str = 'cpu') -> ReplayReport:
    """Does the step of a capture again.

    Args:
        capture: file of :func:`mixedae.engine.capture.write_capture`; read without running code from it.
        config: the run's config; None takes the one that the run wrote into its folder.
        device: where to compute. On the CPU everything is float32; on a GPU mixed precision is used if the run did.

    Raises:
        CheckpointError: it is no capture, or does not fit the config.
        FileNotFoundError: the config is gone.
        ValueError: the batch can neither be read from the file nor be loaded again.
    """
    content = read_file(capture)
    if content.get('kind') != KIND:
        raise CheckpointError(f'{capture} is no captured step: give a file of the folder captures/ of a run.')
    if config is None:
        named = content.get('config')
        beside = Path(capture).resolve().parent.parent / Path(named or '').name  # also where the run's folder moved
        config = str(beside) if named and beside.is_file() else named
    if not config:
        raise ValueError(f'{capture} does not know its config: give it with --config.')
    cfg = read_config(config)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        return _replay(content, cfg, str(capture), device)


def _replay(content: dict, cfg: Config, source: str, device: str) -> ReplayReport:
    from mmengine.registry import MODELS

    model_cfg = cfg.model.copy()
    for node in walk(model_cfg):
        node.pop('init_cfg', None)
    model = MODELS.build(model_cfg)
    try:
        model.load_state_dict(content['state_dict'], strict=True)
    except RuntimeError as error:
        raise CheckpointError(
            f'{source} does not fit the model of its config ({str(error).splitlines()[0]}).'
        ) from None
    model.to(device).train()
    if hasattr(model, 'step'):
        model.seed, model.step, model.rank = content['seed'], content['iter'], content['rank']
    batch = content['batch'] if content['batch'] is not None else _load_again(content, cfg, source)
    report = ReplayReport(source, first_losses=content['losses'])
    report.weights = [name for name, value in model.state_dict().items() if not _finite(value)]
    report.batch = [name for name, value in _tensors(batch, 'batch') if not _finite(value)]
    wrapper = cfg.get('optim_wrapper') or {}
    set_random_state(content['random'])
    amp = 'Amp' in str(wrapper.get('type')) and device != 'cpu'
    dtype = getattr(torch, str(wrapper.get('dtype') or 'float16'))
    with torch.autocast(device, dtype) if amp else contextlib.nullcontext(), _watched(model, report):
        data = model.data_preprocessor(batch, True)
        losses = model._run_forward(data, mode='loss')
        loss, values = model.parse_losses(losses)
        report.losses = {name: value.item() for name, value in values.items()}
        loss.backward()
    report.gradients = [name for name, p in model.named_parameters() if p.grad is not None and not _finite(p.grad)]
    return report


def _load_again(content: dict, cfg: Config, source: str) -> Any:
    """The batch of a capture from its place in the data."""
    if content['place'] is None:
        raise ValueError(f'{source} holds no batch, and does not say where in the data it was.')
    loader = cfg.train_dataloader.copy()
    loader.num_workers = 0
    for key in ('persistent_workers', 'prefetch_factor'):
        loader.pop(key, None)
    return load_again(
        Runner.build_dataloader(loader, seed=content['seed']), content['seed'], content['rank'], **content['place']
    )


@contextlib.contextmanager
def _watched(model: nn.Module, report: ReplayReport) -> Iterator[None]:
    """Looks at what goes in and out of every module, forward and backward."""

    def backward(name: str):
        def look(gradient: Tensor) -> None:  # what a hook of a tensor returns would take the gradient's place
            if not _finite(gradient):
                report.backward.append(name)

        return look

    def forward(name: str):
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            outputs = list(_tensors(output, name))
            if all(_finite(value) for _, value in _tensors(inputs, name)):
                report.forward += [path for path, value in outputs if not _finite(value)]
            for _, value in outputs:
                if value.requires_grad:
                    value.register_hook(backward(name))

        return look

    handles = [
        module.register_forward_hook(forward(name))
        for name, module in model.named_modules()
        if name and not name.startswith('data_preprocessor')
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(value.isfinite().all())


def _tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from _tensors(entry, f'{name}.{key}')
    elif isinstance(value, (list, tuple)):
        for k, entry in enumerate(value):
            yield from _tensors(entry, f'{name}[{k}]' if len(value) > 1 else name)
