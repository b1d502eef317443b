"""Layer-wise learning-rate decay that asks the backbone for the depth of each parameter."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator

from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS, OPTIMIZERS
from torch import nn

from mixedae.registry import OPTIM_WRAPPER_CONSTRUCTORS

# tokens and positions, absolute and relative: decay would pull them towards "no position", as timm says of them
NO_DECAY = ('cls_token', 'pos_embed', 'relative_position_bias_table', 'rel_pos_h', 'rel_pos_w')
KNOWN_OPTIONS = ('layer_decay_rate', 'decay_rate', 'no_decay', 'no_decay_1d', 'custom_keys', 'num_layers', 'decay_type')


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor:
    """Learning rate of a parameter at depth k of n: ``lr * layer_decay_rate ** (n - 1 - k)``.

    The depth comes from ``get_layer_depth(param_name, prefix) -> (k, n)`` of whatever module of the model has that
    method (``mixedae.MixedAEViT``, mmpretrain's backbones, ...), under any attribute name; all other parameters (neck,
    heads) have the full rate. mmdet's and mmseg's own constructors know a fixed list of class names instead.

    No weight decay on parameters of one dimension (biases, norms, layer scale) and on those named in ``no_decay``:
    [CLS], absolute and relative positions.

    Options, in ``paramwise_cfg``::

        optim_wrapper = dict(
            constructor='mixedae.LayerDecayOptimWrapperConstructor',
            optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05),
            paramwise_cfg=dict(
                layer_decay_rate=0.75,  # 1.0: no decay (`decay_rate` is the same, as in mmseg)
                no_decay=('cls_token', 'pos_embed'),  # substrings of names, instead of NO_DECAY
                no_decay_1d=True,
                custom_keys={'decode_head': dict(lr_mult=10.0, decay_mult=1.0)},  # substrings, longest first
            ),
        )

    ``num_layers`` and ``decay_type`` of the mm constructors are accepted and not needed.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        optim_wrapper_cfg = dict(optim_wrapper_cfg)
        if 'optimizer' not in optim_wrapper_cfg:
            raise ValueError('optim_wrapper has no `optimizer`: give it e.g. optimizer=dict(type="AdamW", lr=1e-4).')
        options = dict(paramwise_cfg or {})
        unknown = sorted(set(options) - set(KNOWN_OPTIONS))
        if unknown:
            raise ValueError(
                f'Unknown option {unknown[0]} in paramwise_cfg: LayerDecayOptimWrapperConstructor knows '
                f'{", ".join(KNOWN_OPTIONS)}.'
            )
        self.optimizer_cfg = dict(optim_wrapper_cfg.pop('optimizer'))
        self.optim_wrapper_cfg = optim_wrapper_cfg
        self.rate = float(options.get('layer_decay_rate', options.get('decay_rate', 1.0)))
        if not 0 < self.rate <= 1:
            raise ValueError(f'layer_decay_rate must lie in (0, 1], not {self.rate}.')
        no_decay = options.get('no_decay', NO_DECAY)
        self.no_decay = (no_decay,) if isinstance(no_decay, str) else tuple(no_decay)
        self.no_decay_1d = bool(options.get('no_decay_1d', True))
        custom_keys = options.get('custom_keys') or {}
        self.custom_keys = {key: custom_keys[key] for key in sorted(custom_keys, key=len, reverse=True)}
        if 'lr' not in self.optimizer_cfg:
            raise ValueError('The optimizer has no `lr`; layer-wise decay scales it.')

    def __call__(self, model: nn.Module) -> OptimWrapper:
        model = getattr(model, 'module', model)
        groups = list(self.param_groups(model).values())
        print_log(layer_table(groups, self.rate), logger='current')
        optimizer_cls = self.optimizer_cfg['type']
        if isinstance(optimizer_cls, str):
            with OPTIMIZERS.switch_scope_and_registry(None) as registry:
                optimizer_cls = registry.get(optimizer_cls)
        first_argument = next(iter(inspect.signature(optimizer_cls).parameters))
        optimizer = OPTIMIZERS.build({**self.optimizer_cfg, first_argument: groups})
        return OPTIM_WRAPPERS.build(
            {'type': 'OptimWrapper', **self.optim_wrapper_cfg}, default_args=dict(optimizer=optimizer)
        )

    def param_groups(self, model: nn.Module) -> dict[tuple, dict]:
        """Parameters that train, in groups of the same depth, learning rate and weight decay.

        Returns:
            ``{(depth, lr scale, weight decay scale): group}`` in order of depth. A group has ``params``,
            ``param_names``, ``lr``, ``weight_decay`` and, to look at, ``depth``, ``num_depths`` and ``lr_scale``.
        """
        depth_askers = list(find_depth_askers(model))
        if not depth_askers:
            raise ValueError(
                'No part of the model can tell the depth of its layers (a method get_layer_depth), so layer-wise decay '
                'has nothing to scale: use the backbone mixedae.MixedAEViT, or another optimizer constructor.'
            )
        lr, weight_decay = self.optimizer_cfg['lr'], self.optimizer_cfg.get('weight_decay', 0.0)
        groups: dict[tuple, dict] = {}
        for name, param in model.named_parameters():
            if not param.requires_grad:
                continue
            depth, num_depths = _depth_of(name, depth_askers)
            lr_scale = self.rate ** (num_depths - 1 - depth)
            flat = self.no_decay_1d and param.ndim <= 1
            decay_scale = 0.0 if flat or any(key in name for key in self.no_decay) else 1.0
            custom = next((mult for key, mult in self.custom_keys.items() if key in name), {})
            lr_scale *= custom.get('lr_mult', 1.0)
            decay_scale *= custom.get('decay_mult', 1.0)
            key = (depth, lr_scale, decay_scale)
            group = groups.setdefault(
                key,
                dict(
                    params=[],
                    param_names=[],
                    lr=lr * lr_scale,
                    weight_decay=weight_decay * decay_scale,
                    depth=depth,
                    num_depths=num_depths,
                    lr_scale=lr_scale,
                ),
            )
            group['params'].append(param)
            group['param_names'].append(name)
        return dict(sorted(groups.items()))


