"""The benchmark's frame, and its data part on a few small scenes."""

import importlib.util
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tools import benchmark
from tools.benchmark_parts import common, data


def test_interleave__turns_and_units():
    calls = []

    def contender(name, units):
        return lambda: calls.append(name) or units

    timings = common.interleave({'a': contender('a', 10), 'b': contender('b', None)}, repeats=3)
    assert calls == ['a', 'b', 'b', 'a', 'a', 'b', 'b', 'a']  # one warm-up each, then nobody is always first
    assert len(timings['a'].wall) == len(timings['a'].cpu) == 3
    assert (timings['a'].work, timings['b'].work) == (10, 1)
    with pytest.raises(ValueError, match='repeats must be at least 1'):
        common.interleave({}, 0)


def test_ratio__of_work_per_cpu_second():
    fast = common.Timing(wall=(1, 1, 1), cpu=(1.0, 2.0, 1.0), work=20)
    slow = common.Timing(wall=(1, 1, 1), cpu=(1.0, 4.0, 3.0), work=10)
    middle, low, high = common.ratio(fast, slow)  # 2, 4, 6
    assert (middle, low, high) == (4, 3, 5)
    assert fast.rate == 20 and slow.rate == pytest.approx(10 / 3)


def test_machine__names_the_gpu(monkeypatch):
    properties = SimpleNamespace(name='NVIDIA H200', major=9, minor=0, total_memory=139 * 2**30)
    asked = []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_properties', lambda device: asked.append(device) or properties)
    monkeypatch.setattr(torch.version, 'cuda', '12.8')
    monkeypatch.setattr(common.subprocess, 'run', lambda *_, **__: SimpleNamespace(stdout='570.86.15\n570.86.15\n'))
    about = common.machine(('torch', 'no-such-package'), 'cuda:1')
    assert asked == ['cuda:1'] and set(about['versions']) == {'torch'}
    assert about['gpu'] == dict(
        name='NVIDIA H200', capability='9.0', memory=139 * 2**30, cuda='12.8', driver='570.86.15'
    )
    text = benchmark.render(dict(part='step', machine=about, results={}))
    assert '; NVIDIA H200, compute 9.0, 139 GiB, CUDA 12.8, driver 570.86.15; Python ' in text

    def missing(*_, **__):
        raise FileNotFoundError('nvidia-smi')

    monkeypatch.setattr(common.subprocess, 'run', missing)
    about = common.machine((), 'cuda')
    assert about['gpu']['driver'] is None and common.describe_gpu(about['gpu']).endswith('139 GiB, CUDA 12.8')
    assert common.machine()['gpu'] is None  # measured on the CPU
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert common.machine((), 'cuda')['gpu'] is None


def test_machine__versions_of_what_is_timed():
    found = common.machine(benchmark.PACKAGES)['versions']
    assert {'torch', 'timm'} < set(found) and {'mmengine', 'onedl-mmengine'} & set(found)
    assert ('triton' in found) == (importlib.util.find_spec('triton') is not None)


def test_psnr():
    a = np.zeros((3, 4, 4), dtype=np.uint8)
    assert data.psnr(a, a) == np.inf
    assert data.psnr(a, a + 255) == 0
    assert data.psnr(a, a + 1) == pytest.approx(48.1308, abs=1e-3)


def test_data__table_and_figures(tmp_path, capsys):
    options = dict(sizes='320x240', crops=48, images=3, windows=6, repeats=1, quality=90)
    arguments = [text for name, value in options.items() for text in (f'--{name}', str(value))]
    assert benchmark.main(['data', *arguments, '--json', str(tmp_path / 'data.json')]) == 0
    out = capsys.readouterr().out
    assert '320x240 -> 48' in out and 'together' in out and 'numpy' in out
    report = json.loads((tmp_path / 'data.json').read_text())
    (found,) = report['results']['details']
    assert report['part'] == 'data' and found['size'] == [320, 240]
    assert set(found['timings']) == set(data.CONTENDERS)
    assert found['timings']['ours']['work'] == 6 and found['timings']['ours']['rate'] > 0
    assert found['ratios']['plain'] == [1, 1, 1]
    assert found['quality']['plain']['equal'] == 1
    assert found['quality']['ours']['psnr'] is None or found['quality']['ours']['psnr'][0] > 30


def test_benchmark__bad_input(tmp_path, capsys):
    assert benchmark.main(['data', '--sizes', '12']) == 2
    assert 'error: A scene size is written WIDTHxHEIGHT' in capsys.readouterr().err
    (tmp_path / 'mine.json').write_text('{"images": []}')
    assert benchmark.main(['data', '--json', str(tmp_path / 'mine.json')]) == 2
    assert 'mine.json exists and is not a report of this tool: give another --json.' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        benchmark.main(['nothing'])
