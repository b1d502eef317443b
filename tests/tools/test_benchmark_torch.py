"""The parts of the benchmark that time PyTorch work."""

import argparse
import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mixedae.analysis import count_operations
from mixedae.models import MAE
from tools.benchmark_parts import attention, floor, growth, mmpretrain_mae, pretraining, step
from tools.benchmark_parts.common import Timing
from tools.benchmark_parts.torch_timing import kept_for_backward, slowdown, take_turns

ROOT = Path(__file__).resolve().parents[2]
SMALL = ('--size', '64', '--batch', '8', '--decoder', '32', '1', '2')


def arguments(part, *given):
    parser = argparse.ArgumentParser()
    part.add_arguments(parser)
    return parser.parse_args([*given])


def test_take_turns__all_equally_often():
    calls = []
    times = take_turns(
        {name: (lambda name=name: calls.append(name)) for name in 'ab'}, 3, torch.device('cpu'), warmup=1
    )
    assert calls == ['a', 'b', 'b', 'a', 'a', 'b', 'b', 'a']
    assert [len(timing.cpu) for timing in times.values()] == [3, 3]
    assert slowdown(times['a'], times['a']) == (1.0, 1.0, 1.0)


def test_kept_for_backward__counts_storages_once():
    x = torch.randn(10, 100, requires_grad=True)
    assert kept_for_backward(lambda: x.exp()) == 4000
    assert kept_for_backward(lambda: x * x) == 4000  # both factors are the same storage
    linear = torch.nn.Linear(100, 7, bias=False)
    assert kept_for_backward(lambda: linear(x)) == 4000  # the weight is no activation


def test_attention__figures():
    results = attention.run(arguments(attention, '--repeats', '2', '--batch', '1'))
    for numbers in results['figures'].values():
        assert numbers['plain']['both'][0] == 1.0
        assert [name for name, row in numbers.items() if row['auto']] == ['cpu']
        assert numbers['cpu']['kept_bytes'] > numbers['plain']['kept_bytes']


def test_step__figures():
    results = step.run(arguments(step, '--repeats', '1', *SMALL))
    (table,) = results['tables']
    found = results['figures']
    assert found['MAE']['ratio']['MAE'] == (1.0, 1.0, 1.0)
    there = importlib.util.find_spec('mmpretrain') is not None
    assert set(step.CONTENDERS) - set(found) == (set() if there else {step.THEIRS})
    assert there or any("mmpretrain's MAE was not measured" in note for note in table['notes'])
    assert {len(row) for row in table['rows']} == {len(table['columns'])}
    for name, row in found.items():
        assert row['seconds'] > 0 and row['kept_ratio'] == row['kept_bytes'] / found['MAE']['kept_bytes']
        if name != step.THEIRS:
            floor_seconds = row['multiply_adds'] / results['rate']
            assert row['floor_seconds'] == pytest.approx(floor_seconds) and row['over_floor'][0] > 0


def test_step__mmpretrains_mae_is_ours_in_size():
    pytest.importorskip('mmpretrain')
    sizes = pretraining.Sizes('tiny', 64, 4, (32, 1, 2))
    cpu = torch.device('cpu')
    theirs, ours = (pretraining.Contender(name, {}, sizes, cpu, torch.float32) for name in (step.THEIRS, step.OURS))

    def learned(contender):
        return sum(p.numel() for p in contender.model.parameters() if p.requires_grad)

    assert learned(theirs) == learned(ours)
    assert theirs.loss().item() > 0 and theirs.operations() is None


def test_contender__memory():
    """The peak holds weights, both moments, the gradients and what forward kept."""
    sizes = pretraining.Sizes('tiny', 64, 4, (32, 1, 2))
    contender = pretraining.Contender('MixedAE', {}, sizes, torch.device('cpu'), torch.float32)
    found = contender.memory()
    learned = sum(p.nbytes for p in contender.model.parameters())
    assert found['kept_bytes'] > 0
    assert 3 * learned + max(learned, found['kept_bytes']) < found['peak_bytes'] < 5 * learned + 2 * found['kept_bytes']


def test_imported__a_broken_mmpretrain_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmpretrain', None)
    with pytest.raises(ImportError, match=r"mmpretrain's MAE was not measured: .* \(ModuleNotFoundError"):
        mmpretrain_mae.imported()


def test_product__floor():
    product = floor.Product(torch.device('cpu'), torch.float32)
    own, timing = Timing((1, 1, 2), (1, 1, 2)), Timing((3, 3, 6), (3, 3, 6))
    assert product.rate(own) == product.operations
    assert product.over_floor(timing, own, product.operations) == (3, 3, 3)
    assert product.over_floor(timing, own, product.operations * 2) == (1.5, 1.5, 1.5)  # half of it was there to do


def test_growth__one_thing_changes_in_each_row():
    changes = ('--sizes', '96', '--batches', '4', '--archs', 'small', '--groups', '2', '3', '--groups-size', '96')
    args = arguments(growth, '--repeats', '1', *SMALL, *changes)
    rows = growth.settings(args)
    base = pretraining.Sizes('tiny', 64, 8, (32, 1, 2))
    assert rows == [
        ('96 px', replace(base, size=96), 4),
        ('4 images', replace(base, batch=4), 4),
        ('g = 2, 96 px, 6 images', replace(base, size=96, batch=6), 2),
        ('g = 3, 96 px, 6 images', replace(base, size=96, batch=6), 3),
        ('ViT small', replace(base, arch='small'), 4),
    ]


def test_growth__figures():
    nothing = ('--batches', '--archs', '--sizes')
    results = growth.run(arguments(growth, '--repeats', '1', *SMALL, *nothing, '--groups', '3', '--groups-size', '96'))
    (table,) = results['tables']
    assert [row[0] for row in table['rows']] == ['g = 3, 96 px, 9 images']
    assert len(table['rows'][0]) == len(table['columns'])
    (found,) = results['figures'].values()
    assert found['MixedAE']['ratio']['MAE'][0] > 0 and found['MAE']['ratio']['MAE'] == (1.0, 1.0, 1.0)
    with torch.device('meta'):
        encoder, decoder = dict(arch='tiny', img_size=96), dict(embed_dim=32, depth=1, num_heads=2)
        counted = count_operations(MAE(encoder, decoder, mask_ratio=1 - 1 / 3 - 1e-6))  # 12 of 36 patches are seen
    assert found['MAE']['multiply_adds'] == 9 * counted.training


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_benchmark__no_gpu_is_one_sentence():
    done = subprocess.run(
        [sys.executable, 'tools/benchmark.py', 'attention', '--device', 'cuda'],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith('error: --device cuda, but PyTorch finds no GPU here')
