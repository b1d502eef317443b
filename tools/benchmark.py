#!/usr/bin/env python
"""Benchmarks: how fast the parts are, as ratios to the plain way of doing the same.

    python tools/benchmark.py data
    python tools/benchmark.py data --json work_dirs/benchmark/data.json

Contenders take turns, each several times; rates are by the median of the process's own CPU time, on one thread, so that
other work on the machine disturbs them little. Every table says on what hardware and with which versions it was made.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # so that a checkout works without being installed
    sys.path.insert(0, str(ROOT))

from object_aware.outputs import check_out, json_with
from tools.benchmark_parts.common import describe_gpu, format_table, machine

PARTS = {  # module in tools/benchmark_parts: what it measures
    'attention': 'homologous attention: backends and sizes',
    'data': 'crops per second from image bytes',
    'finetune': 'training steps and memory of detection and segmentation',
    'growth': 'pre-training steps against image size, batch, model and group size',
    'index': 'building and opening a crop index',
    'sampler': 'arranging the groups of an epoch',
    'step': 'pre-training steps',
}
PACKAGES = ('torch', 'triton', 'timm', 'mmengine', 'onedl-mmengine', 'numpy', 'pillow', 'simplejpeg', 'numba')


def parts() -> dict[str, Any]:
    """Name → module of every part that is there. A module has, beside ``add_arguments`` and ``run``, maybe PACKAGES."""
    folder = Path(__file__).parent / 'benchmark_parts'
    there = [name for name in PARTS if (folder / f'{name}.py').is_file()]
    return {name: importlib.import_module(f'tools.benchmark_parts.{name}') for name in there}


def parse_args(arguments: list[str] | None = None) -> tuple[argparse.Namespace, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='part', required=True, metavar='PART')
    modules = parts()
    for name, module in modules.items():
        command = commands.add_parser(
            name, help=PARTS[name], description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        command.add_argument('--json', type=Path, metavar='FILE', help='also write all figures to this file')
        module.add_arguments(command)
    args = parser.parse_args(arguments)
    return args, modules[args.part]


def render(report: dict[str, Any]) -> str:
    """The report as text: the machine, then each table with its title and notes."""
    about = report['machine']
    versions = ', '.join(f'{name} {version}' for name, version in about['versions'].items())
    load = '' if about['load'] is None else f', load {about["load"][0]}'
    gpu = '' if about['gpu'] is None else f'; {describe_gpu(about["gpu"])}'
    blocks = [
        f'{report["part"]}: {about["processor"]}, {about["cores"]} cores{load}{gpu}; '
        f'Python {about["python"]}, {versions}'
    ]
    for table in report['results'].get('tables', ()):
        lines = [table['title'], format_table(table['columns'], table['rows']), *table.get('notes', ())]
        blocks.append('\n'.join(lines))
    return '\n\n'.join(blocks)


def main(arguments: list[str] | None = None) -> int:
    args, module = parse_args(arguments)
    os.environ.setdefault('OMP_WAIT_POLICY', 'passive')  # threads that wait do not spin
    if args.json:
        try:
            check_out(args.json, (), 'a report of this tool', json_with('part', 'machine', 'results'), '--json')
        except OSError as error:
            print(f'error: {error}', file=sys.stderr)
            return 2
    start = time.monotonic()
    about = machine((*PACKAGES, *getattr(module, 'PACKAGES', ())), getattr(args, 'device', 'cpu'))
    try:
        results = module.run(args)
        report = dict(part=args.part, machine=about, seconds=time.monotonic() - start, results=results)
        print(render(report))
        if args.json:
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(report, indent=1) + '\n', encoding='utf-8')
            print(f'\nwrote {args.json}')
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
