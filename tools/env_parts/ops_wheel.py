"""mmcv with compiled ops, as a wheel in a cache outside the environment."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tools.env_parts.commands import CommandFailed, SetupError


def cache_folder(env: dict[str, str]) -> Path:
    if env.get('MIXEDAE_CACHE'):
        return Path(env['MIXEDAE_CACHE']).expanduser()
    if env.get('XDG_CACHE_HOME'):
        return Path(env['XDG_CACHE_HOME']).expanduser() / 'mixedae'
    return Path('~/.cache/mixedae').expanduser()


def wheel_key(mmcv: str, torch: str, tag: str, platform: str, accelerator: str = '') -> str:
    """Folder name of a compiled mmcv, e.g. `onedl-mmcv-2.3.6-torch-2.11.0-cp311-linux_x86_64`.

    Ops compiled for a GPU have its CUDA version and architecture at the end: `...-cu130-sm90`.
    """
    return '-'.join([f'onedl-mmcv-{mmcv}', f'torch-{torch}', tag, platform] + ([accelerator] if accelerator else []))


GPU_PROBE = """
import json, os, re, subprocess, torch
from importlib.metadata import version
from torch.utils.cpp_extension import CUDA_HOME
toolkit = ''
if CUDA_HOME:
    try:
        nvcc = [os.path.join(CUDA_HOME, 'bin', 'nvcc'), '--version']
        text = subprocess.run(nvcc, capture_output=True, text=True).stdout
        toolkit = re.search(r'release ([0-9.]+)', text)[1]
    except (OSError, TypeError):
        pass
gpu = torch.cuda.is_available()
print(json.dumps(dict(torch=version('torch'), cuda=torch.version.cuda or '', toolkit=toolkit, gpu=gpu,
    capability='.'.join(map(str, torch.cuda.get_device_capability())) if gpu else '')))
"""

# torch must come first: it loads the libraries that mmcv's extension is linked against
OPS_CHECK = """
import torch
from mmcv.ops import nms, roi_align
boxes = torch.tensor([[0., 0., 10., 10.], [1., 1., 10., 10.], [20., 20., 30., 30.]])
_, kept = nms(boxes, torch.tensor([.9, .8, .7]), .5)
assert kept.tolist() == [0, 2], kept
out = roi_align(torch.ones(1, 1, 8, 8), torch.tensor([[0., 0., 0., 4., 4.]]), (2, 2))
assert out.shape == (1, 1, 2, 2) and torch.allclose(out, torch.ones_like(out)), out
if {gpu}:
    _, kept = nms(boxes.cuda(), torch.tensor([.9, .8, .7]).cuda(), .5)
    assert kept.tolist() == [0, 2], kept