def find_depth_askers(model: nn.Module) -> Iterator[tuple[str, Callable[[str, str], tuple[int, int]]]]:
    """``(prefix with dot, get_layer_depth)`` of the outermost modules that have the method."""
    found: list[str] = []
    for name, module in model.named_modules():
        inside = any(name.startswith(prefix) for prefix in found)
        if not inside and callable(getattr(module, 'get_layer_depth', None)):
            prefix = f'{name}.' if name else ''
            found.append(prefix)
            yield prefix, module.get_layer_depth


def _depth_of(name: str, depth_askers: list) -> tuple[int, int]:
    """Depth by the module that holds the parameter; what none holds comes last."""
    for prefix, get_layer_depth in depth_askers:
        if name.startswith(prefix):
            return get_layer_depth(name, prefix)
    prefix, get_layer_depth = depth_askers[0]
    return get_layer_depth(name, prefix)


def layer_table(groups: list[dict], rate: float) -> str:
    """The table that is printed once: one line for each parameter group."""
    header = f'{"depth":>5} {"lr scale":>9} {"lr":>10} {"weight decay":>12} {"values":>11}  parameters'
    lines = [f'Layer-wise learning rates, decay {rate} a layer:', header]
    for group in groups:
        values = sum(param.numel() for param in group['params'])
        names, more = group['param_names'][0], len(group['params']) - 1
        lines.append(
            f'{group["depth"]:>5} {group["lr_scale"]:>9.4f} {group["lr"]:>10.3g} {group["weight_decay"]:>12.3g} '
            f'{values:>11,}  {names}' + (f' and {more} more' if more else '')
        )
    return '\n'.join(lines)
