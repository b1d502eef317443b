"""Whole runs of two processes (gloo), as the pre-training configs set them up, against one with the batches of both."""

import json
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'reliability'))
import small_runs as runs

from mixedae.checkpoints import read_file
from mixedae.engine import FullySharded
from mixedae.models import MixedAE

REPO = Path(__file__).resolve().parents[2]
RUNTIME = Config.fromfile(REPO / 'mmcfg' / '_base_' / 'pretrain' / 'runtime.py')


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    return runs.write_pictures(tmp_path_factory.mktemp('pictures'), count=40)


def config(folder, pictures, batch, counts, wrapper, every=4):
    cfg = runs.pretraining(folder, pictures, iters=4, every=every, workers=0, batch=batch)
    cfg.custom_hooks = [dict(type='mixedae.PretrainMeterHook', interval=3)]
    cfg.default_hooks.throughput = dict(RUNTIME.default_hooks.throughput, warm_up=1)
    cfg.optim_wrapper = dict(
        type='OptimWrapper', optimizer=dict(type='SGD', lr=0.5, momentum=0.9), accumulative_counts=counts
    )
    cfg.model_wrapper_cfg = wrapper
    return cfg


def sharded_config(pictures, folder):
    cfg = config(folder, pictures, 4, 1, dict(type='mixedae.FullySharded'), every=2)
    del cfg.default_hooks['throughput']  # times differ from run to run
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


def compare(one, two, atol=2e-6):
    assert one.keys() == two.keys()
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-4, atol=atol, msg=lambda text, key=key: f'{key}: {text}')


@pytest.fixture(scope='module')
def one_process(tmp_path_factory, pictures):
    """The checkpoint of one process with both batches, after ``counts`` parts a step."""

    def run(counts, cache={}):  # noqa: B006
        if counts not in cache:
            folder = tmp_path_factory.mktemp('one')
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(MixedAE, 'draw_mask', with_masks_of_both(MixedAE.draw_mask))
                runs.finish(lambda work: config(work, pictures, 8, counts, None), folder, resume=False)
            cache[counts] = read_file(str(folder / 'iter_4.pth'))
            initial = runs.RUNNERS.build(config(folder / 'none', pictures, 8, counts, None)).model.state_dict()
            moved = [(v - initial[k]).abs().max().item() for k, v in cache[counts]['state_dict'].items()]
            assert sum(distance > 1e-3 for distance in moved) > 20  # it did learn
        return cache[counts]

    return run


@pytest.mark.parametrize('counts', [1, 2])
def test_data_parallel__same_weights_as_one_process(tmp_path, pictures, one_process, counts):
    """With hooks that look at the model on rank 0 every second step, while the other process waits."""
    wrapper = RUNTIME.model_wrapper_cfg
    assert wrapper.static_graph and wrapper.gradient_as_bucket_view
    looking = dict(interval=2, by_epoch=False, at_start=False)

    def both(folder):
        cfg = config(folder, pictures, 4, counts, wrapper)
        cfg.custom_hooks += [
            dict(type='mixedae.ProbeHook', max_crops=8, **looking),
            dict(type='mixedae.PictureHook', **looking),
        ]
        return cfg

    runs.finish(both, tmp_path, world=2, resume=False)
    compare(one_process(counts)['state_dict'], read_file(str(tmp_path / 'iter_4.pth'))['state_dict'])
    lines = next(tmp_path.glob('*/vis_data/scalars.json')).read_text().splitlines()
    paces = [line['images_per_s'] for line in map(json.loads, lines) if 'images_per_s' in line]
    assert paces and all(pace > 0 for pace in paces)  # the sum of both processes
    looks = [line for line in map(json.loads, lines) if 'probe/rankme' in line]
    assert [line['step'] for line in looks] == [2, 4] and all(1 <= line['probe/rankme'] <= 8 for line in looks)
    assert sorted(file.name for file in tmp_path.glob('*/vis_data/vis_image/*')) == [
        'pretraining_2.png', 'pretraining_4.png',
    ]  # fmt: skip


def test_fully_sharded__same_weights_and_same_checkpoints(tmp_path, pictures, one_process):
    pytest.importorskip('torch.distributed.tensor', reason='FSDP2 came with PyTorch 2.6')

    sharded = partial(sharded_config, pictures)
    one = one_process(1)
    runs.finish(sharded, tmp_path, world=2, resume=False)
    two = read_file(str(tmp_path / 'iter_4.pth'))
    compare(one['state_dict'], two['state_dict'])
    assert one['optimizer']['param_groups'] == two['optimizer']['param_groups']
    momenta = [{n: s['momentum_buffer'] for n, s in found['optimizer']['state'].items()} for found in (one, two)]
    assert len(momenta[0]) > 40
    compare(*momenta)

    (tmp_path / 'iter_4.pth').unlink()
    runs.finish(sharded, tmp_path, world=2, resume=True)  # from iteration 2 on
    assert any('iter_2.pth' in file.read_text() for file in tmp_path.glob('*/environment.json'))
    assert runs.differences(two, read_file(str(tmp_path / 'iter_4.pth'))) == []


@pytest.mark.parametrize('first', ['two sharded', 'one whole'])
def test_fully_sharded__goes_on_with_another_number_of_processes(tmp_path, pictures, one_process, first):
    """Two iterations with two processes that share the model and two with one, in both orders: the run of one."""
    pytest.importorskip('torch.distributed.tensor', reason='FSDP2 came with PyTorch 2.6')

    sharded = partial(sharded_config, pictures)

    def run(kind, resume):
        if kind == 'two sharded':
            runs.finish(sharded, tmp_path, world=2, resume=resume)
            return
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(MixedAE, 'draw_mask', with_masks_of_both(MixedAE.draw_mask))
            runs.finish(lambda folder: config(folder, pictures, 8, 1, None, every=2), tmp_path, resume=resume)

    run(first, resume=False)
    (tmp_path / 'iter_4.pth').unlink()
    run('one whole' if first == 'two sharded' else 'two sharded', resume=True)
    assert any('iter_2.pth' in file.read_text() for file in tmp_path.glob('*/environment.json'))
    compare(one_process(1)['state_dict'], read_file(str(tmp_path / 'iter_4.pth'))['state_dict'])


def test_fully_sharded__refuses():
    with pytest.raises(RuntimeError, match=r'found no Transformer block|needs PyTorch 2\.6'):
        FullySharded(torch.nn.Linear(2, 2))
