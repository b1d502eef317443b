"""The benchmark of the index, on a thousandth of its corpora."""

import argparse
import os
import subprocess
import sys

from tools.benchmark_parts import index as part


def test_index__builds_opens_and_reports(tmp_path):
    parser = argparse.ArgumentParser()
    part.add_arguments(parser)
    args = parser.parse_args(['--fraction', '0.001', '--workers', '1', '--folder', str(tmp_path), '--scales', 'coco'])
    report = part.run(args)
    figures = report['figures']['coco']
    assert figures['images'] == 118 and figures['objects'] == 860
    assert sum(figures['build']['reasons'].values()) <= 860 and 0 < figures['build']['crops'] < 860
    assert figures['build']['wall'] >= figures['build']['read'] > 0 and figures['build']['cpu'] > 0
    assert 20 * 2**20 < figures['build']['peak'] < 2 * 2**30
    assert figures['open']['seconds'] > 0
    (table,) = report['tables']
    assert len(table['columns']) == len(table['rows'][0])
    assert {file.suffix for file in tmp_path.iterdir()} == {'.json', '.safetensors'}


def test_peak_memory__counts_children(tmp_path):
    child = 'b = bytearray(80_000_000); b[::4096] = bytes([1]) * len(b[::4096]); import time; time.sleep(1)'
    parent = f'import subprocess, sys; subprocess.run([sys.executable, "-c", {child!r}])'
    process = subprocess.Popen([sys.executable, '-c', parent])
    memory = part.PeakMemory(process.pid)
    memory.start()
    process.wait()
    memory.stop()
    assert 80e6 < memory.peak < 300e6
    assert part.family(os.getpid())[0] == os.getpid()
