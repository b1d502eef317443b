"""Pre-train, or train a detector or segmentor: one script for every config in mmcfg/.

    python tools/train.py CONFIG [--work-dir DIR] [--resume [FILE] | --overwrite] [--seed N] [--amp]
        [--cfg-options KEY=VALUE ...]

Looks at config, data, checkpoints, disk and memory first and stops with one sentence (exit code 2) if something is
wrong with them. Exit code 75: stopped by SIGTERM or SIGUSR1, a checkpoint is saved, `--resume` goes on from it. Exit
code 3: the run had to stop (a loader or another process died, numbers are not finite, the disk is full); one sentence
says why.
"""

from __future__ import annotations

import argparse
import inspect
import os
import sys
from pathlib import Path

TOOLS = Path(__file__).resolve().parent
if str(TOOLS.parent) not in sys.path:  # so that a checkout works without being installed
    sys.path.insert(0, str(TOOLS.parent))
if str(TOOLS) not in sys.path:  # for `run_parts`, which the wheel has under another parent
    sys.path.append(str(TOOLS))

from run_parts import common

common.let_threads_sleep()

RESTARTS = ('TORCHELASTIC_RESTART_COUNT', 'SLURM_RESTART_COUNT')  # how often torchrun, Slurm started this again


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Pre-train, or train a detector or segmentor.')
    parser.add_argument('config', help='config file, e.g. of mmcfg/')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='FILE',
        help='go on from this checkpoint; without FILE from the newest valid one in the work dir',
    )
    parser.add_argument(
        '--overwrite',
        action='store_true',
        help='start anew in a work dir that holds a run: its checkpoints are removed once all checks have passed',
    )
    parser.add_argument(
        '--trust-checkpoint',
        action='append',
        default=[],
        metavar='FILE',
        help='read this checkpoint even if it runs code: do that only with files of people whom you would let in',
    )
    parser.add_argument('--seed', type=int, help='random seed of the run')
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision')
    example = ', e.g. train_dataloader.batch_size=8 model.backbone.out_indices="[11]"'
    common.add_arguments(parser, 'logs and checkpoints', example)
    return common.parse(parser, arguments)


def load_config(args: argparse.Namespace):
    """The config as it will run: file, then command line."""
    cfg = common.begin_config(args)
    if not cfg.get('train_dataloader') or not cfg.get('train_cfg'):
        raise ValueError(f'{args.config} trains nothing: it has no train_dataloader or no train_cfg.')
    if args.amp:
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.seed is not None:
        set_seed(cfg, args.seed)
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    if args.overwrite and cfg.get('resume'):
        raise ValueError('--overwrite removes the run that --resume would go on with: give one of them.')
    if any(os.environ.get(name, '0') != '0' for name in RESTARTS):  # what lies there is this run's own first try
        args.overwrite = False
    return cfg


def trust(files: list[str]) -> None:
    """Names files that may be read whole, for this process and the ones it starts."""
    from mixedae.checkpoints.reading import TRUST

    named = [os.environ[TRUST]] if os.environ.get(TRUST) else []
    if files:
        os.environ[TRUST] = os.pathsep.join([*named, *files])


def set_seed(cfg, seed: int) -> None:
    """Seeds the runner, and our own datasets and samplers, which keep a seed of their own."""
    from mixedae.registry import DATA_SAMPLERS, DATASETS

    cfg.randomness = dict(cfg.get('randomness') or {}, seed=seed)
    loader = cfg.train_dataloader
    for part, registry in ((loader.dataset, DATASETS), (loader.get('sampler') or {}, DATA_SAMPLERS)):
        if str(part.get('type', '')).startswith('mixedae.'):
            cls = registry.get(part['type'].removeprefix('mixedae.'))
            if cls is not None and 'seed' in inspect.signature(cls).parameters:
                part['seed'] = seed


def main(arguments: list[str] | None = None) -> int:
    try:
        args = parse_args(arguments)
        from mmengine.dist import barrier

        from mixedae.checkpoints import CheckpointError
        from mixedae.engine.failures import explain_stop
        from mixedae.engine.meter_hook import unwrap
        from mixedae.engine.preflight import preflight
        from mixedae.engine.quarantine_hook import place_quarantine
        from mixedae.engine.resources import check_disk, check_memory, check_work_dir
        from mixedae.engine.run_folder import check_new_run, remove_run
        from mixedae.engine.runner import SafeRunner
        from mixedae.engine.step_size import check_step_size
    except ImportError as error:
        print(f'error: {error}: run `make env` to set the environment up, then .venv/bin/python', file=sys.stderr)
        return 2
    warnings: list[str] = []
    try:
        cfg = load_config(args)
        trust(args.trust_checkpoint)
        place_quarantine(cfg)
        if int(os.environ.get('RANK', 0)) == 0:
            check_work_dir(cfg.work_dir)
            check_new_run(cfg, args.overwrite)
            warnings = preflight(cfg, phases=('train', 'val') if cfg.get('val_cfg') else ('train',))
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    try:
        runner = SafeRunner.from_cfg(cfg)
    except (ValueError, KeyError, OSError) as error:  # the model's arguments, a type that is not registered, a port
        print(f'error: {error.args[0]}', file=sys.stderr)
        return 2
    try:
        if runner.rank == 0:
            check_disk(runner.model, cfg)
            warnings += [check_step_size(cfg, runner.world_size), check_memory(unwrap(runner.model), cfg)]
            for warning in filter(None, warnings):
                runner.logger.warning(warning)
            if args.overwrite:
                runner.logger.info(f'Removed of the run before: {", ".join(remove_run(cfg)) or "nothing"}.')
        if args.overwrite:
            barrier()  # no process goes on, to load or write checkpoints, before they are gone
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    try:
        runner.train()
    except CheckpointError as error:  # a file that exists but cannot be used
        print(f'error: {error}', file=sys.stderr)
        return 2
    except Exception as error:
        sentence = explain_stop(error, runner)
        if sentence is None:  # all other errors keep their traceback
            raise
        print(f'error: {sentence}', file=sys.stderr)
        return 3
    return 0


if __name__ == '__main__':
    sys.exit(main())
