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
        check_show_dir(cfg, args.show_dir)
        draw_into(cfg, args.show_dir)
    return cfg


def check_show_dir(cfg, folder: str) -> None:
    """mmdet's hook gives a picture the name of its image: in a folder of images it would overwrite them."""
    from mixedae.engine.preflight import leaf_datasets
    from object_aware.image_files import SUFFIXES

    place = Path(folder).resolve()
    if not place.is_dir() or not any(path.suffix.lower() in SUFFIXES for path in place.iterdir()):
        return
    for dataset in leaf_datasets(cfg.test_dataloader.dataset):
        root = dataset.get('data_root') or ''
        for name, part in (dataset.get('data_prefix') or {}).items():
            data = Path(root, part or '').resolve()
            if name.startswith('img') and (root or part) and (place == data or data in place.parents):
                raise ValueError(f'--show-dir {folder} lies in the data ({data}) and could overwrite it: give another.')


def is_metrics(file: Path) -> bool:
    """Whether a file is one that --out has written: a few numbers as JSON."""
    if file.stat().st_size > 1_000_000:
        return False
    try:
        content = json.loads(file.read_bytes())
    except ValueError:
        return False
    return isinstance(content, dict) and all(isinstance(value, (int, float)) for value in content.values())


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
    """Every weight of the model must be in the checkpoint, in its shape: figures of random weights mean nothing.

    MMEngine leaves a weight of another shape out with a warning. Nothing is resampled here: that is for checkpoints of
    pre-training, in ``init_cfg``.
    """
    from mixedae.checkpoints import CheckpointError, read_checkpoint

    stored = {name.removeprefix('module.'): value for name, value in read_checkpoint(checkpoint).items()}
    wanted = [name for name, _ in runner.model.named_parameters()]
    absent = [name for name in wanted if name.removeprefix('module.') not in stored]
    if absent:
        raise CheckpointError(
            f'{checkpoint} lacks {len(absent)} of {len(wanted)} weights of this model, e.g. {absent[0]}: '
            'give the checkpoint that was trained with this config.'
        )
    own = {name.removeprefix('module.'): tuple(value.shape) for name, value in runner.model.state_dict().items()}
    other = [name for name, shape in own.items() if name in stored and tuple(stored[name].shape) != shape]
    if other:
        raise CheckpointError(
            f'{checkpoint} has {len(other)} weights in other shapes than this model, e.g. {other[0]}: '
            f'{tuple(stored[other[0]].shape)} there, {own[other[0]]} here: give the checkpoint that was trained with '
            'this config, or the config that it was trained with (number of classes, arch, img_size).'
        )


def main(arguments: list[str] | None = None) -> int:
    try:
        args = parse_args(arguments)
        from mixedae.checkpoints import CheckpointError, read_checkpoint
        from mixedae.engine.preflight import preflight
        from mixedae.engine.runner import SafeRunner
        from object_aware.outputs import check_out
    except ImportError as error:
        print(f'error: {error}: run `make env` to set the environment up, then .venv/bin/python', file=sys.stderr)
        return 2
    try:
        cfg = load_config(args)
        if args.out:
            check_out(args.out, (args.config, args.checkpoint), 'a file of metrics that this tool wrote', is_metrics)
        read_checkpoint(args.checkpoint)
        warnings = preflight(cfg, phases=('test',))
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
        for warning in warnings if runner.rank == 0 else ():
            runner.logger.warning(warning)
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
