"""Small runs in forked processes, to be killed: real training processes that need no second import of everything.

Two kinds: MixedAE's pre-training on generated pictures, and a model with everything else that can go wrong when a run
is resumed (dropout, batch norm, EMA, clipping, gradient accumulation, validation, random augmentation).
"""

import json
import os
import random
import signal
import socket
import sys
import time
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS, RUNNERS
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

import mixedae  # noqa: F401  (registration)
import object_aware  # noqa: F401
from mixedae.checkpoints import read_file

ENVIRONMENT = ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT')


@MODELS.register_module(force=True)
class NoisyModel(BaseModel):
    """Draws from torch's global generator (dropout), keeps running statistics (batch norm)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1))

    def forward(self, x, y=None, mode='loss'):
        out = self.net(x)
        if mode == 'loss':
            return dict(loss=(out - y).square().mean())
        return out.flatten().tolist()


@DATASETS.register_module(force=True)
class NoisyDataset(Dataset):
    """Draws from all three global generators, as the pipelines of mmdet and mmseg do."""

    metainfo = dict(classes=('one',))

    def __init__(self, length=20, wrong=()):
        self.length, self.wrong = length, tuple(wrong)

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        noise = [random.random(), float(np.random.rand()), float(torch.rand(()))]  # noqa: NPY002
        x = torch.tensor([index / self.length, 1.0, index % 3, *noise])
        if index in self.wrong:
            x = x * float('nan')
        return dict(x=x, y=x[:1] * 2 + 0.1 * x[3:4])


@METRICS.register_module(force=True)
class Mean(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results += list(data_samples)

    def compute_metrics(self, results):
        return dict(mean=float(np.mean(results)))


@HOOKS.register_module(force=True)
class Pace(Hook):
    """Writes each begun iteration into a file, so that a killer knows where the run is, and takes its time.

    In iteration ``hold`` it waits until :func:`release` is called.
    """

    def __init__(self, file, seconds=0.0, hold=None):
        self.file, self.seconds, self.hold = Path(file), seconds, hold

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        with self.file.open('a') as file:
            file.write(f'{runner.iter}\n')
        time.sleep(self.seconds)
        if runner.iter == self.hold:
            held(self.file.parent)


def held(folder, seconds=300):
    """Waits in a forked process until :func:`release` is called of the folder."""
    end = time.monotonic() + seconds
    while not (folder / 'go').exists():
        if time.monotonic() > end:
            raise TimeoutError(f'{folder} was not released')
        time.sleep(0.002)


def release(folder):
    (folder / 'go').write_text('')


def write_pictures(folder, count=24, size=40):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        pixels = np.random.default_rng(k).integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f'{k:03d}.png')
    return folder


def runtime(work_dir, iters, every, by_epoch):
    hooks = dict(
        logger=dict(type='LoggerHook', interval=1),
        checkpoint=dict(type='CheckpointHook', interval=every, by_epoch=by_epoch, max_keep_ckpts=2),
    )
    return dict(
        runner_type='mixedae.SafeRunner',
        work_dir=str(work_dir),
        default_hooks=hooks,
        visualizer=dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')]),
        experiment_name=Path(work_dir).name,
        log_level='WARNING',
        log_processor=dict(window_size=3, by_epoch=by_epoch),
        randomness=dict(seed=5),
        train_cfg=dict(by_epoch=True, max_epochs=iters) if by_epoch else dict(by_epoch=False, max_iters=iters),
        env_cfg=dict(mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0), dist_cfg=dict(backend='gloo')),
    )


def pretraining(work_dir, pictures, *, iters=10, every=3, by_epoch=False, workers=2, batch=8):
    """MixedAE on 32 px, with EMA and the meter hook; an epoch of 24 pictures has 3 batches of 8."""
    return Config(
        dict(
            runtime(work_dir, iters, every, by_epoch),
            model=dict(
                type='mixedae.MixedAE',
                encoder=dict(arch=dict(embed_dim=24, depth=2, num_heads=2), img_size=32, patch_size=8),
                decoder=dict(embed_dim=16, depth=1, num_heads=2),
                data_preprocessor=dict(type='mmengine.ImgDataPreprocessor', mean=[127.5] * 3, std=[60.0] * 3),
            ),
            train_dataloader=dict(
                batch_size=batch,
                num_workers=workers,
                persistent_workers=workers > 0,
                drop_last=True,
                sampler=dict(type='mixedae.GroupSampler', group_size=4),
                collate_fn=dict(type='default_collate'),
                dataset=dict(type='mixedae.ImageDataset', root=str(pictures), size=32),
            ),
            optim_wrapper=dict(
                type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3), clip_grad=dict(max_norm=1.0)
            ),
            param_scheduler=[
                dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=4),
                dict(type='CosineAnnealingLR', by_epoch=False, begin=4, end=100),
            ],
            custom_hooks=[dict(type='EMAHook'), dict(type='mixedae.PretrainMeterHook', interval=2)],
        )
    )


def noisy(work_dir, *, iters=20, every=4, by_epoch=False, workers=2, batch=3, sampler='DefaultSampler', **dataset):
    """The model with everything; an epoch of 20 samples has 7 batches of 3, the last one smaller."""
    val = dict(
        batch_size=4,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
        dataset=dict(type='NoisyDataset', length=8),
    )
    cfg = dict(
        runtime(work_dir, iters, every, by_epoch),
        model=dict(type='NoisyModel'),
        train_dataloader=dict(
            batch_size=batch,
            num_workers=workers,
            persistent_workers=workers > 0,
            sampler=dict(type=sampler, shuffle=True),
            collate_fn=dict(type='default_collate'),
            dataset=dict(type='NoisyDataset', **dataset),
        ),
        optim_wrapper=dict(
            type='OptimWrapper',
            optimizer=dict(type='SGD', lr=0.02, momentum=0.9),
            accumulative_counts=3,
            clip_grad=dict(max_norm=1.0),
        ),
        param_scheduler=[dict(type='CosineAnnealingLR', by_epoch=False, T_max=100)],
        custom_hooks=[dict(type='EMAHook', update_buffers=True)],
        val_dataloader=val,
        val_evaluator=dict(type='Mean'),
        val_cfg=dict(type='ValLoop'),
    )
    cfg['train_cfg']['val_interval'] = 2 if by_epoch else 6
    cfg['default_hooks']['checkpoint']['save_best'] = 'mean'
    cfg['default_hooks']['checkpoint']['rule'] = 'greater'
    return Config(cfg)


def train(cfg, resume=True, pace=None, **environment):
    """Trains in this process."""
    os.environ.update({name: str(value) for name, value in environment.items()})
    cfg = cfg.copy()
    cfg.resume = resume
    if 'RANK' in environment:
        cfg.launcher = 'pytorch'
    if pace is not None:
        cfg.custom_hooks = [*cfg.custom_hooks, dict(type='Pace', priority=0, **pace)]
    runner = RUNNERS.build(cfg)
    runner.train()
    return runner


def fork(work, log):
    """Runs ``work()`` in a forked process, its output in a file; the process id."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setpgid(0, 0)
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout, sys.stderr = os.fdopen(1, 'w', closefd=False), os.fdopen(2, 'w', closefd=False)
        torch.set_num_threads(1)
        work()
        code = 0
    except SystemExit as error:
        code = error.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def exit_code(pid, seconds=600):
    """Waits for a forked process: its exit code, or minus the signal that ended it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise TimeoutError(f'process {pid} did not end')


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def start(make, folder, world=1, seconds=0.0, resume=True, hold=None):
    """Starts a run of ``world`` processes; their ids and the file that says where it is."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pace = folder / 'pace'
    pace.write_text('')
    (folder / 'go').unlink(missing_ok=True)
    meeting = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=free_port(), WORLD_SIZE=world, GLOO_SOCKET_IFNAME='lo')
    pids = []
    for rank in range(world):
        environment = dict(meeting, RANK=rank, LOCAL_RANK=rank) if world > 1 else {}
        mine = dict(file=str(pace), seconds=seconds, hold=hold) if rank == 0 else None
        pids.append(
            fork(
                lambda environment=environment, mine=mine: train(make(folder), resume, mine, **environment),
                folder / f'output_{rank}.txt',
            )
        )
    return pids, pace


