"""What the machine has: Pythons, cores, memory, disk, a compiler."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tools.env_parts.commands import SetupError

PYTHON_RANGE = ((3, 11), (3, 13))  # the pinned numpy needs 3.11; the pins were only run on 3.11
COMPILER_GIB = 2  # memory of one compiler process on torch's headers, rounded up


@dataclass(frozen=True)
class Interpreter:
    path: str
    version: tuple  # (3, 11, 7)
    tag: str  # cp311
    platform: str  # linux_x86_64
    has_venv: bool  # can make virtual environments
    has_pip: bool
    header: str  # path of Python.h, there or not

    @property
    def short(self) -> str:
        return f'python{self.version[0]}.{self.version[1]}'


PROBE = """
import importlib.util, json, os, sys, sysconfig
try:
    import ensurepip, venv
    has_venv = True
except ImportError:
    has_venv = False
print(json.dumps([sys.executable, sys.version_info[:3], 'cp%d%d' % sys.version_info[:2],
    sysconfig.get_platform().replace('-', '_').replace('.', '_'), has_venv,
    importlib.util.find_spec('pip') is not None, os.path.join(sysconfig.get_paths()['include'], 'Python.h')]))
"""


def probe_interpreter(path: str) -> Interpreter | None:
    """What the Python at `path` is, or None where there is none that starts."""
    try:
        out = subprocess.run(
            [path, '-I', '-c', PROBE], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
        )
        executable, version, tag, platform, has_venv, has_pip, header = json.loads(out.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return Interpreter(executable, tuple(version), tag, platform, has_venv, has_pip, header)


def version_fits(version: tuple) -> bool:
    return PYTHON_RANGE[0] <= tuple(version[:2]) <= PYTHON_RANGE[1]


def choose_interpreter(wanted: str | None) -> Interpreter:
    """The Python to build on: `wanted`, or the best of python3.11, python3.12, python3.13, python3 and this one."""
    lowest, highest = ('.'.join(map(str, end)) for end in PYTHON_RANGE)
    if wanted:
        found = probe_interpreter(shutil.which(wanted) or wanted)
        if found is None:
            raise SetupError(f'--python {wanted} is not a Python that starts: give the path of one.')
        if not version_fits(found.version):
            raise SetupError(
                f'{wanted} is Python {".".join(map(str, found.version))}, but the pinned packages need {lowest} to '
                f'{highest}: give another one with --python.'
            )
        return found
    minors = range(PYTHON_RANGE[0][1], PYTHON_RANGE[1][1] + 1)
    names = [*(f'python3.{minor}' for minor in minors), 'python3']
    for path in [shutil.which(name) for name in names] + [sys.executable]:
        found = probe_interpreter(path) if path else None
        if found and version_fits(found.version):
            return found
    raise SetupError(
        f'no Python {lowest} to {highest} found (this one is {sys.version.split()[0]}): install python{lowest} '
        f'(Debian/Ubuntu: apt-get install python{lowest}-venv python{lowest}-dev) or give one with --python.'
    )


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def memory_gib() -> float:
    """Memory that may be used: of the machine, or of the container where that is less."""
    limits = []
    with contextlib.suppress(OSError, ValueError, AttributeError):
        limits.append(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES'))
    for file in ('/sys/fs/cgroup/memory.max', '/sys/fs/cgroup/memory/memory.limit_in_bytes'):
        with contextlib.suppress(OSError, ValueError):
            limits.append(int(Path(file).read_text()))
    return min(limits) / 2**30 if limits else 4.0


def job_count(cores: int, memory: float, env: dict[str, str]) -> int:
    """Compiler processes at once: one a core, COMPILER_GIB of memory each; MAX_JOBS overrules."""
    if env.get('MAX_JOBS', '').isdigit() and int(env['MAX_JOBS']) > 0:
        return int(env['MAX_JOBS'])
    return max(1, min(cores, int(memory // COMPILER_GIB)))


def free_gib(folder: Path) -> float:
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free / 2**30


def child_environment(env: dict[str, str]) -> dict[str, str]:
    """`env` without what would send pip or Python to another environment than the one that is being made."""
    drop = {'VIRTUAL_ENV', 'PYTHONPATH', 'PYTHONHOME', 'PYTHONSTARTUP', '__PYVENV_LAUNCHER__', 'CONDA_PREFIX'}
    drop |= {'PIP_USER', 'PIP_TARGET', 'PIP_PREFIX', 'PIP_ROOT', 'PIP_REQUIRE_VIRTUALENV', 'PIP_PYTHON'}
    drop |= {'PIP_CONSTRAINT', 'PIP_REQUIREMENT', 'PIP_NO_BINARY', 'PIP_ONLY_BINARY', 'PIP_UPGRADE'}
    kept = {name: value for name, value in env.items() if name not in drop}
    return {**kept, 'PYTHONNOUSERSITE': '1', 'PIP_NO_INPUT': '1', 'PIP_DISABLE_PIP_VERSION_CHECK': '1'}


def check_disk(folder: Path, needed: float, hint: str) -> None:
    free = free_gib(folder)
    if free < needed:
        raise SetupError(
            f'{free:.1f} GiB are free where {folder} lies and {needed:g} are needed: free some space or choose another '
            f'place with {hint}.'
        )


def check_venv_module(base: Interpreter) -> None:
    if not base.has_venv:
        raise SetupError(
            f'{base.path} cannot make virtual environments: install its venv module (Debian/Ubuntu: apt-get install '
            f'{base.short}-venv) or give another Python with --python.'
        )


def check_compiler(base: Interpreter, env: dict[str, str]) -> None:
    compiler = (env.get('CXX') or 'g++').split()[0]
    if not shutil.which(compiler, path=env.get('PATH')):
        raise SetupError(
            f"mmcv's ops need a C++ compiler and {compiler} is not there: install it (Debian/Ubuntu: apt-get install "
            'g++), or use --no-ops for pre-training alone.'
        )
    if not Path(base.header).exists():
        raise SetupError(
            f"mmcv's ops need Python's headers and {base.header} is not there: install them (Debian/Ubuntu: apt-get "
            f'install {base.short}-dev), or use --no-ops for pre-training alone.'
        )
