"""The memory of a training step, counted on the CPU."""

import subprocess
import sys

import pytest
import torch

from tests.configs.shrinking import REPO
from tools.analysis.step_memory import image_size, measure, peak_bytes

MIB = 2**20


def mib(count):
    return torch.empty(count * MIB, dtype=torch.uint8)


def test_peak_bytes__counts_what_is_alive_at_one_time():
    before = mib(8)

    def work():
        first = mib(3)
        second = mib(5)
        del first
        third = mib(2)
        return before, second, third

    assert peak_bytes(work) == pytest.approx(8 * MIB, rel=0.01)  # 3 + 5, not 5 + 2, not the 8 of before


def test_image_size__asks_where_there_are_several():
    from mmengine.config import Config

    cfg = Config(dict(model=dict(data_preprocessor=dict(pad_size_divisor=32))))
    assert image_size(cfg, (64, 96)) == (64, 96)
    with pytest.raises(ValueError, match='trains on images of several sizes: say which by --size'):
        image_size(cfg, None)


@pytest.mark.slow
def test_measure__more_images_and_no_checkpointing_need_more():
    pytest.importorskip('mmcv.ops', reason="needs mmcv's compiled ops")
    config = str(REPO / 'mmcfg' / 'ade20k' / 'mixedae_vit-tiny-p16_upernet_1xb8-2k_ade20k-192x192.py')
    found = {
        (batch, with_cp): measure(config, {'model.backbone.with_cp': with_cp}, (96, 96), batch)
        for batch, with_cp in ((2, True), (2, False), (4, False))
    }
    assert found[2, True]['activations'] < found[2, False]['activations']
    assert found[4, False]['activations'] == pytest.approx(2 * found[2, False]['activations'], rel=0.25)
    for parts in found.values():
        assert parts['gradients'] < parts['weights'] < 1.01 * parts['gradients']  # batch norm's buffers
        assert parts['total'] == parts['weights'] + 3 * parts['gradients'] + parts['activations']


def test_command__pretraining_config():
    config = 'mmcfg/pretrain/mixedae_vit-tiny-p16_8xb512-amp-coslr-300e_in1k.py'
    done = subprocess.run(
        [sys.executable, 'tools/analysis/step_memory.py', config], cwd=REPO, capture_output=True, text=True
    )
    assert done.returncode == 2 and 'is no detection or segmentation config' in done.stderr
    assert 'Traceback' not in done.stderr
