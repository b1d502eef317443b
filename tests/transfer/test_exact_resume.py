"""Detection and segmentation with loader processes: stopped, resumed, and bit for bit the unbroken run."""

import sys
from pathlib import Path

import pytest

pytest.importorskip('mmcv.ops', reason="needs mmcv's compiled ops")

sys.path.insert(0, str(Path(__file__).parents[1] / 'reliability'))
import small_runs as runs

from mixedae.engine.configs import read_config


@pytest.mark.slow
@pytest.mark.parametrize('task', ['detection', 'segmentation'])
def test_resume__as_the_unbroken_run(configs, tmp_path, task):
    """Random resizing, cropping, flipping and colours of mmdet's and mmseg's pipelines in two loader processes."""

    def make(folder, last=5):
        cfg = read_config(str(configs[task]))
        cfg.work_dir, cfg.experiment_name = str(folder), folder.name
        cfg.train_cfg.update(max_iters=last, val_interval=100)
        cfg.train_dataloader.update(num_workers=2, persistent_workers=True)
        cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
        cfg.default_hooks.checkpoint.update(interval=2, max_keep_ckpts=5)
        cfg.custom_hooks = []
        return cfg

    runs.finish(make, tmp_path / 'whole')
    runs.finish(lambda folder: make(folder, last=3), tmp_path / 'rest')
    (tmp_path / 'rest' / 'iter_3.pth').unlink()  # as if it had been killed after the third iteration
    runs.finish(make, tmp_path / 'rest')
    assert 'iter_2.pth' in (tmp_path / 'rest' / 'output_0.txt').read_text()
    runs.same_run(tmp_path / 'whole', tmp_path / 'rest', 'iter_5.pth')
