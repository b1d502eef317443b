#!/usr/bin/env python3
"""Is the environment sound? One screen: what is there, what is missing or wrong, and the command that mends it.

    python tools/doctor.py           # a table, exit status 0 when all is sound and 1 when not
    python tools/doctor.py --json    # the same for programs

Any Python will do, also one without torch: every module is tried in a process of its own, so a broken one (ops of mmcv
that were compiled for another torch, say) is reported and takes nothing down. Looked at is the Python that runs this;
or the `.venv` of the checkout, where the running Python belongs to no environment and has no torch; or `--python`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
USES = {'pre-training': 'pretrain', 'detection': 'detection', 'segmentation': 'segmentation'}
ALL = ('pretrain', 'detection', 'segmentation')
TRANSFER = ('detection', 'segmentation')
TIMEOUT_SECONDS = 180
MARK = '@doctor@'


@dataclass(frozen=True)
class Part:
    """One thing that must work."""

    name: str
    module: str  # what is imported first
    needed_for: tuple[str, ...]
    lowest: tuple[int, ...]  # version
    below: tuple[int, ...]  # version that is too new, () for none known
    requirement: str  # what pip is asked for
    body: str  # tried after the import; sets `version` and `note`
    distributions: tuple[str, ...] = ()  # that provide the module; more than one of them is wrong


TORCH = """
import torch
version = torch.__version__
assert float((torch.ones(2, 2) @ torch.ones(2, 2)).sum()) == 8
built = f'CUDA {torch.version.cuda} build' if torch.version.cuda else 'CPU build'
if torch.cuda.is_available():
    assert float((torch.ones(2, 2).cuda() @ torch.ones(2, 2).cuda()).sum()) == 8
    note = f'{built}, {torch.cuda.device_count()} x {torch.cuda.get_device_name()}'
else:
    note = f'{built}, no GPU available'
"""
TORCHVISION = """
import torch, torchvision
version = torchvision.__version__
assert torchvision.ops.nms(torch.tensor([[0., 0., 4., 4.]]), torch.tensor([1.]), .5).tolist() == [0]
"""
PYCOCOTOOLS = """
import numpy, pycocotools.mask
from importlib.metadata import version as of
version = of('pycocotools')
assert int(pycocotools.mask.area(pycocotools.mask.encode(numpy.asfortranarray(numpy.eye(4, dtype='uint8'))))) == 4
"""
OPS = """
import torch, mmcv
from mmcv.ops import nms, roi_align
version = mmcv.__version__
boxes, scores = torch.tensor([[0., 0., 10., 10.], [1., 1., 10., 10.], [20., 20., 30., 30.]]), torch.tensor([.9, .8, .7])
for device in ['cpu', 'cuda'] if torch.cuda.is_available() else ['cpu']:
    kept = nms(boxes.to(device), scores.to(device), .5)[1].tolist()
    assert kept == [0, 2], f'nms kept {kept} on {device}'
    image, box = torch.ones(1, 1, 8, 8), torch.tensor([[0., 0., 0., 4., 4.]])
    pooled = roi_align(image.to(device), box.to(device), (2, 2))
    assert pooled.tolist() == [[[[1., 1.], [1., 1.]]]], f'roi_align gave {pooled.tolist()} on {device}'
note = 'nms and roi_align ran on ' + device
"""
PARTS = (
    Part('torch', 'torch', ALL, (2, 1), (), 'torch>=2.1', TORCH),
    Part('torchvision', 'torchvision', ALL, (0, 16), (), 'torchvision>=0.16', TORCHVISION),
    Part('timm', 'timm', ALL, (0, 9, 16), (), 'timm>=0.9.16', 'import timm; version = timm.__version__'),
    Part('pycocotools', 'pycocotools', ALL, (2, 0), (), 'pycocotools', PYCOCOTOOLS),
    Part('mmengine', 'mmengine', ALL, (0, 10), (1,), 'onedl-mmengine>=0.10.8,<0.11',
         'import mmengine.runner; version = mmengine.__version__', ('onedl-mmengine', 'mmengine', 'mmengine-lite')),
    Part('mixedae', 'mixedae', ALL, (0,), (), '-e .',
         'import mixedae, object_aware; version = getattr(mixedae, "__version__", "")'),
    Part('mmcv', 'mmcv', TRANSFER, (2, 0), (3,), 'onedl-mmcv>=2.3,<2.4', 'import mmcv; version = mmcv.__version__',
         ('onedl-mmcv', 'mmcv', 'mmcv-lite', 'mmcv-full')),
    Part('mmcv ops', 'mmcv', TRANSFER, (2, 0), (3,), 'onedl-mmcv>=2.3,<2.4', OPS),
    Part('mmdet', 'mmdet', ('detection',), (3, 3), (4,), 'onedl-mmdetection>=3.4,<3.6',
         'import mmdet.apis, mmdet.models, mmdet.datasets, mmdet.evaluation; version = mmdet.__version__',
         ('onedl-mmdetection', 'mmdet')),
    Part('mmseg', 'mmseg', ('segmentation',), (1, 2), (2,), 'onedl-mmsegmentation>=1.3,<1.5',
         'import mmseg.apis, mmseg.models, mmseg.datasets, mmseg.evaluation; version = mmseg.__version__',
         ('onedl-mmsegmentation', 'mmsegmentation')),
)  # fmt: skip

# The process that tries one part. What it finds stands behind MARK, since imports print what they like.
TRIAL = """
import importlib.util, json, sys, warnings
from importlib import metadata
warnings.simplefilter('ignore')
found, version, note = {{}}, '', ''
installed = []
for name in {distributions!r}:
    try:
        installed.append([name, metadata.version(name)])
    except metadata.PackageNotFoundError:
        pass
