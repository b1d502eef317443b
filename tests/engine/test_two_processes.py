"""Whole runs of two processes (gloo), as the pre-training configs set them up, against one with the batches of both."""

import json
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'reliability'))
import small_runs as runs

from mixedae.checkpoints import read_file
from mixedae.models import MixedAE

REPO = Path(__file__).resolve().parents[2]
RUNTIME = Config.fromfile(REPO / 'mmcfg' / '_base_' / 'pretrain' / 'runtime.py')


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    return runs.write_pictures(tmp_path_factory.mktemp('pictures'), count=40)


def config(folder, pictures, batch, counts, wrapper):
    cfg = runs.pretraining(folder, pictures, iters=4, every=4, workers=0, batch=batch)
    cfg.custom_hooks = [dict(type='mixedae.PretrainMeterHook', interval=3)]
    cfg.default_hooks.throughput = dict(RUNTIME.default_hooks.throughput, warm_up=1)
    cfg.optim_wrapper = dict(
        type='OptimWrapper', optimizer=dict(type='SGD', lr=0.5, momentum=0.9), accumulative_counts=counts
    )
    cfg.model_wrapper_cfg = wrapper
    return cfg


def with_masks_of_both(draw_mask):
    """One process draws for its two groups what two processes draw for one each."""

    def draw(model, num_groups, generator, device):
        masks = []
        for rank in range(2):
            model.rank = rank
            masks.append(draw_mask(model, num_groups // 2, model.generator(), device))
        return torch.cat(masks)

    return draw


@pytest.mark.parametrize('counts', [1, 2])
def test_two_processes__same_weights_as_one(tmp_path, pictures, monkeypatch, counts):
    wrapper = RUNTIME.model_wrapper_cfg
    assert wrapper.static_graph and wrapper.gradient_as_bucket_view
    runs.finish(lambda folder: config(folder, pictures, 4, counts, wrapper), tmp_path / 'two', world=2, resume=False)
    monkeypatch.setattr(MixedAE, 'draw_mask', with_masks_of_both(MixedAE.draw_mask))
    runs.finish(lambda folder: config(folder, pictures, 8, counts, wrapper), tmp_path / 'one', resume=False)
    one, two = (read_file(str(tmp_path / name / 'iter_4.pth'))['state_dict'] for name in ('one', 'two'))
    initial = runs.RUNNERS.build(config(tmp_path / 'none', pictures, 8, counts, wrapper)).model.state_dict()
    moved = {key: (value - initial[key]).abs().max().item() for key, value in one.items()}
    assert sum(value > 1e-3 for value in moved.values()) > 20  # they did learn
    assert two.keys() == one.keys()
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-4, atol=2e-6, msg=lambda text, key=key: f'{key}: {text}')
    lines = next((tmp_path / 'two').glob('*/vis_data/scalars.json')).read_text().splitlines()
    paces = [line['images_per_s'] for line in map(json.loads, lines) if 'images_per_s' in line]
    assert paces and all(pace > 0 for pace in paces)  # the sum of both processes
