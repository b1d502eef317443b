"""tools/setup_env.py without network: steps, stamps, the cache of compiled wheels, the sentences of failures."""

import os
import sys
import time
from pathlib import Path

import pytest

from tools import setup_env
from tools.env_parts import machine, ops_wheel
from tools.env_parts.commands import CommandFailed, SetupError

KEY = 'onedl-mmcv-2.3.6-torch-2.11.0-cp311-linux_x86_64'
CPU = {'torch': '2.11.0', 'cuda': '13.0', 'toolkit': '13.0', 'gpu': False, 'capability': ''}
GPU = {**CPU, 'gpu': True, 'capability': '9.0'}


def interpreter(**changes):
    facts = dict(path='/usr/bin/python3.11', version=(3, 11, 7), tag='cp311', platform='linux_x86_64')
    return machine.Interpreter(**{**facts, 'has_venv': True, 'has_pip': True, 'header': __file__, **changes})


class FakeRunner:
    """Notes the commands; a venv command makes its folder, a wheel command its wheel; fails where it is told to."""

    def __init__(self, fail_on='', output='', returncode=1):
        self.lines, self.envs = [], []
        self.fail_on, self.output, self.returncode = fail_on, output, returncode

    def __call__(self, command, *, env, progress=None):
        line = ' '.join(str(part) for part in command)
        self.lines.append(line)
        self.envs.append(env)
        if ' wheel ' in line:
            out = Path(command[command.index('--wheel-dir') + 1])
            out.mkdir()
            (out / 'onedl_mmcv-2.3.6-cp311-cp311-linux_x86_64.whl').write_text('half' if self.fail_on else 'whole')
        if self.fail_on and self.fail_on in line:
            raise CommandFailed(self.returncode, self.output)
        if '-m venv' in line:
            folder = Path(command[-1])
            folder.mkdir(parents=True, exist_ok=True)
            (folder / 'pyvenv.cfg').write_text('')


@pytest.fixture
def checkout(tmp_path):
    """A project folder with pins."""
    root = tmp_path / 'checkout'
    (root / 'requirements').mkdir(parents=True)
    pins = {
        'build.txt': 'pip==26.3\n',
        'torch.txt': 'torch==2.11.0\n',
        'cuda.txt': '',
        'pinned.txt': 'timm==1.0.31\n',
        'mmcv.txt': '# comment\nonedl-mmcv==2.3.6\n',
    }
    for name, text in pins.items():
        (root / 'requirements' / name).write_text(text)
    for name in ('setup.cfg', 'setup.py', 'pyproject.toml'):
        (root / name).write_text('')
    return root


@pytest.fixture
def make(checkout, tmp_path, monkeypatch):
    """make(runner, **changes): a Setup of `checkout` with the cache in tmp_path."""
    monkeypatch.setattr(ops_wheel, 'probe_gpu', lambda python, env: CPU)

    def build(runner=None, **changes):
        env = {'PATH': os.environ['PATH'], 'MIXEDAE_CACHE': str(tmp_path / 'cache'), 'CXX': sys.executable}
        facts = dict(venv=tmp_path / 'env', base=interpreter(), root=checkout, env=env, runner=runner or FakeRunner())
        return setup_env.Setup(**{**facts, **changes})

    return build


def names(steps):
    return [step.name for step in steps]


# --- key and cache --------------------------------------------------------------------------------------------------


def test_wheel_key__cpu_and_gpu():
    assert ops_wheel.wheel_key('2.3.6', '2.11.0', 'cp311', 'linux_x86_64') == KEY
    assert ops_wheel.wheel_key('2.3.6', '2.11.0', 'cp311', 'linux_x86_64', 'cu130-sm90') == KEY + '-cu130-sm90'


