"""Arguments of a run, the config that they give, and threads that sleep while they wait."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmengine.config import Config


def let_threads_sleep() -> None:
    """Lets threads of torch's CPU operations sleep instead of spin while they wait; to be called before torch comes.

    On two idle cores that costs a little (a pre-training step of the demo: 0.44 s, spinning 0.39 s); beside other work
    it saves a multiple (1.9 s, spinning 7.5 s). OMP_WAIT_POLICY=active in the environment brings spinning back.
    """
    os.environ.setdefault('OMP_WAIT_POLICY', 'passive')


def add_arguments(parser: argparse.ArgumentParser, folder: str, example: str = '') -> None:
    """``--work-dir``, ``--cfg-options`` and what job launchers give; the config itself is the script's.

    Args:
        parser: is added to.
        folder: what is written into the work dir.
        example: of ``--cfg-options``.
    """
    from mmengine.config import DictAction

    parser.add_argument('--work-dir', help=f'folder of {folder} (default: work_dirs/<name of the config>)')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override entries of the config' + example,
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; a launcher that says the local rank as one of them sets it for MMEngine."""
    args = parser.parse_args(arguments)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def begin_config(args: argparse.Namespace) -> Config:
    """The config file with ``--cfg-options``, ``--launcher`` and the work dir in it."""
    from mixedae.engine.configs import read_config

    cfg = read_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or os.path.join('work_dirs', Path(args.config).stem)
    return cfg
