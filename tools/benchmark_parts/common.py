"""What all benchmarks share: interleaved repeats, medians with their spread, the machine, tables."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any


@dataclass(frozen=True)
class Timing:
    """Repeats of one contender.

    Attributes:
        wall, cpu: seconds of each repeat: by the clock, and of this process on its cores.
        work: units of work in one repeat (crops, images, steps).
    """

    wall: tuple[float, ...]
    cpu: tuple[float, ...]
    work: float = 1.0

    @property
    def rate(self) -> float:
        """Units of work per second of one core: by the median CPU time, which a shared machine disturbs least."""
        return self.work / statistics.median(self.cpu)

    @property
    def wall_rate(self) -> float:
        """Units of work per second by the clock (median)."""
        return self.work / statistics.median(self.wall)

    def as_dict(self) -> dict[str, Any]:
        return dict(wall=list(self.wall), cpu=list(self.cpu), work=self.work, rate=self.rate, wall_rate=self.wall_rate)


def interleave(
    contenders: Mapping[str, Callable[[], Any]],
    repeats: int,
    progress: Callable[[int, int], None] | None = None,
    *,
    warmup: int = 1,
    finish: Callable[[], Any] | None = None,
) -> dict[str, Timing]:
    """Time several ways of doing the same, in turns, so that a change of the machine's load hits all of them alike.

    Args:
        contenders: name → function that does the work once and returns its units of work (what is no number counts
            as 1).
        repeats: how often each is timed.
        progress: called with (runs done, runs in all).
        warmup: runs of each that go before.
        finish: called before each look at the clock, e.g. to wait for a GPU.
    """
    if repeats < 1:
        raise ValueError(f'repeats must be at least 1, not {repeats}.')
    names = list(contenders)
    walls: dict[str, list[float]] = {name: [] for name in names}
    cpus: dict[str, list[float]] = {name: [] for name in names}
    work = dict.fromkeys(names, 1.0)
    done = 0
    finish = finish or (lambda: None)
    for turn in range(warmup + repeats):
        order = names[turn % len(names) :] + names[: turn % len(names)]  # nobody always goes first
        for name in order:
            finish()
            wall, cpu = time.perf_counter(), time.process_time()
            units = contenders[name]()
            finish()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if isinstance(units, Real):
                work[name] = float(units)
            if turn >= warmup:
                walls[name].append(wall)
                cpus[name].append(cpu)
            done += 1
            if progress is not None:
                progress(done, len(names) * (warmup + repeats))
    return {name: Timing(tuple(walls[name]), tuple(cpus[name]), work[name]) for name in names}


def ratio(fast: Timing, slow: Timing) -> tuple[float, float, float]:
    """(median, lower, upper quartile) of how many times more work per CPU second ``fast`` does, repeat by repeat."""
    ratios = sorted((s / slow.work) / (f / fast.work) for f, s in zip(fast.cpu, slow.cpu))
    if len(ratios) < 2:
        return ratios[0], ratios[0], ratios[0]
    low, middle, high = statistics.quantiles(ratios, n=4, method='inclusive')
    return middle, low, high


def machine(packages: Sequence[str] = (), device: str = 'cpu') -> dict[str, Any]:
    """Processor, cores, load, GPU, Python, and the versions of installed distributions (those that are there).

    Args:
        packages: names of distributions.
        device: what is measured on; a GPU is described, see :func:`gpu`.
    """
    model = platform.processor() or platform.machine()
    try:
        with open('/proc/cpuinfo', encoding='utf-8') as file:
            model = next(line.split(':', 1)[1].strip() for line in file if line.startswith('model name'))
    except (OSError, StopIteration):
        pass
    versions = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    return dict(
        processor=model,
        cores=cores,
        load=[round(load, 2) for load in os.getloadavg()] if hasattr(os, 'getloadavg') else None,
        gpu=gpu(device) if device.startswith('cuda') else None,
        system=platform.platform(),
        python=platform.python_version(),
        versions=versions,
    )


def gpu(device: str) -> dict[str, Any] | None:
    """Name, compute capability, bytes of memory, CUDA version and driver of a GPU; None where PyTorch finds none."""
    import torch

    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(device)
    return dict(
        name=properties.name,
        capability=f'{properties.major}.{properties.minor}',
        memory=properties.total_memory,
        cuda=torch.version.cuda,
        driver=driver(),
    )


def driver() -> str | None:
    """Version of NVIDIA's driver; None where nvidia-smi does not say."""
    try:
        command = ['nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader']
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return None
    return said[0] if said else None


def describe_gpu(about: Mapping[str, Any]) -> str:
    """A GPU as :func:`gpu` gives it, for people."""
    text = f'{about["name"]}, compute {about["capability"]}, {about["memory"] / 2**30:.0f} GiB, CUDA {about["cuda"]}'
    return text if about['driver'] is None else f'{text}, driver {about["driver"]}'


def format_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Text table: the first column left-aligned, the others right-aligned."""
    cells = [[str(cell) for cell in row] for row in (columns, *rows)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(columns))]
    lines = [
        '  '.join(
            cell.ljust(width) if k == 0 else cell.rjust(width) for k, (cell, width) in enumerate(zip(row, widths))
        )
        for row in cells
    ]
    return '\n'.join([lines[0], '-' * len(lines[0]), *lines[1:]])