@pytest.mark.parametrize(
    'env, expected',
    [
        ({'MIXEDAE_CACHE': '/a', 'XDG_CACHE_HOME': '/b'}, '/a'),
        ({'XDG_CACHE_HOME': '/b'}, '/b/mixedae'),
        ({'MIXEDAE_CACHE': ''}, str(Path('~/.cache/mixedae').expanduser())),
    ],
)
def test_cache_folder__precedence(env, expected):
    assert str(ops_wheel.cache_folder(env)) == expected


def test_build_wheel__success_leaves_only_the_wheel(tmp_path):
    target = tmp_path / 'wheels' / KEY
    wheel = ops_wheel.build_wheel(Path('python'), '2.3.6', target, {'PATH': ''}, FakeRunner())
    assert wheel.read_text() == 'whole'
    assert wheel == ops_wheel.cached_wheel(target)
    assert [path.name for path in target.parent.iterdir()] == [KEY]


@pytest.mark.parametrize('failure', [CommandFailed(1, ''), KeyboardInterrupt()])
def test_build_wheel__interrupted_leaves_nothing(tmp_path, failure):
    def runner(command, *, env, progress):
        out = Path(command[command.index('--wheel-dir') + 1])
        out.mkdir()
        (out / 'onedl_mmcv.whl').write_text('half')
        raise failure

    target = tmp_path / 'wheels' / KEY
    with pytest.raises(type(failure)):
        ops_wheel.build_wheel(Path('python'), '2.3.6', target, {'PATH': ''}, runner)
    assert ops_wheel.cached_wheel(target) is None
    assert list((tmp_path / 'wheels').iterdir()) == []


def test_build_wheel__clears_leftovers_of_yesterday(tmp_path):
    old, fresh = tmp_path / '.build-old', tmp_path / '.build-fresh'
    old.mkdir()
    fresh.mkdir()
    os.utime(old, (time.time() - 2 * 86400,) * 2)
    ops_wheel.build_wheel(Path('python'), '2.3.6', tmp_path / KEY, {'PATH': ''}, FakeRunner())
    assert not old.exists()
    assert fresh.exists()  # another build may be at work in it


def test_build_progress__counts_objects(tmp_path):
    plan = tmp_path / 'pip-1' / 'build' / 'temp'
    (plan / 'csrc').mkdir(parents=True)
    rules = 'rule compile\n' + ''.join(f'build /x/{i}.o: compile /y/{i}.cpp\n' for i in range(5))
    (plan / 'build.ninja').write_text(rules)
    for i in range(2):
        (plan / 'csrc' / f'{i}.o').write_text('')
    assert ops_wheel.build_progress(tmp_path) == '2 of 5 files compiled'
    assert ops_wheel.build_progress(tmp_path / 'pip-1' / 'nothing') == ''


# --- for what the ops are compiled ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'probe, choice, env, target',
    [
        (CPU, 'auto', {}, ''),
        (GPU, 'auto', {}, 'cu130-sm90'),
        (GPU, 'no', {}, ''),
        ({**GPU, 'toolkit': ''}, 'auto', {}, ''),
        ({**GPU, 'toolkit': '12.4'}, 'auto', {}, ''),
        (CPU, 'yes', {'TORCH_CUDA_ARCH_LIST': '8.0 9.0+PTX'}, 'cu130-sm80_90_PTX'),
        (CPU, 'auto', {'FORCE_CUDA': '1', 'TORCH_CUDA_ARCH_LIST': '9.0'}, 'cu130-sm90'),
    ],
)
def test_choose_target__cases(probe, choice, env, target):
    assert ops_wheel.choose_target(probe, choice, env)[0] == target


def test_choose_target__gpu_without_toolkit_is_told():
    _, sentence = ops_wheel.choose_target({**GPU, 'toolkit': ''}, 'auto', {})
    assert 'will not run on the GPU' in sentence
    with pytest.raises(SetupError, match='no CUDA toolkit'):
        ops_wheel.choose_target({**GPU, 'toolkit': ''}, 'yes', {})
    with pytest.raises(SetupError, match='TORCH_CUDA_ARCH_LIST'):
        ops_wheel.choose_target(CPU, 'yes', {})


