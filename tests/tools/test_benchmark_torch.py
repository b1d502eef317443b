"""The parts of the benchmark that time PyTorch work."""

import argparse
import importlib.util
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mixedae.analysis import count_operations
from mixedae.layers import Block
from mixedae.models import MAE
from tools.benchmark_parts import attention, floor, growth, mmpretrain_mae, pretraining, step, torch_timing
from tools.benchmark_parts.common import Timing
from tools.benchmark_parts.torch_timing import calls_for, kept_for_backward, slowdown, take_turns

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


def test_take_turns__times_of_one_call():
    calls = []
    times = take_turns(dict(a=lambda: calls.append(time.process_time())), 2, torch.device('cpu'), warmup=0, calls=1000)
    assert len(calls) == 2000 and len(times['a'].cpu) == 2
    assert 0 < times['a'].cpu[0] < (calls[-1] - calls[0]) / 1000


def test_calls_for__a_turn_of_ten_milliseconds(monkeypatch):
    now = [0.0]

    def work(seconds):
        now[0] += seconds

    monkeypatch.setattr(torch_timing, 'time', SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(torch.cuda, 'synchronize', lambda device: work(0.0001))
    contenders = dict(slow=lambda: work(0.004), fast=lambda: work(0.0005))
    assert calls_for(contenders, torch.device('cuda')) == 32  # 8 + 0.1 ms were 16
    assert calls_for(contenders, torch.device('cpu')) == 1


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
        assert numbers['plain']['calls'] == dict(forward=1, both=1)


@pytest.mark.parametrize('given, batches', [((), [64, 64]), (('--batch', '2'), [2, 2])])
def test_attention__on_a_gpu(monkeypatch, given, batches):
    """Enough sequences to fill the chip, and turns long enough for the clock."""
    shapes = []

    def table(q, k, v, topk, repeats):
        shapes.append(tuple(q.shape))
        return [], [], dict(plain=dict(calls=dict(forward=32, both=8)))

    monkeypatch.setattr(attention, 'prepare', lambda args: (SimpleNamespace(type='cuda'), torch.bfloat16))
    monkeypatch.setattr(attention, 'table', table)
    real = torch.randn
    monkeypatch.setattr(torch, 'randn', lambda shape, device, dtype: real(shape, dtype=dtype))
    results = attention.run(arguments(attention, *given))
    assert [shape[0] for shape in shapes] == batches
    assert results['tables'][0]['notes'][0].endswith('; 32 calls a turn forward, 8 with backward')


def test_step__figures():
    results = step.run(arguments(step, '--repeats', '1', *SMALL))
    (table,) = results['tables']
    found = results['figures']
    assert found['MAE']['ratio']['MAE'] == (1.0, 1.0, 1.0)
    there = importlib.util.find_spec('mmpretrain') is not None
    assert set(step.CONTENDERS) - set(found) == {step.FUSED} | (set() if there else {step.THEIRS})
    assert any(note.startswith('MixedAE, fused kernel was not measured') for note in table['notes'])
    assert there or any("mmpretrain's MAE was not measured" in note for note in table['notes'])
    assert {len(row) for row in table['rows']} == {len(table['columns'])}
    for name, row in found.items():
        assert row['seconds'] > 0 and row['kept_ratio'] == row['kept_bytes'] / found['MAE']['kept_bytes']
        if name != step.THEIRS:
            floor_seconds = row['multiply_adds'] / results['rate']
            assert row['floor_seconds'] == pytest.approx(floor_seconds) and row['over_floor'][0] > 0


def test_step__fused_kernel_where_it_can_be_used(monkeypatch):
    asked = []

    def usable(q):
        asked.append((tuple(q.shape), q.dtype))
        return ('sdpa', 'triton')

    assert step.CONTENDERS[step.FUSED] == dict(encoder=dict(backend='triton'))
    monkeypatch.setattr('mixedae.functional.attention.usable_backends', usable)
    sizes = pretraining.Sizes('base', 224, 4, (512, 8, 16))
    assert step.fused_fits(sizes, torch.device('cpu'), torch.bfloat16)
    assert asked == [((1, 12, 197, 64), torch.bfloat16)]
    monkeypatch.setitem(step.CONTENDERS, step.FUSED, dict(encoder=dict(backend='sdpa')))  # what runs here
    monkeypatch.setattr(step, 'fused_fits', lambda *_: True)
    found = step.run(arguments(step, '--repeats', '1', '--brief', *SMALL))['figures']
    assert set(found) - {step.THEIRS} == {'MAE', 'MixedAE', 'MixedAE, fused kernel'}


def test_step__compile(monkeypatch):
    compiled = []
    monkeypatch.setattr(Block, 'compile', lambda self, **options: compiled.append(options))
    assert arguments(step).compile is None
    assert arguments(step, '--compile').compile == 'default'
    mode = 'max-autotune-no-cudagraphs'
    results = step.run(arguments(step, '--repeats', '1', '--brief', '--compile', mode, *SMALL))
    assert compiled == 2 * (12 + 1) * [dict(mode=mode)]  # encoder and decoder of MAE and MixedAE
    assert any(note.endswith(f'are compiled, mode {mode}') for note in results['tables'][0]['notes'])


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
