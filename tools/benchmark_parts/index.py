"""Building and opening a crop index of a large corpus: time by the clock, CPU time and peak memory of all processes.

    python tools/benchmark.py index
    python tools/benchmark.py index --scales coco --fraction 0.1

The annotations are drawn at random (``object_aware/synthetic_annotations.py``), with the counts of COCO train2017
(118,287 images, 860,001 objects with polygons) and of Objects365 (2 million images, 30 million boxes). They are kept in
``--folder``, so that a second run finds them. No image is read, so none need be there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SCALES = {  # name: images, objects, masks, classes
    'coco': (118_287, 860_001, True, 80),
    'objects365': (2_000_000, 30_000_000, False, 365),
}
PACKAGES = ('msgspec', 'pycocotools')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--scales', nargs='+', choices=tuple(SCALES), default=list(SCALES), help='default: both')
    parser.add_argument('--fraction', type=float, default=1.0, help='of those images and objects (default: all)')
    parser.add_argument('--workers', type=int, help='processes (default: the cores of this machine)')
    parser.add_argument(
        '--folder', type=Path, default=ROOT / 'work_dirs' / 'benchmark', help='for annotations and indexes'
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    from object_aware.parallel import usable_cores
    from object_aware.progress import Progress, clock
    from object_aware.synthetic_annotations import write_annotations

    if not 0 < args.fraction <= 1:
        raise ValueError(f'--fraction must be above 0 and at most 1, not {args.fraction}.')
    workers = args.workers or usable_cores()
    rows, figures = [], {}
    for name in args.scales:
        images, objects, masks, classes = SCALES[name]
        images, objects = max(1, round(images * args.fraction)), max(1, round(objects * args.fraction))
        file = args.folder / f'{name}_{images}_{objects}.json'
        if not file.is_file():
            progress = Progress(f'writing {file.name}: objects')
            write_annotations(file, images=images, objects=objects, masks=masks, classes=classes, progress=progress)
        index_file = args.folder / f'{name}_{images}_{objects}.safetensors'
        built = _in_process('build', file, index_file, workers)
        opened = _in_process('open', index_file)
        figures[name] = dict(images=images, objects=objects, build=built, open=opened)
        rows.append(
            [
                name,
                f'{images:,}',
                f'{objects:,}',
                f'{file.stat().st_size / 1e6:,.0f}',
                clock(built['wall']),
                clock(built['cpu']),
                f'{built["peak"] / 2**20:,.0f}',
                f'{built["crops"]:,}',
                f'{index_file.stat().st_size / 1e6:,.0f}',
                f'{1000 * opened["seconds"]:.0f}',
                f'{1000 * opened["verified_seconds"]:.0f}',
            ]
        )
    columns = [
        'corpus', 'images', 'objects', 'json MB', 'build', 'CPU time', 'peak MiB', 'crops', 'index MB', 'open ms',
        'verify ms',
    ]  # fmt: skip
    notes = [
        f'{workers} workers; build: read, decide, write. CPU time of all processes. Peak: memory of all processes '
        'together, shared pages once (PSS), every 0.2 s.',
        'open: map the file and draw one window; verify: read all of it and compare its checksums.',
    ]
    return dict(
        tables=[dict(title='Building and opening a crop index', columns=columns, rows=rows, notes=notes)],
        figures=figures,
    )


def _in_process(*arguments: Any) -> dict[str, Any]:
    """Run this file in a fresh process; its figures, with the peak memory of it and all its children."""
    command = [sys.executable, str(Path(__file__).resolve()), *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    memory = PeakMemory(process.pid)
    memory.start()
    text, _ = process.communicate()
    memory.stop()
    if process.returncode:
        raise ValueError(f'{" ".join(command)} ended with exit code {process.returncode}.')
    return {**json.loads(text.splitlines()[-1]), 'peak': memory.peak}


class PeakMemory(threading.Thread):
    """Samples the memory of a process and its children until stopped (Linux).

    Attributes:
        peak: largest proportional set size in bytes; 0 where the system does not tell.
    """

    def __init__(self, pid: int, interval: float = 0.2) -> None:
        super().__init__(daemon=True)
        self.pid, self.interval, self.peak = pid, interval, 0
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self._stopped.wait(self.interval):
            self.peak = max(self.peak, sum(proportional_set_size(pid) for pid in family(self.pid)))

    def stop(self) -> None:
        self._stopped.set()
        self.join()


def family(pid: int) -> list[int]:
    """A process and its children, children's children, ..."""
    found = [pid]
    for known in found:
        try:
            for thread in Path(f'/proc/{known}/task').iterdir():
                found += [int(child) for child in (thread / 'children').read_text().split()]
        except (OSError, ValueError):
            continue
    return found


def proportional_set_size(pid: int) -> int:
    """Memory of a process in bytes; pages that n processes share count 1/n."""
    try:
        text = Path(f'/proc/{pid}/smaps_rollup').read_text()
        return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith('Pss:'))
    except (OSError, StopIteration):
        return 0


def _build(annotations: str, index_file: str, workers: str) -> dict[str, Any]:
    import resource

    from object_aware.building import build_crop_index
    from object_aware.parallel import usable_cores
    from object_aware.progress import Progress
    from object_aware.scenes import read_scenes

    start = time.perf_counter()
    scenes = read_scenes(
        [(annotations, os.path.dirname(annotations))],
        check_files=False,
        workers=int(workers),
        progress=lambda what: Progress(what, unit='MB', scale=1e6),
    )
    read = time.perf_counter() - start
    index = build_crop_index(scenes, 224, progress=Progress('objects'), workers=int(workers))
    index.save(index_file)
    wall = time.perf_counter() - start
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(u.ru_utime + u.ru_stime for u in usage)
    return dict(wall=wall, read=read, cpu=cpu, crops=len(index), reasons=index.reason_counts(), cores=usable_cores())


def _open(index_file: str) -> dict[str, Any]:
    import numpy as np

    from object_aware.index import CropIndex

    CropIndex.load(index_file, verify=False).draw(0, np.random.default_rng(0))  # loads the compiled code
    start = time.perf_counter()
    index = CropIndex.load(index_file, verify=False)
    index.draw(len(index) - 1, np.random.default_rng(0))
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    CropIndex.load(index_file, verify=True)
    return dict(seconds=seconds, verified_seconds=time.perf_counter() - start)


if __name__ == '__main__':
    sys.path.insert(0, str(ROOT))
    print(json.dumps({'build': _build, 'open': _open}[sys.argv[1]](*sys.argv[2:])))
