#!/usr/bin/env python
"""Operations and memory of pre-training configs, for one source image, beside MAE with the same encoder and decoder.

    python tools/get_flops.py mmcfg/pretrain/mixedae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py
    python tools/get_flops.py mmcfg/pretrain/*.py --kept

Counts multiply-adds of the forward pass from the shapes (TopK, mixing and both modes are known); ``--kept`` runs one
group in float32 and measures what forward keeps for backward.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # so that a checkout works without being installed
    sys.path.insert(0, str(ROOT))

PARTS = ('embed', 'encoder', 'contrastive', 'decoder_embed', 'decoder', 'predict')


def models(path: str, options: dict | None) -> tuple[Any, Any]:
    """The model of a config, and MAE with its encoder and decoder.

    Raises:
        ValueError: the config is not one of MixedAE or MAE.
    """
    import mixedae  # noqa: F401  (registers the models)
    from mixedae.engine.configs import read_config
    from mixedae.registry import MODELS

    cfg = read_config(path, options)
    kind = str(cfg.model.get('type')).removeprefix('mixedae.')
    if kind not in ('MixedAE', 'MAE'):
        raise ValueError(
            f'{path} is no pre-training config: its model is {cfg.model.get("type")}, not mixedae.MixedAE.'
        )
    model = MODELS.build(cfg.model)
    own = ('topk_ratio', 'cls', 'global_layers', 'backend')
    encoder = {key: value for key, value in cfg.model.encoder.items() if key not in own}
    return model, MODELS.build(dict(type='mixedae.MAE', encoder=encoder, decoder=cfg.model.get('decoder')))


def kept_bytes(model: Any) -> float:
    """Bytes that forward keeps for backward, for one source image, in float32, measured on one group."""
    import torch

    from tools.benchmark_parts.torch_timing import kept_for_backward

    group = getattr(model, 'group_size', 4)
    height, width = model.encoder.img_size
    images = torch.randn(group, model.encoder.in_channels, height, width, generator=torch.Generator().manual_seed(0))
    return kept_for_backward(lambda: model.train().loss(images)) / group


def report(path: str, options: dict | None, kept: bool) -> list[str]:
    """The rows of one config."""
    from mixedae.analysis import count_operations

    model, mae = models(path, options)
    ours, base = count_operations(model), count_operations(mae)
    lines = [Path(path).stem]
    for part in (*PARTS, 'total'):
        value, other = getattr(ours, part), getattr(base, part)
        ratio = f'{value / other:8.3f}' if other else '       -'
        lines.append(f'  {part:<14}{value / 1e9:10.3f} GMAC{ratio} x MAE')
    lines.append(f'  {"comparisons":<14}{ours.comparisons / 1e9:10.3f} G (selecting the K best keys)')
    lines.append(f'  {"parameters":<14}{ours.parameters / 1e6:10.2f} M, {ours.state_bytes / 2**30:.2f} GiB with AdamW')
    if kept:
        value, other = kept_bytes(model), kept_bytes(mae)
        lines.append(f'  {"kept":<14}{value / 2**20:10.1f} MiB {value / other:7.3f} x MAE (float32, for backward)')
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', nargs='+', help='pre-training configs')
    parser.add_argument('--kept', action='store_true', help='also run one group and measure what is kept for backward')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='override entries of the configs'
    )
    args = parser.parse_args(arguments)
    try:
        for path in args.config:
            print('\n'.join(report(path, args.cfg_options, args.kept)), flush=True)
    except (ValueError, OSError, ImportError, TypeError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
