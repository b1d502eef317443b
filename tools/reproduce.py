"""A reduced-scale reproduction: MixedAE, its parts and its baselines, pre-trained at equal compute and compared.

    python tools/reproduce.py DATA_DIR                        three seeds, on a CPU: hours
    python tools/reproduce.py DATA_DIR --budget gpu           longer runs and all evaluations, on one large GPU
    python tools/reproduce.py DATA_DIR --summarise            only read the finished runs again

Stages run seed by seed, two at a time with `--jobs 2`. The same command goes on where an earlier one was stopped:
finished stages are skipped, an interrupted training resumes. Results so far: WORK_DIR/results.json and
WORK_DIR/results.md. docs/results.md says what is measured and how claims are decided.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import subprocess
import sys
import time
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # so that a checkout works without being installed
    sys.path.insert(0, str(ROOT))

os.environ.setdefault('OMP_WAIT_POLICY', 'passive')  # as in tools/train.py: threads that wait do not spin

from tools.demo_parts.layout import DataError
from tools.reproduce_parts.budgets import BUDGETS, TASKS
from tools.reproduce_parts.variants import ON_REQUEST, ORDER
from tools.stage_parts.commands import clock


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data', help='folder with det/, pretrain/, cls/, seg/ and seg_camvid/')
    parser.add_argument('--work-dir', default='', help='folder of all results (default: work_dirs/reproduce)')
    parser.add_argument('--budget', choices=tuple(BUDGETS), default='cpu', help='sizes and lengths (default: cpu)')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], help='default: 0 1 2')
    usual = [name for name in ORDER if name not in ON_REQUEST]
    parser.add_argument(
        '--variants', nargs='+', choices=ORDER, default=usual, help=f'default: all but {", ".join(ON_REQUEST)}'
    )
    parser.add_argument('--tasks', nargs='*', choices=TASKS, help="evaluations (default: the budget's)")
    parser.add_argument('--jobs', type=int, default=1, help='stages at a time, each on its threads (default: 1)')
    parser.add_argument('--threads', type=int, help='threads of a stage (default: 1 with --jobs, else all cores)')
    parser.add_argument('--cache-gib', type=float, default=1.0, help='memory for decoded scenes; changes no result')
    parser.add_argument('--summarise', action='store_true', help='run nothing: collect what is finished')
    parser.add_argument(
        '--publish', metavar='DIR', help='also put the results into results.md of this folder, beside those that it has'
    )
    args = parser.parse_args(arguments)
    if args.tasks is None:
        args.tasks = list(BUDGETS[args.budget].tasks)
    if args.threads is None:
        from object_aware.parallel import usable_cores

        args.threads = 1 if args.jobs > 1 else usable_cores()
    args.work_dir = Path(args.work_dir or ROOT / 'work_dirs' / 'reproduce').resolve()
    return args


def main(arguments: list[str] | None = None) -> int:
    args = parse_args(arguments)
    try:
        if args.jobs < 1 or args.threads < 1 or min(args.seeds) < 0:
            raise DataError('--jobs and --threads must be at least 1 and --seeds at least 0')
        if args.publish and not (Path(args.publish) / 'results.md').is_file():
            raise DataError(f'--publish {args.publish} has no results.md to put the results into')
        return run(args)
    except (DataError, OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('\nStopped. The same command goes on from here.', file=sys.stderr)
        return 130


def run(args: argparse.Namespace) -> int:
    """Plan, run, summarise."""
    from tools.reproduce_parts.data import find_data
    from tools.reproduce_parts.plan import Plan
    from tools.reproduce_parts.results import collect, publish, summarise
    from tools.reproduce_parts.running import Journey

    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    args.work_dir.mkdir(parents=True, exist_ok=True)
    plan = Plan(
        ROOT, args.work_dir, find_data(args.data), BUDGETS[args.budget], tuple(args.seeds),
        tuple(v for v in ORDER if v in args.variants), tuple(t for t in TASKS if t in args.tasks), args.cache_gib,
    )  # fmt: skip
    stages = plan.stages()
    places = {str(args.work_dir): 'WORK', str(plan.data.root): 'DATA', str(ROOT): 'ROOT'}
    journey = Journey(
        stages, args.work_dir, ROOT, args.jobs, args.threads, facts, places,
        changed=lambda: summarise(plan, journey, args.budget),
    )  # fmt: skip
    if args.summarise:
        print(f'wrote {summarise(plan, journey, args.budget)}')
        if args.publish:
            print(f'wrote {publish(collect(plan, journey, args.budget), Path(args.publish))}')
        return 0
    with (args.work_dir / 'lock').open('w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f'{args.work_dir} is in use by another run of this tool: wait, or take another') from None
        journey.shared = (lock.fileno(),)  # a child that outlives a killed parent keeps the folder in use
        start = time.monotonic()
        complete = journey.run()
        if args.publish:
            publish(collect(plan, journey, args.budget), Path(args.publish))
        print(f'wrote {summarise(plan, journey, args.budget)} after {clock(time.monotonic() - start)}', flush=True)
    for name, error in journey.failed.items():
        print(f'error: stage {name} {error}', file=sys.stderr)
    return 0 if complete else 1


def facts() -> dict:
    """Machine, versions and present commit, for the stamps."""
    return {**machine(), 'commit': commit()}


@lru_cache(maxsize=1)
def machine() -> dict:
    """Device and versions."""
    from tools.stage_parts.facts import hardware, versions

    return {'hardware': hardware(amp=False)['device'], 'versions': versions()}


def commit() -> str:
    """The checkout's commit, '+' if tracked files differ from it; empty outside Git."""
    try:
        head = subprocess.run(['git', 'rev-parse', 'HEAD'], cwd=ROOT, capture_output=True, text=True, check=True)
        state = subprocess.run(
            ['git', 'status', '--porcelain', '-uno'], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ''
    return head.stdout.strip() + ('+' if state.stdout.strip() else '')


if __name__ == '__main__':
    sys.exit(main())