"""


def probe_gpu(python: Path, env: dict[str, str]) -> dict:
    """torch's version and CUDA version, the CUDA toolkit's version, and whether torch sees a GPU and which."""
    ended = subprocess.run(
        [python, '-c', GPU_PROBE], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd='/'
    )
    try:
        return json.loads(ended.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        last = (ended.stderr.strip().splitlines() or ['it printed nothing'])[-1]
        raise SetupError(f'the installed torch does not import ({last}): call this again with --recreate.') from None


def choose_target(probe: dict, choice: str, env: dict[str, str]) -> tuple[str, str]:
    """For what the ops are to be compiled: ('' for the CPU, or e.g. 'cu130-sm90'; the sentence that says so).

    Args:
        probe: what `probe_gpu` returned.
        choice: `auto`, `yes` or `no`, from the command line.

    Raises:
        SetupError: ops for a GPU are demanded and cannot be compiled here.
    """
    if choice == 'no':
        return '', 'for the CPU, as --cuda-ops no asks'
    forced = choice == 'yes' or env.get('FORCE_CUDA') == '1'
    if not probe['gpu'] and not forced:
        found = f'though CUDA toolkit {probe["toolkit"]} is here ' if probe['toolkit'] else ''
        return '', f'for the CPU: torch sees no GPU {found}(--cuda-ops yes compiles for one all the same)'
    if not probe['toolkit'] or probe['cuda'].split('.')[0] != probe['toolkit'].split('.')[0]:
        has = f'CUDA toolkit {probe["toolkit"]}' if probe['toolkit'] else 'no CUDA toolkit (nvcc)'
        needs = f'CUDA toolkit {probe["cuda"]}' if probe['cuda'] else 'to be a CUDA build'
        why = f'this torch needs {needs} and the machine has {has}'
        if forced:
            raise SetupError(f'ops for a GPU cannot be compiled: {why}; install what is missing or use --cuda-ops no.')
        return '', f'for the CPU ONLY, so detection and segmentation will not run on the GPU: {why}'
    arch = env.get('TORCH_CUDA_ARCH_LIST') or probe['capability']
    if not arch:
        raise SetupError('ops for a GPU that is not here need its architecture: set TORCH_CUDA_ARCH_LIST, e.g. 9.0.')
    short = re.sub(r'[^0-9A-Za-z]+', '_', arch.replace('.', '').strip())
    return f'cu{probe["cuda"].replace(".", "")}-sm{short}', f'for the GPU: CUDA {probe["cuda"]}, architecture {arch}'


def is_fault_of_wheel(error: CommandFailed) -> bool:
    """Whether a wheel that was found is itself to blame (other torch, cut short) and not, say, a full disk."""
    signs = r'_ext|undefined symbol|not a valid wheel|invalid wheel|BadZipFile|bad zip|corrupt|AssertionError'
    return error.returncode < 0 or re.search(signs, error.output, re.I) is not None


def cached_wheel(folder: Path) -> Path | None:
    wheels = sorted(folder.glob('*.whl'))
    return wheels[-1] if wheels else None


def build_progress(folder: Path) -> str:
    """How many objects of how many are compiled below `folder`: torch's builder lists them in build.ninja."""
    with contextlib.suppress(OSError):
        for plan in folder.rglob('build.ninja'):
            total = len(re.findall(r'^build \S+: (?:compile|cuda_compile)', plan.read_text(errors='replace'), re.M))
            done = sum(1 for _ in plan.parent.rglob('*.o'))
            if total:
                return f'{min(done, total)} of {total} files compiled'
    return ''


def build_wheel(python: Path, version: str, target: Path, env: dict[str, str], runner: Callable[..., None]) -> Path:
    """Compile mmcv into `target`/*.whl; `target` gets the finished wheel in one rename, or nothing."""
    wheels = target.parent
    wheels.mkdir(parents=True, exist_ok=True)
    for left in wheels.glob('.build-*'):  # of a build that was killed
        if time.time() - left.stat().st_mtime > 86400:
            shutil.rmtree(left, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix='.build-', dir=wheels))
    try:
        temp, out = work / 'tmp', work / 'out'
        temp.mkdir()
        command = [python, '-m', 'pip', 'wheel', '--no-cache-dir', '--no-deps', '--no-build-isolation']
        command += ['--no-binary', 'onedl-mmcv', '--wheel-dir', out, f'onedl-mmcv=={version}']
        # The ninja of requirements/build.txt lies beside the environment's Python.
        path = f'{Path(python).parent}{os.pathsep}{env.get("PATH", "")}'
        build_env = {**env, 'MMCV_WITH_OPS': '1', 'TMPDIR': str(temp), 'PATH': path}
        runner(command, env=build_env, progress=lambda: build_progress(temp))
        built = cached_wheel(out)
        if built is None:
            raise SetupError(f'building onedl-mmcv {version} left no wheel: call this again.')
        target.mkdir(parents=True, exist_ok=True)
        os.replace(built, target / built.name)  # same file system
        return target / built.name
    finally:
        shutil.rmtree(work, ignore_errors=True)