found['installed'] = installed
try:
    if importlib.util.find_spec({module!r}) is None:
        found['missing'] = True
    else:
        scope = dict(version='', note='')
        exec({body!r}, scope)
        found.update(version=str(scope['version']), note=scope['note'])
except BaseException as error:
    found.update(error=type(error).__name__, message=str(error), needs=getattr(error, 'name', None) or '')
print('\\n' + {mark!r} + json.dumps(found))
"""


@dataclass
class Check:
    """What was found of one part; `status` is ok, missing, wrong or note (worth knowing, harms nothing)."""

    name: str
    status: str
    version: str = ''
    detail: str = ''
    mend: str = ''
    needed_for: tuple[str, ...] = field(default=())


# --- trying ---------------------------------------------------------------------------------------------------------


def try_part(python: str, part: Part) -> dict:
    """Import and run `part` in a process of `python`: what TRIAL printed, or {'crash': ...} where it got not so far."""
    code = TRIAL.format(distributions=part.distributions, module=part.module, body=part.body, mark=MARK)
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONDONTWRITEBYTECODE': '1'}
    with tempfile.TemporaryDirectory() as elsewhere:  # or the checkout's folders would pass for installed modules
        try:
            ended = subprocess.run(
                [python, '-c', code],
                cwd=elsewhere,
                env=env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors='replace',
                timeout=TIMEOUT_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return {'crash': f'did not end within {TIMEOUT_SECONDS} s'}
        except OSError as error:
            return {'crash': f'{python} does not start: {error.strerror}'}
    for line in reversed(ended.stdout.splitlines()):
        if line.startswith(MARK):
            return json.loads(line[len(MARK) :])
    last = (ended.stderr.strip().splitlines() or [''])[-1]
    how = f'ended by signal {-ended.returncode}' if ended.returncode < 0 else f'ended with status {ended.returncode}'
    return {'crash': f'{how} {last[:160]}'.strip()}


def parse_version(text: str) -> tuple[int, ...]:
    """(2, 11, 0) of `2.11.0+cu130`, (2, 0, 0) of `2.0.0rc4`."""
    match = re.match(r'\d+(\.\d+)*', text)
    return tuple(int(number) for number in match[0].split('.')) if match else ()


# --- judging --------------------------------------------------------------------------------------------------------

# Modules whose distribution has another name.
DISTRIBUTION = {
    'cv2': 'opencv-python-headless',
    'imgaug': 'imaug',
    'PIL': 'pillow',
    'yaml': 'pyyaml',
    'skimage': 'scikit-image',
    'sklearn': 'scikit-learn',
    'google': 'protobuf',
}


def describe_error(part: Part, found: dict) -> str:
    """One line for an import or a run that failed."""
    message = found.get('message') or found.get('crash') or ''
    first = message.strip().splitlines()[0][:200] if message.strip() else found.get('error', '')
    if part.name == 'mmcv ops':
        if re.search(r"No module named 'mmcv\._ext'", message):
            return 'mmcv was installed without its compiled ops'
        if 'undefined symbol' in message:
            return f'the ops were compiled for another torch than the one installed ({first})'
        if re.search(r'lib(c10|torch|cudart)\S*: cannot open', message):
            return f'the ops were compiled for another torch or CUDA ({first})'
        if 'crash' in found:
            return f'the ops crash, most likely compiled for another torch ({first})'
        if re.search(r'not compiled with (GPU|CUDA)|device type cuda|implementation for device cuda', message, re.I):
            return f'the ops were compiled without GPU support, but torch has a GPU ({first})'
    if 'libGL' in message:
        return f'OpenCV needs a library of the desktop that is not here ({first})'
    if found.get('error') == 'ModuleNotFoundError' and found.get('needs'):
        return f'needs the module {found["needs"]}, which is not installed'
    if found.get('error') == 'AssertionError':
        return f'works, but wrongly: {first}' if message else 'works, but computes a wrong result'
    return first if 'crash' in found else f'{found.get("error", "")}: {first}'


@dataclass(frozen=True)
class Advice:
    """The commands that mend the Python looked at: the checkout's own environment has one for all."""

    python: str
    checkout_venv: bool  # the Python looked at is that of the checkout's .venv
    stock: bool = False  # the stock mm distributions are in use, not the maintained forks

    def install(self, requirement: str) -> str:
        if self.checkout_venv:
            return 'make env ENV_FLAGS=--force'
        if requirement == '-e .':
            return f'{self.python} -m pip install --no-deps -e {ROOT}'
        if self.stock:
            stock = {'onedl-mmengine': 'mmengine>=0.10,<0.11', 'onedl-mmcv': 'mmcv>=2.0.0rc4,<2.2'}
            stock |= {'onedl-mmdetection': 'mmdet>=3.3,<3.4', 'onedl-mmsegmentation': 'mmsegmentation>=1.2.2,<1.3'}
            requirement = stock.get(re.split(r'[<>=]', requirement)[0], requirement)
        return f"{self.python} -m pip install '{requirement}'"

    def compile_ops(self, again: bool = True) -> str:
        """`again`: over an mmcv that is there, whose dependencies are there as well."""
        if self.checkout_venv:
            return 'make env ENV_FLAGS=--force'
        name, wanted = ('mmcv', 'mmcv>=2.0.0rc4,<2.2') if self.stock else ('onedl-mmcv', 'onedl-mmcv>=2.3,<2.4')
        options = f'--no-cache-dir --no-build-isolation --no-binary {name}'
        options += ' --no-deps --force-reinstall' if again else ''
        return f"MMCV_WITH_OPS=1 {self.python} -m pip install {options} '{wanted}'"

    def leave_one(self, names: list[str]) -> str:
        keep = names[0]
        gone = ' '.join(names)
        return f'{self.python} -m pip uninstall -y {gone} && {self.python} -m pip install --no-deps {keep}'


