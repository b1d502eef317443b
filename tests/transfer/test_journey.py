"""Pre-training checkpoint → backbone → Mask R-CNN and UPerNet: trained by our script and by mmdet's and mmseg's own."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mixedae.checkpoints import read_checkpoint, read_file

from .conftest import LR, REPO, run_script

pytest.importorskip('mmcv.ops', reason="needs mmcv's compiled ops")

TASKS = ['detection', 'segmentation']
FROM = {'detection': 'mmdet', 'segmentation': 'mmseg'}
LOADED = {'detection': 54, 'segmentation': 52}  # ViTDet's map goes through the final LayerNorm, UPerNet's do not


def mm_script(package, name='train.py'):
    """mmdet's or mmseg's own script, as its distribution installs it."""
    script = Path(importlib.util.find_spec(package).origin).parent / '.mim' / 'tools' / name
    if not script.is_file():
        pytest.skip(f'this {package} brings no .mim/tools/{name}')
    return script


def check_step_from_pretrained(checkpoint, pretrained):
    """One AdamW step at LR moves a weight by about LR at most: the run started from the pre-trained weights."""
    before, after = read_checkpoint(pretrained), read_checkpoint(checkpoint)
    moved = {
        name: (weight - before[name.replace('backbone.', 'encoder.')]).abs().max().item()
        for name, weight in after.items()
        if name.startswith('backbone.blocks.')
    }
    assert len(moved) == 4 * 12
    assert 0.5 * LR < max(moved.values()) < 1.1 * LR, moved
    assert before['encoder.blocks.0.attn.qkv.weight'].abs().max() > 100 * LR


@pytest.fixture(scope='session')
def trained(configs, tmp_path_factory):
    """{task: (work dir, output)} of tools/train.py."""
    results = {}
    for task in TASKS:
        work_dir = tmp_path_factory.mktemp(task)
        done = run_script(REPO / 'tools' / 'train.py', configs[task], '--work-dir', work_dir)
        results[task] = work_dir, done.stdout + done.stderr
    return results


def scalars(work_dir):
    """All logged lines of a run."""
    return [json.loads(line) for file in sorted(work_dir.glob('*/vis_data/scalars.json')) for line in file.open()]


def test_pretraining__by_our_script(pretrained):
    checkpoint = read_file(pretrained)  # MMEngine's whole training checkpoint, by the safe reader
    assert checkpoint['meta']['iter'] == 2 and 'optimizer' in checkpoint and 'message_hub' in checkpoint
    logged = scalars(pretrained.parent)
    assert [line['step'] for line in logged if 'loss' in line] == [1, 2]
    assert all(np.isfinite(line['loss']) for line in logged if 'loss' in line)


@pytest.mark.slow
@pytest.mark.parametrize('task', TASKS)
def test_train__ours(trained, pretrained, task):
    work_dir, output = trained[task]
    check_step_from_pretrained(work_dir / 'iter_1.pth', pretrained)
    assert f'mixedae pre-training, {LOADED[task]} weights loaded into the backbone' in output
    assert 'resampled: pos_embed 4 x 4 -> 14 x 14 patches' in output
    assert output.count('Layer-wise learning rates') == 1
    metric = {'detection': 'coco/bbox_mAP', 'segmentation': 'mIoU'}[task]
    assert any(metric in line for line in scalars(work_dir)), 'no validation'


@pytest.mark.slow
@pytest.mark.parametrize('task', TASKS)
def test_test__ours(trained, configs, tmp_path, task):
    work_dir, _ = trained[task]
    out, show = tmp_path / 'out' / 'metrics.json', tmp_path / 'show'
    arguments = [configs[task], work_dir / 'iter_1.pth', '--work-dir', tmp_path, '--out', out, '--show-dir', show]
    # the weights come from the checkpoint: a pre-training file that is gone is no matter
    run_script(REPO / 'tools' / 'test.py', *arguments, '--cfg-options', 'model.backbone.init_cfg.checkpoint=gone.pth')
    metrics = json.loads(out.read_text())
    names = {'detection': ['coco/bbox_mAP', 'coco/segm_mAP'], 'segmentation': ['mIoU', 'aAcc']}[task]
    logged = next(line for line in scalars(work_dir) if names[0] in line)
    for name in names:  # the same model on the same data: what validation after training said
        assert metrics[name] == pytest.approx(logged[name], abs=1e-3)
    drawn = [path for path in show.rglob('*') if path.suffix in ('.jpg', '.png')]
    assert len(drawn) == 2
    for path in drawn:
        assert np.asarray(Image.open(path)).std() > 0


@pytest.mark.slow
@pytest.mark.parametrize('task', TASKS)
def test_train__mm_scripts(configs, pretrained, tmp_path, task):
    done = run_script(mm_script(FROM[task]), configs[task], '--work-dir', tmp_path)
    check_step_from_pretrained(tmp_path / 'iter_1.pth', pretrained)
    assert f'mixedae pre-training, {LOADED[task]} weights loaded' in done.stdout + done.stderr


@pytest.mark.slow
def test_resume__ours(trained, configs, tmp_path):
    work_dir, _ = trained['segmentation']
    done = run_script(
        REPO / 'tools' / 'train.py',
        configs['segmentation'],
        '--work-dir',
        tmp_path,
        '--resume',
        work_dir / 'iter_1.pth',
        '--cfg-options',
        'train_cfg.max_iters=2',
        'train_cfg.val_interval=5',
    )
    assert 'resumed epoch: 0, iter: 1' in done.stdout + done.stderr
    checkpoint = read_file(tmp_path / 'iter_2.pth')
    assert checkpoint['meta']['iter'] == 2
    assert {int(state['step']) for state in checkpoint['optimizer']['state'].values()} == {2}
    assert not torch.equal(
        checkpoint['state_dict']['decode_head.conv_seg.weight'],
        read_checkpoint(work_dir / 'iter_1.pth')['decode_head.conv_seg.weight'],
    )