# --- steps and stamps -----------------------------------------------------------------------------------------------


def test_steps__order_and_commands(make, tmp_path):
    runner = FakeRunner()
    setup = make(runner)
    steps = setup.steps()
    assert names(steps) == ['venv', 'build', 'torch', 'pinned', 'project', 'ops']
    setup_env.carry_out(setup, steps, len(steps), {})
    expected = ['-m venv --clear', 'build.txt', 'torch.txt -c', '--no-deps -r', '-e', 'pip wheel', '--force-reinstall']
    assert len(runner.lines) == len(expected) + 1  # the last one runs the ops
    for line, part in zip(runner.lines, expected):
        assert part in line
    assert 'roi_align' in runner.lines[-1]
    build = runner.envs[5]
    assert (build['MMCV_WITH_OPS'], build['FORCE_CUDA'], build['CUDA_VISIBLE_DEVICES']) == ('1', '0', '')
    assert '--no-cache-dir --no-deps --no-build-isolation --no-binary onedl-mmcv' in runner.lines[5]
    assert ops_wheel.cached_wheel(tmp_path / 'cache' / 'wheels' / KEY)
    assert setup_env.pending(steps, setup_env.read_stamp(setup.venv)) == []


def test_steps__without_ops_is_the_beginning_of_with_ops(make):
    full, short = make().steps(), make(ops=False).steps()
    assert [(step.name, step.digest) for step in full[:-1]] == [(step.name, step.digest) for step in short]


def test_pending__changed_pin_redoes_that_step_and_those_after(make, checkout):
    done = {step.name: step.digest for step in make().steps()}
    assert setup_env.pending(make().steps(), done) == []
    (checkout / 'requirements' / 'pinned.txt').write_text('timm==1.0.32\n')
    assert names(setup_env.pending(make().steps(), done)) == ['pinned', 'project', 'ops']
    assert names(setup_env.pending(make(base=interpreter(tag='cp312')).steps(), done))[0] == 'venv'


def test_carry_out__goes_on_where_it_failed(make, capsys):
    broken = make(FakeRunner(fail_on='torch.txt', output='ERROR: No matching distribution found for torch==9'))
    steps = broken.steps()
    with pytest.raises(SetupError, match=r'step 3 \(torch\) failed: the package index has no such version'):
        setup_env.carry_out(broken, steps, len(steps), {})
    assert 'No matching distribution found for torch==9' in capsys.readouterr().out
    done = setup_env.read_stamp(broken.venv)
    assert list(done) == ['venv', 'build']
    assert names(setup_env.pending(make().steps(), done)) == ['torch', 'pinned', 'project', 'ops']


@pytest.mark.parametrize('text', ['', '{', '[]', '{"steps": 3}', '{"other": {}}'])
def test_read_stamp__unsound_counts_as_none(tmp_path, text):
    (tmp_path / setup_env.STAMP_NAME).write_text(text)
    assert setup_env.read_stamp(tmp_path) == {}


def test_install_ops__found_wheel_is_not_compiled_again(make, tmp_path):
    folder = tmp_path / 'cache' / 'wheels' / KEY
    folder.mkdir(parents=True)
    (folder / 'onedl_mmcv.whl').write_text('ready')
    runner = FakeRunner()
    make(runner).install_ops()
    assert not any('pip wheel' in line for line in runner.lines)
    assert str(folder / 'onedl_mmcv.whl') in runner.lines[0]


