"""What a run ran on, written next to it: versions, devices, the state of the code, seed and config."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from mmengine.runner import Runner

from mixedae.engine.files import write_text

PACKAGES = ('torch', 'torchvision', 'timm', 'numpy', 'pillow', 'mmengine', 'mmcv', 'mmdet', 'mmsegmentation')
DISTRIBUTIONS = {'mmengine': 'onedl-mmengine', 'mmcv': 'onedl-mmcv', 'mmdet': 'onedl-mmdetection'}
DISTRIBUTIONS['mmsegmentation'] = 'onedl-mmsegmentation'
VARIABLES = (
    'OMP_NUM_THREADS',
    'CUDA_VISIBLE_DEVICES',
    'WORLD_SIZE',
    'SLURM_JOB_ID',
    'SLURM_JOB_NODELIST',
    'NCCL_DEBUG',
)


def describe_environment() -> dict[str, Any]:
    """Versions, devices and the state of the code, as plain values."""
    return dict(
        command=sys.argv,
        python=sys.version,
        system=platform.platform(),
        host=platform.node(),
        packages=versions(),
        devices=devices(),
        threads=torch.get_num_threads(),
        variables={name: os.environ[name] for name in VARIABLES if name in os.environ},
        git=git_state(Path(__file__).parent),
    )


def versions() -> dict[str, str]:
    """Versions of the installed packages that matter."""
    found = {}
    for name in PACKAGES:
        for distribution in (name, DISTRIBUTIONS.get(name)):
            if distribution is None:
                continue
            try:
                found[distribution] = importlib.metadata.version(distribution)
            except importlib.metadata.PackageNotFoundError:
                continue
    return found


def devices() -> list[str]:
    """Names of the GPUs, with their memory; else the CPU."""
    if not torch.cuda.is_available():
        return [f'{platform.machine()}, {os.cpu_count()} cores']
    properties = [torch.cuda.get_device_properties(k) for k in range(torch.cuda.device_count())]
    return [f'{p.name}, {p.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}' for p in properties]


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit, changed files and a digest of the changes of the checkout that a folder is in; None without git."""

    def git(*arguments: str) -> bytes:
        return subprocess.run(
            ['git', '-C', str(folder), *arguments], capture_output=True, check=True, timeout=30
        ).stdout

    try:
        top = git('rev-parse', '--show-toplevel').decode().strip()
        commit = git('rev-parse', 'HEAD').decode().strip()
        changes = git('-C', top, 'diff', 'HEAD')
        listed = git('-C', top, 'status', '--porcelain', '--untracked-files=normal').decode().splitlines()
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(
        commit=commit,
        changed=listed,
        changes_sha256=hashlib.sha256(changes).hexdigest() if changes else None,
    )


def write_environment(runner: Runner) -> Path:
    """Writes ``environment.json`` and the full ``config.py`` into the folder of this start of the run."""
    folder = Path(runner.log_dir)
    folder.mkdir(parents=True, exist_ok=True)
    content = describe_environment()
    content.update(
        seed=runner.seed,
        randomness=dict(runner._randomness_cfg),
        world_size=runner.world_size,
        resumed_from=getattr(runner, 'resumed_from', None),
    )
    write_text(folder / 'environment.json', json.dumps(content, indent=2, default=str) + '\n')
    write_text(folder / 'config.py', runner.cfg.pretty_text)
    return folder / 'environment.json'
