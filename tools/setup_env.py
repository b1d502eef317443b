#!/usr/bin/env python3
"""Make the virtual environment of this checkout: pinned packages, mmcv's ops compiled once, the project linked in.

    python3 tools/setup_env.py             # everything: pre-training, detection, segmentation
    python3 tools/setup_env.py --no-ops    # pre-training alone: compiles nothing

Needs nothing but a Python (3.9 or newer) to run; the environment itself is made with Python 3.11 to 3.13. A second call
finds the stamp of the first and ends at once. A call that was cut short is taken up at the step that it had reached.

The compiled mmcv is kept as a wheel outside the environment, in `$MIXEDAE_CACHE/wheels/<key>/` (by default
`~/.cache/mixedae`); the key names the versions of mmcv, torch and Python and the platform, so one build serves every
checkout on the machine and no environment ever gets ops that were compiled for another torch.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

if sys.version_info < (3, 9):  # noqa: UP036 -- told to whoever calls it with the system's old Python
    sys.exit('error: tools/setup_env.py needs Python 3.9 or newer: call it with python3.11.')

from tools.env_parts import commands, machine, ops_wheel
from tools.env_parts.commands import CommandFailed, SetupError, say
from tools.stage_parts.commands import clock

STAMP_NAME = '.mixedae-environment.json'
DISK_ENVIRONMENT_GIB = 12  # measured: 5.4 GiB in .venv; the rest is pip's cache and what it unpacks meanwhile
DISK_BUILD_GIB = 2
OPS_CORE_MINUTES = 14  # measured: 7 minutes on 2 cores, without a GPU

# --- the steps ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    name: str
    does: str
    usually: str
    digest: str  # of all that the step depends on, the steps before it included
    run: Callable[[], None]


def read_pins(file: Path) -> dict[str, str]:
    """{name: version} of the `name==version` lines."""
    pins = {}
    for line in file.read_text().splitlines():
        match = re.match(r'([A-Za-z0-9._-]+)==([^\s;#]+)', line)
        if match:
            pins[match[1].lower()] = match[2]
    return pins


@dataclass
class Setup:
    """One environment to be made: what each step does. `steps()` puts them in order."""

    venv: Path
    base: machine.Interpreter
    ops: bool = True
    cuda_ops: str = 'auto'
    root: Path = ROOT
    env: dict | None = None  # of the commands; os.environ where not given
    runner: Callable[..., None] = commands.run_command

    def __post_init__(self) -> None:
        self.env = machine.child_environment(dict(os.environ) if self.env is None else self.env)
        self.requirements = self.root / 'requirements'
        self.python = venv_python(self.venv)
        self.jobs = machine.job_count(machine.usable_cores(), machine.memory_gib(), self.env)

    def pip(self, *args: object) -> None:
        command = [self.python, '-m', 'pip', 'install', '--prefer-binary', '--progress-bar', 'off', *args]
        self.runner(command, env=self.env)

    def make_venv(self) -> None:
        self.runner([self.base.path, '-I', '-m', 'venv', '--clear', self.venv], env=self.env)

    def install_build_tools(self) -> None:
        self.pip('-r', self.requirements / 'build.txt')

    def install_torch(self) -> None:
        files = [self.requirements / name for name in ('build.txt', 'cuda.txt', 'pinned.txt')]
        constraints = [part for file in files for part in ('-c', file)]
        self.pip('-r', self.requirements / 'torch.txt', *constraints)

    def install_pinned(self) -> None:
        self.pip('--no-deps', '-r', self.requirements / 'pinned.txt')

    def link_project(self) -> None:
        self.pip('--no-deps', '--no-build-isolation', '-e', self.root)

    def install_ops(self) -> None:
        """mmcv from the cache of wheels; compiled where there is none, or none that works."""
        probe = ops_wheel.probe_gpu(self.python, self.env)
        target, sentence = ops_wheel.choose_target(probe, self.cuda_ops, self.env)
        say(f'      {sentence}')
        version = read_pins(self.requirements / 'mmcv.txt')['onedl-mmcv']
        key = ops_wheel.wheel_key(version, probe['torch'], self.base.tag, self.base.platform, target)
        folder = ops_wheel.cache_folder(self.env) / 'wheels' / key
        on_gpu = bool(target) and probe['gpu']
        wheel = ops_wheel.cached_wheel(folder)
        if wheel:
            say(f'      compiled before: {wheel}')
            try:
                self.try_wheel(wheel, on_gpu)
                return
            except CommandFailed as error:
                if not ops_wheel.is_fault_of_wheel(error):
                    raise
                say('      ... but that one does not work here: compiling it anew')
                wheel.unlink()
        machine.check_compiler(self.base, self.env)
        machine.check_disk(folder, DISK_BUILD_GIB, 'MIXEDAE_CACHE')
        usually = f'usually {self.ops_minutes()} min' if not target else 'for a GPU: long, not measured'
        say(f'      compiling with {self.jobs} processes, once for this machine ({usually})')
        build_env = {**self.env, 'MAX_JOBS': str(self.jobs), 'FORCE_CUDA': '1' if target else '0'}
        if target:
            build_env['TORCH_CUDA_ARCH_LIST'] = self.env.get('TORCH_CUDA_ARCH_LIST') or probe['capability']
        else:
            build_env['CUDA_VISIBLE_DEVICES'] = ''  # mmcv would compile for a GPU that it sees
        self.try_wheel(ops_wheel.build_wheel(self.python, version, folder, build_env, self.runner), on_gpu)

    def try_wheel(self, wheel: Path, on_gpu: bool) -> None:
        self.pip('--no-deps', '--force-reinstall', wheel)
        self.runner([self.python, '-c', ops_wheel.OPS_CHECK.format(gpu=on_gpu)], env=self.env)

    def ops_minutes(self) -> int:
        return max(1, round(OPS_CORE_MINUTES / self.jobs))

    def steps(self) -> list[Step]:
        pins = {file.name: file.read_text() for file in self.requirements.glob('*.txt')}
        project = [(self.root / name).read_text() for name in ('setup.cfg', 'setup.py', 'pyproject.toml')]
        python = '.'.join(map(str, self.base.version))
        ops_time = f'20 s; {self.ops_minutes()} min more where the ops are not compiled yet'
        # Name, what it does, how long it usually takes, what it depends on, action. Measured on 2 busy cores: 4 s, 3 s,
        # 2 min (45 s with the download in pip's cache), 15 to 35 s, 1 s, 5 to 12 s with the wheel in the cache.
        plan = [
            ('venv', f'virtual environment {self.venv}, Python {python}', '5 s',
             [self.base.tag, self.base.platform, str(self.venv)], self.make_venv),
            ('build', 'pip, setuptools, ninja', '10 s', [pins['build.txt']], self.install_build_tools),
            ('torch', 'torch and torchvision: on Linux a download of 2.5 GB', '2 min',
             [pins['torch.txt'], pins['cuda.txt']], self.install_torch),
            ('pinned', 'timm, mmengine, mmdet, mmseg and what they need', '1 min',
             [pins['pinned.txt']], self.install_pinned),
            ('project', f'link {self.root} into it', '5 s', [*project, str(self.root)], self.link_project),
        ]  # fmt: skip
        if self.ops:  # last, so that an environment without ops is the beginning of one with them
            plan.append(
                ('ops', 'mmcv with compiled ops', ops_time, [pins['mmcv.txt'], self.cuda_ops], self.install_ops)
            )
        steps, digest = [], ''
        for name, does, usually, parts, action in plan:
            digest = hashlib.sha256(repr((digest, name, parts)).encode()).hexdigest()
            steps.append(Step(name, does, usually, digest, action))
        return steps


def carry_out(setup: Setup, todo: list[Step], count: int, done: dict[str, str]) -> None:
    """Run the steps of `todo`, the last ones of `count`, and stamp each one that ends well."""
    for number, step in enumerate(todo, count - len(todo) + 1):
        say(f'[{number}/{count}] {step.does} (usually {step.usually})')
        start = time.monotonic()
        try:
            step.run()
        except CommandFailed as error:
            raise commands.explain(error, f'step {number} ({step.name})', setup.base.short) from None
        done = {**done, step.name: step.digest}
        write_stamp(setup.venv, done)
        say(f'      done in {clock(time.monotonic() - start)}')


# --- the stamp ------------------------------------------------------------------------------------------------------


def read_stamp(venv: Path) -> dict[str, str]:
    """{step: digest} of the steps that were finished in `venv`; empty where there is no sound stamp."""
    try:
        done = json.loads((venv / STAMP_NAME).read_text())['steps']
        return done if isinstance(done, dict) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def write_stamp(venv: Path, done: dict[str, str]) -> None:
    temp = venv / (STAMP_NAME + '.new')
    temp.write_text(json.dumps({'steps': done}, indent=1) + '\n')
    os.replace(temp, venv / STAMP_NAME)


def pending(steps: list[Step], done: dict[str, str]) -> list[Step]:
    """The steps that were not finished with these pins. A changed step changes the digest of all after it."""
    return [step for step in steps if done.get(step.name) != step.digest]


# --- the whole ------------------------------------------------------------------------------------------------------


def venv_python(venv: Path) -> Path:
    return venv / ('Scripts/python.exe' if os.name == 'nt' else 'bin/python')


def check_folder(venv: Path) -> None:
    """Refuse a folder that holds something else: it would be cleared away."""
    if venv.exists() and not (venv.is_dir() and ((venv / 'pyvenv.cfg').exists() or not any(venv.iterdir()))):
        raise SetupError(f'{venv} is there and is no virtual environment: move it away or give another with --venv.')


def sound_interpreter(venv: Path) -> machine.Interpreter | None:
    """The Python of an environment that can be worked on; None where it is missing, broken or too old."""
    if not (venv / 'pyvenv.cfg').exists():
        return None
    found = machine.probe_interpreter(str(venv_python(venv)))
    return found if found and found.has_pip and machine.version_fits(found.version) else None


def check_first(setup: Setup, todo: list[Step]) -> None:
    """What is bound to fail is told before anything is downloaded."""
    names = {step.name for step in todo}
    if 'venv' in names:
        machine.check_venv_module(setup.base)
    if 'torch' in names:
        machine.check_disk(setup.venv, DISK_ENVIRONMENT_GIB, '--venv')
    if 'ops' in names:
        pins = {**read_pins(setup.requirements / 'torch.txt'), **read_pins(setup.requirements / 'mmcv.txt')}
        key = ops_wheel.wheel_key(pins['onedl-mmcv'], pins['torch'], setup.base.tag, setup.base.platform)
        if not any((ops_wheel.cache_folder(setup.env) / 'wheels').glob(f'{key}*/*.whl')):
            machine.check_compiler(setup.base, setup.env)


@contextlib.contextmanager
def only_one(venv: Path) -> Iterator[None]:
    """Two calls at once on the same environment: the second waits for the first."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    venv.parent.mkdir(parents=True, exist_ok=True)
    with open(venv.with_name(venv.name + '.lock'), 'w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say(f'another call is working on {venv}: waiting for it')
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make_environment(args: argparse.Namespace, runner: Callable[..., None] = commands.run_command) -> None:
    started = time.monotonic()
    venv = args.venv.expanduser().absolute()
    check_folder(venv)
    with only_one(venv):
        if args.recreate and venv.exists():
            say(f'removing {venv}')
            shutil.rmtree(venv)
        present = sound_interpreter(venv)
        wanted = machine.choose_interpreter(args.python) if args.python or not present else present
        setup = Setup(venv, wanted, args.ops, args.cuda_ops, runner=runner)
        steps = setup.steps()
        done = read_stamp(venv) if present else {}
        if present and present.tag == wanted.tag and not done:
            done = {'venv': steps[0].digest}  # made by hand, or interrupted before its first stamp: kept
        if args.force:
            done = {name: digest for name, digest in done.items() if name == 'venv'}
        todo = pending(steps, done)
        if not todo:
            say(f'environment is ready: {venv}')
            return
        check_first(setup, todo)
        if wanted.version[:2] != (3, 11):
            say(f'note: the pins were tested on Python 3.11, this is {wanted.version[0]}.{wanted.version[1]}')
        carry_out(setup, todo, len(steps), done)
        say(f'environment is ready after {clock(time.monotonic() - started)}: {venv}')


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--venv', type=Path, default=ROOT / '.venv', help='where to (default: .venv of the checkout)')
    parser.add_argument('--python', help='the Python to make it with (default: python3.11, or the next that fits)')
    ops = parser.add_mutually_exclusive_group()
    ops.add_argument('--ops', dest='ops', action='store_true', default=True, help="with mmcv's ops (default)")
    ops.add_argument('--no-ops', dest='ops', action='store_false', help='without mmcv: enough for pre-training')
    parser.add_argument(
        '--cuda-ops',
        choices=('auto', 'yes', 'no'),
        default='auto',
        help='compile the ops for a GPU: auto = where torch sees one and the CUDA toolkit fits',
    )
    parser.add_argument('--recreate', action='store_true', help='remove the environment first')
    parser.add_argument('--force', action='store_true', help='go through all steps again, keep what fits')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that a build clears up after itself
    try:
        make_environment(args)
    except SetupError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except OSError as error:
        print(f'error: {error.filename or "the environment"}: {error.strerror or error}.', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('\nerror: interrupted; call this again and it goes on with this step.', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