def test_install_ops__broken_wheel_is_compiled_anew(make, tmp_path):
    folder = tmp_path / 'cache' / 'wheels' / KEY
    folder.mkdir(parents=True)
    old = folder / 'onedl_mmcv-old.whl'
    old.write_text('of another torch')
    runner = FakeRunner()
    calls = []

    def first_try_fails(command, *, env, progress=None):
        calls.append(1)
        if len(calls) == 2:
            raise CommandFailed(1, 'ImportError: mmcv/_ext.so: undefined symbol: _ZN3c10')
        runner(command, env=env, progress=progress)

    make(first_try_fails).install_ops()
    assert not old.exists()
    assert ops_wheel.cached_wheel(folder).read_text() == 'whole'
    assert sum(' wheel ' in line for line in runner.lines) == 1


def test_install_ops__full_disk_does_not_cost_the_wheel(make, tmp_path):
    folder = tmp_path / 'cache' / 'wheels' / KEY
    folder.mkdir(parents=True)
    wheel = folder / 'onedl_mmcv.whl'
    wheel.write_text('ready')
    with pytest.raises(CommandFailed):
        make(
            FakeRunner(fail_on='--force-reinstall', output='OSError: [Errno 28] No space left on device')
        ).install_ops()
    assert wheel.exists()


# --- the whole ------------------------------------------------------------------------------------------------------


