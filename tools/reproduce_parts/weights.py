"""Checkpoints of the experiments: weights of a finished pre-training alone, or random ones of a seed.

python -m tools.reproduce_parts.weights keep iter_1500.pth weights.pth
python -m tools.reproduce_parts.weights draw config.py weights.pth --seed 0
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def keep(source: Path, target: Path) -> None:
    """Write the weights of a training checkpoint without the optimiser's state: a third of the size."""
    from mixedae.checkpoints import read_checkpoint

    _write(read_checkpoint(source), target)


def draw(config: Path, target: Path, seed: int) -> None:
    """Write the random weights that the model of a config starts from under a seed."""
    import torch

    import mixedae  # noqa: F401  (registers the models)
    from mixedae.engine.configs import read_config
    from mixedae.registry import MODELS

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MODELS.build(read_config(str(config)).model)
        model.init_weights()
    _write(model.state_dict(), target)


def _write(weights: dict, target: Path) -> None:
    import torch

    part = target.with_name(target.name + '.part')
    target.parent.mkdir(parents=True, exist_ok=True)
    torch.save({'state_dict': dict(weights), 'meta': {}}, part)
    part.replace(target)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('action', choices=('keep', 'draw'))
    parser.add_argument('source', type=Path, help='training checkpoint, or config')
    parser.add_argument('target', type=Path, help='file to write')
    parser.add_argument('--seed', type=int, default=0, help='of random weights')
    args = parser.parse_args(arguments)
    if args.action == 'keep':
        keep(args.source, args.target)
    else:
        draw(args.source, args.target, args.seed)
    return 0


if __name__ == '__main__':
    sys.exit(main())
