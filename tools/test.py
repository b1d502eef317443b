"""Test a trained detector or segmentor.

    python tools/test.py CONFIG CHECKPOINT [--work-dir DIR] [--out FILE] [--show-dir DIR] [--cfg-options K=V ...]

Looks at config, data and checkpoint first and stops with one sentence (exit code 2) if something is wrong with them.
"""

from __future__ import annotations

import argparse
import json
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


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Test a trained detector or segmentor.')
    parser.add_argument('config', help='config file, e.g. of mmcfg/')
    parser.add_argument('checkpoint', help='checkpoint file of the training')
    parser.add_argument('--out', metavar='FILE', help='write the metrics as JSON')
    parser.add_argument('--show-dir', metavar='DIR', help='draw the predictions of every image into this folder')
    common.add_arguments(parser, 'logs')
    return common.parse(parser, arguments)


def load_config(args: argparse.Namespace):
    """The config as it will run: file, then command line."""
    cfg = common.begin_config(args)
    if not cfg.get('test_dataloader') or not cfg.get('test_evaluator'):
        raise ValueError(f'{args.config} has nothing to test: no test_dataloader or no test_evaluator (pre-training?).')
    cfg.load_from = args.checkpoint
    cfg.resume = False
    # the weights come from CHECKPOINT: a pre-training file that was moved since is no matter
    if cfg.model.get('backbone'):
        cfg.model.backbone.pop('init_cfg', None)
    if args.show_dir:
        draw_into(cfg, args.show_dir)
    return cfg


def draw_into(cfg, folder: str) -> None:
    """Lets the visualization hook draw every test image."""
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if not hook:
        raise ValueError(
            '--show-dir needs default_hooks.visualization in the config (detection and segmentation have it).'
        )
    folder = os.path.abspath(folder)  # a relative one is joined to the work dir by mmdet's hook, anew for each batch
    hook['draw'] = True
    if 'Det' in hook['type']:
        hook['test_out_dir'] = folder
    else:
        hook['interval'] = 1  # stock mmseg draws every 50th batch
        cfg.visualizer['save_dir'] = folder


def check_weights(runner, checkpoint: str) -> None:
    """Every weight of the model must be in the checkpoint: figures of random weights mean nothing."""
    from mixedae.checkpoints import CheckpointError, read_checkpoint

    stored = {name.removeprefix('module.') for name in read_checkpoint(checkpoint)}
    wanted = [name for name, _ in runner.model.named_parameters()]
    absent = [name for name in wanted if name.removeprefix('module.') not in stored]
    if absent:
        raise CheckpointError(
            f'{checkpoint} lacks {len(absent)} of {len(wanted)} weights of this model, e.g. {absent[0]}: '
            'give the checkpoint that was trained with this config.'
        )


def main(arguments: list[str] | None = None) -> int:
    try:
        args = parse_args(arguments)
        from mixedae.checkpoints import CheckpointError, read_checkpoint
        from mixedae.engine.preflight import preflight
        from mixedae.engine.runner import SafeRunner
    except ImportError as error:
        print(f'error: {error}: run `make env` to set the environment up, then .venv/bin/python', file=sys.stderr)
        return 2
    try:
        cfg = load_config(args)
        read_checkpoint(args.checkpoint)
        preflight(cfg, phases=('test',))
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    try:
        runner = SafeRunner.from_cfg(cfg)
    except (ValueError, KeyError) as error:  # the model refuses its arguments, or a type is not registered
        print(f'error: {error.args[0]}', file=sys.stderr)
        return 2
    try:
        check_weights(runner, args.checkpoint)
        metrics = runner.test()
    except CheckpointError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    if args.out and runner.rank == 0:
        out = Path(args.out)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({name: float(value) for name, value in metrics.items()}, indent=2) + '\n')
        print(f'metrics written to {out}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
