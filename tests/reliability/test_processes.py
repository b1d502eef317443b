"""tools/train.py itself: what it writes beside a run, and what it says when something outside of it fails."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import small_runs as runs
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mixedae.engine import resources
from mixedae.engine.environment import git_state
from mixedae.engine.resume import newest_valid
from tools import train as train_tool

REPO = Path(__file__).resolve().parents[2]


@HOOKS.register_module(force=True)
class KillsWorker(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == 4:
            os.kill(runner.train_loop.stream._iterator._workers[0].pid, signal.SIGKILL)
            time.sleep(0.2)


def write_config(folder, hooks=(), **changes):
    cfg = runs.pretraining(folder / 'w', runs.write_pictures(folder / 'pictures'), every=3, **changes)
    cfg.custom_hooks = [*cfg.custom_hooks, *hooks]
    cfg.dump(folder / 'tiny.py')
    return folder / 'tiny.py'


def train(folder, *arguments, **environment):
    """Exit code and output of tools/train.py in a forked process."""

    def work():
        os.environ.update(environment)
        raise SystemExit(train_tool.main([str(argument) for argument in arguments]))

    log = folder / f'log_{len(list(folder.glob("log_*")))}'
    code = runs.exit_code(runs.fork(work, log))
    return code, log.read_text()


def test_train__loader_process_killed(tmp_path):
    """One sentence, exit code 3, and nothing is lost: what was learned is saved; the run goes on exactly."""
    config = write_config(tmp_path, hooks=[dict(type='KillsWorker')], iters=9)
    code, said = train(tmp_path, config)
    (sentence,) = [line for line in said.splitlines() if line.startswith('error: ')]
    assert code == 3 and 'The loader process ' in sentence and 'was ended ' in sentence, said[-3000:]
    assert 'lower train_dataloader.num_workers' in sentence and '--resume goes on from it' in sentence
    saved = newest_valid(tmp_path / 'w').checkpoint['meta']['iter']
    assert 5 <= saved < 9  # not iteration 3, the last regular one; how far depends on what was loaded ahead
    cfg = Config.fromfile(config)
    cfg.custom_hooks = cfg.custom_hooks[:-1]
    cfg.dump(tmp_path / 'quiet.py')
    whole = Config.fromfile(tmp_path / 'quiet.py')
    whole.work_dir = str(tmp_path / 'whole')
    runs.finish(lambda folder: whole, tmp_path / 'whole')
    assert train(tmp_path, tmp_path / 'quiet.py', '--resume')[0] == 0
    runs.same_run(tmp_path / 'whole', tmp_path / 'w', 'iter_9.pth')

    (first, second) = sorted((tmp_path / 'w').glob('*/environment.json'))
    content = json.loads(second.read_text())
    assert content['seed'] == 5 and content['packages']['torch'] == torch.__version__.split('+')[0]
    assert (
        content['resumed_from'].endswith(f'iter_{saved}.pth') and json.loads(first.read_text())['resumed_from'] is None
    )
    assert Config.fromfile(second.with_name('config.py')).model.type == 'mixedae.MixedAE'


def test_train__port_in_use(tmp_path):
    config = write_config(tmp_path, iters=1)
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        port = taken.getsockname()[1]
        meeting = dict(RANK='0', LOCAL_RANK='0', WORLD_SIZE='1', MASTER_ADDR='127.0.0.1', MASTER_PORT=f'{port}')
        code, said = train(tmp_path, config, '--launcher', 'pytorch', **meeting)
    assert code == 2 and f'error: The port {port} is in use by another program' in said, said[-2000:]


def test_train__no_room(tmp_path, monkeypatch, capsys):
    config = write_config(tmp_path, iters=1)
    (tmp_path / 'file').write_text('')
    assert train_tool.main([str(config), '--work-dir', str(tmp_path / 'file' / 'w')]) == 2
    assert 'error: The work dir' in capsys.readouterr().err
    monkeypatch.setattr(resources.shutil, 'disk_usage', lambda folder: SimpleNamespace(free=200_000))
    assert train_tool.main([str(config)]) == 2
    said = capsys.readouterr().err
    assert 'has 0 MiB free, but the run needs about 1 MiB: 3 checkpoints of 0 MiB at once' in said, said
    monkeypatch.undo()
    monkeypatch.setattr(resources, 'free_memory', lambda: (1000, 'the memory'))
    assert train_tool.main([str(config)]) == 2
    assert 'Weights, gradients and optimiser state take 0 MiB' in capsys.readouterr().err


def test_resources__what_a_checkpoint_takes(tmp_path):
    """The estimate against the file that is written: weights, two moments, EMA."""
    cfg = runs.pretraining(tmp_path / 'w', runs.write_pictures(tmp_path / 'pictures'), iters=1, every=1, workers=0)
    from mmengine.registry import RUNNERS

    runner = RUNNERS.build(cfg)
    size = resources.checkpoint_bytes(runner.model, cfg)
    runner.train()
    written = (tmp_path / 'w' / 'iter_1.pth').stat().st_size
    assert 0.9 * size < written < size + 400_000  # names, log, config text
    assert resources.checkpoints_at_once(cfg) == 3
    sure, likely = resources.memory_bytes(runner.model, cfg)
    weights = sum(p.numel() for p in runner.model.state_dict().values()) * 4
    assert weights * 3 < sure < weights * 4.1 and likely == sure  # so small are its blocks


def test_git_state__digest_of_changes(tmp_path):
    def git(*arguments):
        subprocess.run(['git', '-C', str(tmp_path), *arguments], check=True, capture_output=True)

    assert git_state(tmp_path / 'nowhere') is None
    git('init', '-q')
    (tmp_path / 'a').write_text('1')
    git('add', 'a')
    git('-c', 'user.name=x', '-c', 'user.email=x@x', 'commit', '-qm', 'x')
    clean = git_state(tmp_path)
    assert len(clean['commit']) == 40 and clean['changed'] == [] and clean['changes_sha256'] is None
    (tmp_path / 'a').write_text('2')
    dirty = git_state(tmp_path)
    assert dirty['commit'] == clean['commit'] and dirty['changed'] == [' M a'] and len(dirty['changes_sha256']) == 64


@HOOKS.register_module(force=True)
class KillsProcess(Hook):
    """The second process ends itself."""

    def __init__(self, at):
        self.at = at

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.rank == 1 and runner.iter == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_torchrun__a_process_dies_and_the_run_is_resumed(tmp_path):
    """Two processes of the real script under torchrun: one is killed, both end, `--resume` ends bit for bit alike."""
    config = write_config(tmp_path, iters=6, workers=1, batch=4)
    cfg = Config.fromfile(config)
    cfg.custom_imports = dict(imports=['small_runs', 'test_processes'])
    cfg.custom_hooks = [*cfg.custom_hooks, dict(type='KillsProcess', at=4)]
    cfg.dump(tmp_path / 'dies.py')
    path = os.pathsep.join([str(REPO), str(Path(__file__).parent)])
    environment = {**os.environ, 'PYTHONPATH': path, 'OMP_NUM_THREADS': '1', 'GLOO_SOCKET_IFNAME': 'lo'}

    def torchrun(config, *options):
        command = [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node', '2', '--master_port']
        command += [
            str(runs.free_port()),
            str(REPO / 'tools' / 'train.py'),
            str(config),
            '--launcher',
            'pytorch',
            *options,
        ]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)

    died = torchrun(tmp_path / 'dies.py')
    assert died.returncode == 1 and 'error: Another process of this run is gone' in died.stderr, died.stderr[-4000:]
    assert newest_valid(tmp_path / 'w').path.name == 'iter_3.pth'
    rest = torchrun(config, '--resume')
    assert rest.returncode == 0, rest.stderr[-4000:]
    whole = cfg.copy()
    whole.custom_hooks, whole.work_dir = whole.custom_hooks[:-1], str(tmp_path / 'whole')
    runs.finish(lambda folder: whole, tmp_path / 'whole', world=2)
    runs.same_run(tmp_path / 'whole', tmp_path / 'w', 'iter_6.pth')

    refused = torchrun(config)
    assert refused.returncode and 'holds a run already (iter_6.pth)' in refused.stderr, refused.stderr[-4000:]
    anew = torchrun(config, '--overwrite', '--cfg-options', 'train_cfg.max_iters=3')
    assert anew.returncode == 0, anew.stderr[-4000:]
    assert [path.name for path in (tmp_path / 'w').glob('*.pth')] == ['iter_3.pth']