def judge(part: Part, found: dict, advice: Advice, absent: set[str]) -> Check:
    """The verdict on what `try_part` found. `absent`: modules known to be missing, which are told of elsewhere."""

    def check(status: str, detail: str = '', mend: str = '') -> Check:
        return Check(part.name, status, found.get('version', ''), detail, mend, part.needed_for)

    names = [name for name, _ in found.get('installed', [])]
    if len(names) > 1:
        return check('wrong', f'provided by two distributions at once: {", ".join(names)}', advice.leave_one(names))
    if found.get('missing'):
        if part.name == 'mmcv ops':
            return check('missing', 'come with mmcv')
        mend = advice.compile_ops(again=False) if part.module == 'mmcv' else advice.install(part.requirement)
        return check('missing', 'not installed', mend)
    if 'error' in found or 'crash' in found:
        needs = found.get('needs', '').split('.')[0]
        if needs in absent and needs != part.module:
            return check('wrong', f'waits for {needs}')
        mend = advice.compile_ops() if part.module == 'mmcv' else advice.install(part.requirement)
        if found.get('error') == 'ModuleNotFoundError' and needs and needs != part.module:
            mend = advice.install(DISTRIBUTION.get(needs, needs))
        elif 'libGL' in found.get('message', ''):
            mend = f'{advice.python} -m pip uninstall -y opencv-python && '
            mend += f'{advice.python} -m pip install --force-reinstall --no-deps opencv-python-headless'
        return check('wrong', describe_error(part, found), mend)
    version = parse_version(found['version'])
    if version and version < part.lowest:
        wanted = '.'.join(map(str, part.lowest))
        return check('wrong', f'too old, {wanted} or newer is needed', advice.install(part.requirement))
    if version and part.below and version >= part.below:
        limit = '.'.join(map(str, part.below))
        return check('wrong', f'too new, a version below {limit} is needed', advice.install(part.requirement))
    return check('ok', found.get('note', ''))


def judge_python(version: tuple[int, ...]) -> Check:
    text = '.'.join(map(str, version))
    if version < (3, 10):
        return Check('python', 'wrong', text, '3.10 or newer is needed', 'make env', ALL)
    return Check(
        'python', 'ok', text, '' if version[:2] == (3, 11) else 'the pinned versions were tested on 3.11', '', ALL
    )