@pytest.fixture
def journey(tmp_path, monkeypatch, make):
    """journey(*arguments, runner=...) runs make_environment on tmp_path/env with fake commands."""
    monkeypatch.setenv('MIXEDAE_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setattr(machine, 'choose_interpreter', lambda wanted: interpreter())
    monkeypatch.setattr(machine, 'check_disk', lambda *_: None)
    monkeypatch.setattr(machine, 'check_compiler', lambda *_: None)
    venv = tmp_path / 'env'

    def sound(folder):
        return interpreter() if (folder / 'pyvenv.cfg').exists() and not (folder / 'broken').exists() else None

    monkeypatch.setattr(setup_env, 'sound_interpreter', sound)

    def run(*arguments, runner=None):
        runner = runner or FakeRunner()
        setup_env.make_environment(setup_env.parse_args(['--venv', str(venv), *arguments]), runner)
        return runner.lines

    run.venv = venv
    return run


def test_make_environment__second_call_does_nothing(journey, capsys):
    assert len(journey()) == 8
    capsys.readouterr()
    assert journey() == []
    assert 'environment is ready' in capsys.readouterr().out


def test_make_environment__ops_added_later(journey):
    assert len(journey('--no-ops')) == 5
    assert len(journey()) == 3  # compile, install, run
    assert journey('--no-ops') == []


def test_make_environment__broken_python_is_made_anew(journey):
    journey()
    (journey.venv / 'broken').write_text('')
    lines = journey()
    assert '-m venv --clear' in lines[0]
    assert len(lines) == 7  # the compiled wheel is found


def test_make_environment__hand_made_environment_is_kept(journey):
    journey.venv.mkdir()
    (journey.venv / 'pyvenv.cfg').write_text('')
    assert 'build.txt' in journey()[0]


def test_make_environment__force_and_recreate(journey):
    journey()
    assert 'build.txt' in journey('--force')[0]
    (journey.venv / 'mine').write_text('')
    assert '-m venv' in journey('--recreate')[0]
    assert not (journey.venv / 'mine').exists()


def test_check_folder__refuses_what_is_no_environment(tmp_path, journey):
    journey.venv.mkdir()
    (journey.venv / 'photo.jpg').write_text('')
    with pytest.raises(SetupError, match='is no virtual environment'):
        journey('--recreate')
    assert (journey.venv / 'photo.jpg').exists()
    assert not journey.venv.with_name('env.lock').exists()


def test_main__error_is_one_sentence(tmp_path, capsys):
    (tmp_path / 'photo.jpg').write_text('')
    assert setup_env.main(['--venv', str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith('error: ')


# --- told before anything is downloaded -----------------------------------------------------------------------------


def test_check_first__no_venv_module(make):
    setup = make(base=interpreter(has_venv=False))
    with pytest.raises(SetupError, match=r'apt-get install python3\.11-venv'):
        setup_env.check_first(setup, setup.steps())


def test_check_first__no_compiler_unless_wheel_is_there(make, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, 'free_gib', lambda folder: 100.0)
    setup = make(env={'PATH': '', 'MIXEDAE_CACHE': str(tmp_path / 'cache')})
    with pytest.raises(SetupError, match='need a C\\+\\+ compiler and g\\+\\+ is not there'):
        setup_env.check_first(setup, setup.steps())
    setup_env.check_first(setup, make(ops=False).steps())
    folder = tmp_path / 'cache' / 'wheels' / KEY
    folder.mkdir(parents=True)
    (folder / 'onedl_mmcv.whl').write_text('')
    setup_env.check_first(setup, setup.steps())


def test_check_first__no_headers(make, monkeypatch):
    monkeypatch.setattr(machine, 'free_gib', lambda folder: 100.0)
    setup = make(base=interpreter(header='/nowhere/Python.h'))
    with pytest.raises(SetupError, match=r'apt-get install python3\.11-dev'):
        setup_env.check_first(setup, setup.steps())


def test_check_first__little_disk(make, monkeypatch):
    monkeypatch.setattr(machine, 'free_gib', lambda folder: 3.0)
    setup = make()
    with pytest.raises(SetupError, match=r'3\.0 GiB are free .* 12 are needed'):
        setup_env.check_first(setup, setup.steps())


def test_choose_interpreter__wrong_or_absent(monkeypatch):
    with pytest.raises(SetupError, match='is not a Python that starts'):
        machine.choose_interpreter('/nowhere/python')
    monkeypatch.setattr(machine, 'probe_interpreter', lambda path: interpreter(version=(3, 9, 2), tag='cp39'))
    with pytest.raises(SetupError, match=r'is Python 3\.9\.2, but the pinned packages need 3\.11 to 3\.13'):
        machine.choose_interpreter('python3')
    with pytest.raises(SetupError, match=r'no Python 3\.11 to 3\.13 found'):
        machine.choose_interpreter(None)


def test_probe_interpreter__this_one():
    found = machine.probe_interpreter(sys.executable)
    assert found.version == tuple(sys.version_info[:3])
    assert found.tag == f'cp{sys.version_info[0]}{sys.version_info[1]}'
    assert machine.probe_interpreter('/nowhere/python') is None


@pytest.mark.parametrize(
    'cores, memory, env, jobs',
    [(2, 24, {}, 2), (16, 8, {}, 4), (8, 1, {}, 1), (8, 64, {'MAX_JOBS': '3'}, 3), (2, 24, {'MAX_JOBS': 'x'}, 2)],
)
def test_job_count__cores_and_memory(cores, memory, env, jobs):
    assert machine.job_count(cores, memory, env) == jobs


def test_child_environment__of_another_environment():
    env = machine.child_environment(
        {'VIRTUAL_ENV': '/x', 'PYTHONPATH': '/y', 'PIP_TARGET': '/z', 'HTTPS_PROXY': 'p', 'PIP_INDEX_URL': 'i'}
    )
    assert not {'VIRTUAL_ENV', 'PYTHONPATH', 'PIP_TARGET'} & set(env)
    assert (env['HTTPS_PROXY'], env['PIP_INDEX_URL'], env['PYTHONNOUSERSITE']) == ('p', 'i', '1')


# --- the real pins --------------------------------------------------------------------------------------------------


def test_pins__every_line_is_pinned_and_named_once():
    files = sorted((setup_env.ROOT / 'requirements').glob('*.txt'))
    assert [file.stem for file in files] == ['build', 'cuda', 'mmcv', 'pinned', 'torch']
    seen = []
    for file in files:
        pins = setup_env.read_pins(file)
        lines = [line for line in file.read_text().splitlines() if line and not line.startswith('#')]
        assert len(pins) == len(lines), file.name
        seen += [name.replace('_', '-') for name in pins]
    assert len(seen) == len(set(seen))
