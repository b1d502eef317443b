"""The parts of the benchmark that time PyTorch work."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tools.benchmark_parts import attention, step
from tools.benchmark_parts.torch_timing import kept_for_backward, slowdown, take_turns

ROOT = Path(__file__).resolve().parents[2]


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
    results = step.run(arguments(step, '--repeats', '1', '--size', '64', '--batch', '8', '--decoder', '32', '1', '2'))
    assert results['figures']['MAE']['ratio'][0] == 1.0
    assert list(results['figures']) == list(step.CONTENDERS)
    assert all(row['seconds'] > 0 for row in results['figures'].values())


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
