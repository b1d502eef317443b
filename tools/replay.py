"""Does a captured training step again and says where the first number that is not finite appears.

    python tools/replay.py work_dirs/RUN/captures/step_1200_rank_0.pth [--config CONFIG] [--device cuda]

A run writes such a file when too many steps in a row were not finite (see docs/reliability.md). The step is done with
the weights, the batch and the random state that it had, forward and backward, and every module's input and output and
every gradient are looked at. The last line sums up; exit code 1 means that a number was not finite, 0 that all were.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
if str(REPO) not in sys.path:  # so that a checkout works without being installed
    sys.path.insert(0, str(REPO))

os.environ.setdefault('OMP_WAIT_POLICY', 'passive')


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Do a captured training step again.')
    parser.add_argument('capture', help='file that the run wrote into its folder captures/')
    parser.add_argument('--config', help="the run's config (default: the one in the run's folder)")
    parser.add_argument('--device', default='cpu', help='cpu (default) or cuda')
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    args = parse_args(arguments)
    try:
        from mixedae.engine.replay import replay
    except ImportError as error:
        print(f'error: {error}: run `make env` to set the environment up, then .venv/bin/python', file=sys.stderr)
        return 2
    try:
        report = replay(args.capture, args.config, args.device)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    print(report)
    return 0 if report.finite else 1


if __name__ == '__main__':
    sys.exit(main())