def wait_until(pace, iteration, pids, seconds=600):
    """Waits until the run has begun an iteration; False if it ended before."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        begun = pace.read_text().split()
        if begun and int(begun[-1]) >= iteration:
            return True
        if any(os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) for pid in pids):
            return False
        time.sleep(0.002)
    raise TimeoutError(f'iteration {iteration} was not reached')


def finish(make, folder, world=1, resume=True):
    """A run to its end."""
    pids, _ = start(make, folder, world, resume=resume)
    codes = [exit_code(pid) for pid in pids]
    assert codes == [0] * world, (Path(folder) / 'output_0.txt').read_text()[-3000:]


def kill_often(make, folder, *, world=1, kills, last, seed=0, pace=0.01):
    """Runs, kills at random points, resumes, until it is through; at which iterations it was killed."""
    rng = random.Random(seed)
    killed = []
    while len(killed) < kills:
        pids, file = start(make, folder, world, seconds=pace)
        if wait_until(file, 0, pids):
            further = rng.randrange(max(2, 2 * last // kills))  # so that the kills are spread over the run
            if wait_until(file, int(file.read_text().split()[0]) + further, pids):
                time.sleep(rng.random() * pace * 2)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        codes = [exit_code(pid) for pid in pids]
        output = (Path(folder) / 'output_0.txt').read_text()
        assert set(codes) <= {-signal.SIGKILL, 0}, output[-4000:]
        begun = file.read_text().split()
        killed.append(int(begun[-1]) if begun else -1)
        if codes[0] == 0:
            break
    finish(make, folder, world)
    return killed


def logged(folder):
    """{step: {name: value}} of all log files of a run; a step that was done again counts once, its last time."""
    values = {}
    for file in sorted(Path(folder).glob('*/vis_data/scalars.json'), key=lambda path: path.stat().st_mtime_ns):
        for line in file.read_text().splitlines():
            if line.endswith('}'):
                entry = json.loads(line)
                step = entry.pop('step')
                keep = {k: v for k, v in entry.items() if 'time' not in k and k not in ('memory', 'iter', 'epoch')}
                values.setdefault(step, {}).update(keep)
    return values


def differences(a, b, path=''):
    """Where two checkpoints differ, bit for bit; times, names and file paths are left out."""
    if type(a) is not type(b):
        return [f'{path}: {type(a).__name__} and {type(b).__name__}']
    if isinstance(a, dict):
        found = [f'{path}.{key} is in one only' for key in a.keys() ^ b.keys()]
        for key in a.keys() & b.keys():
            if key in ('time', 'eta', 'cfg', 'experiment_name', 'mmengine_version', 'last_ckpt', 'best_ckpt'):
                continue
            if str(key).endswith(('/time', '/data_time')):
                continue
            found += differences(a[key], b[key], f'{path}.{key}')
        return found
    if isinstance(a, (list, tuple)):
        if len(a) != len(b):
            return [f'{path}: {len(a)} and {len(b)} entries']
        return [text for k, (x, y) in enumerate(zip(a, b)) for text in differences(x, y, f'{path}[{k}]')]
    if isinstance(a, torch.Tensor):
        same = a.shape == b.shape and a.dtype == b.dtype and a.numpy().tobytes() == b.numpy().tobytes()
        return [] if same else [path]
    if isinstance(a, np.ndarray):
        return [] if a.shape == b.shape and a.tobytes() == b.tobytes() else [path]
    if hasattr(a, 'data') and hasattr(a, 'update'):  # HistoryBuffer
        return differences(list(a.data), list(b.data), path)
    return [] if a == b or (a != a and b != b) else [f'{path}: {a!r} and {b!r}']


def same_run(a, b, name):
    """Asserts that two runs ended with the same checkpoint and logged the same."""
    first, second = read_file(Path(a) / name), read_file(Path(b) / name)
    found = differences(first, second)
    assert not found, found[:20]
    x, y = logged(a), logged(b)
    assert x.keys() == y.keys()
    assert all(x[step] == y[step] for step in x), [(step, x[step], y[step]) for step in x if x[step] != y[step]][:3]