def judge_machine(free_disk: float, memory: float, cores: int) -> Check:
    """GiB free where the work is done, GiB of memory, cores: told, and a hint where one of them is little."""
    text = f'{free_disk:.0f} GiB of disk free, {memory:.0f} GiB of memory, {cores} cores'
    little = [what for what, low in (('disk', free_disk < 5), ('memory', 0 < memory < 6)) if low]
    if little:
        return Check('machine', 'note', '', f'{text}: little {" and ".join(little)} for the demo')
    return Check('machine', 'ok', '', text)


def what_it_can(checks: list[Check]) -> dict[str, list[str]]:
    """{use: the parts that stand in its way}: an empty list means yes."""
    bad = [check for check in checks if check.status in ('missing', 'wrong')]
    return {use: [check.name for check in bad if key in check.needed_for] for use, key in USES.items()}


# --- the environment that is looked at ------------------------------------------------------------------------------


def choose_python(wanted: str | None) -> str:
    """`wanted`, or the Python that runs this, or the checkout's .venv where the running one is a bare one."""
    if wanted:
        return shutil.which(wanted) or wanted
    own = ROOT / '.venv' / ('Scripts/python.exe' if os.name == 'nt' else 'bin/python')
    in_environment = sys.prefix != sys.base_prefix or bool(os.environ.get('CONDA_PREFIX'))
    if in_environment or not own.exists():
        return sys.executable
    ended = subprocess.run(
        [sys.executable, '-c', 'import importlib.util as u; assert u.find_spec("torch")'], stderr=subprocess.DEVNULL
    )
    return sys.executable if ended.returncode == 0 else str(own)


def describe_python(python: str) -> tuple[tuple[int, ...], str]:
    """Version and prefix of `python`.

    Raises:
        ValueError: it does not start.
    """
    code = 'import json, sys; print(json.dumps([sys.version_info[:3], sys.prefix]))'
    try:
        ended = subprocess.run(
            [python, '-c', code], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
        )
        version, prefix = json.loads(ended.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        raise ValueError(f'{python} is not a Python that starts: make the environment with `make env`.') from None
    return tuple(version), prefix


def total_memory() -> float:
    try:
        return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30
    except (AttributeError, ValueError, OSError):
        return 0.0


def examine(python: str) -> Iterator[Check]:
    """All checks, in the order of the table, each as soon as it is known."""
    version, prefix = describe_python(python)
    yield judge_python(version)
    checkout_venv = Path(prefix).resolve() == (ROOT / '.venv').resolve() and (ROOT / 'tools/setup_env.py').exists()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    absent: set[str] = set()
    stock = False
    with ThreadPoolExecutor(max(1, min(4, cores))) as pool:
        for part, found in zip(PARTS, pool.map(lambda part: try_part(python, part), PARTS)):
            if found.get('missing'):
                absent.add(part.module)
            stock = stock or any(name in ('mmengine', 'mmcv') for name, _ in found.get('installed', []))
            yield judge(part, found, Advice(python, checkout_venv, stock), absent)
    yield judge_machine(shutil.disk_usage(Path.cwd()).free / 2**30, total_memory(), cores)


# --- telling --------------------------------------------------------------------------------------------------------


def row(check: Check) -> str:
    text = ', '.join(part for part in (check.version, check.detail) if part)
    lines = [f'  {check.status:<8} {check.name:<12} {text}'.rstrip()]
    if check.mend:
        lines.append(f'  {"":<8} {"":<12} mend: {check.mend}')
    return '\n'.join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--python', help='the Python to look at')
    parser.add_argument('--json', action='store_true', help='for programs')
    parser.add_argument(
        '--need', choices=list(USES), action='append', help='exit status 0 already when this works; default: all three'
    )
    args = parser.parse_args(argv)
    python = choose_python(args.python)
    checks: list[Check] = []
    try:
        if not args.json:
            print(f'environment: {python}', flush=True)
        for check in examine(python):
            checks.append(check)
            if not args.json:
                print(row(check), flush=True)
    except ValueError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    can = what_it_can(checks)
    sound = all(not can[use] for use in (args.need or USES))
    if args.json:
        answer = {use: not missing for use, missing in can.items()}
        print(json.dumps(dict(python=python, sound=sound, can=answer, checks=[asdict(c) for c in checks]), indent=2))
        return 0 if sound else 1
    print()
    for use, missing in can.items():
        print(f'  {use:<13}' + (f'no: {", ".join(missing)}' if missing else 'yes'))
    if not sound and (ROOT / 'tools/setup_env.py').exists() and Path(python).parent.parent != ROOT / '.venv':
        print('\n  The tested environment: make env')
    return 0 if sound else 1


if __name__ == '__main__':
    sys.exit(main())
