"""Images per second, waiting and the time left, on a clock that only a slow loader and a slow model move on."""

import json
import logging
import time
from pathlib import Path

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch.utils.data import Dataset

import mixedae  # noqa: F401  (registration)
from mixedae.engine import SafeRunner
from mixedae.engine.throughput_hook import advice


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0
        self.iteration = 0

    def __call__(self) -> float:
        return self.now

    def __deepcopy__(self, memo):  # the Runner copies its arguments
        return self


class SlowPictures(Dataset):
    """Each picture takes seconds(iteration) / 4."""

    def __init__(self, clock, seconds):
        self.clock, self.seconds = clock, seconds

    def __len__(self):
        return 16

    def __getitem__(self, index):
        self.clock.now += self.seconds(self.clock.iteration) / 4
        return dict(inputs=torch.ones(2))


class SlowModel(BaseModel):
    def __init__(self, clock, seconds):
        super().__init__()
        self.clock, self.seconds = clock, seconds
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, inputs, mode='loss'):
        self.clock.now += self.seconds
        self.clock.iteration += mode == 'loss'
        return dict(loss=self.weight * 0) if mode == 'loss' else [0]


@pytest.fixture
def messages(monkeypatch):
    """What is said in the log besides the lines of LoggerHook."""
    kept = []
    monkeypatch.setattr(
        'mixedae.engine.throughput_hook.print_log', lambda text, logger, level=20: kept.append((level, text))
    )
    return kept


def run(work_dir, monkeypatch, data, model, iters, cls=SafeRunner, validation=None, **options):
    clock = Clock()
    monkeypatch.setattr(time, 'perf_counter', clock)
    parts = {}
    if validation:
        hold = dict(
            dataset=SlowPictures(clock, lambda _: validation),
            batch_size=4,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate'),
        )
        parts = dict(val_dataloader=hold, val_cfg=dict(type='ValLoop'), val_evaluator=[])
    loader = dict(
        dataset=SlowPictures(clock, data),
        batch_size=4,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=True),
        collate_fn=dict(type='default_collate'),
    )
    runner = cls(
        model=SlowModel(clock, model),
        work_dir=str(work_dir),
        train_dataloader=loader,
        train_cfg=dict(by_epoch=False, max_iters=iters, val_interval=8),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1e-3)),
        default_hooks=dict(
            throughput=dict(type='mixedae.ThroughputHook', **options),
            logger=dict(type='LoggerHook', interval=10),
            checkpoint=dict(type='CheckpointHook', interval=1000, save_last=False),
        ),
        visualizer=dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')]),
        randomness=dict(seed=0),
        experiment_name=work_dir.parent.name,  # unique: runs of one name and second share a visualizer
        **parts,
    )
    runner.train()
    return runner


def scalars(work_dir: Path) -> list[dict]:
    return [json.loads(line) for line in next(work_dir.glob('*/vis_data/scalars.json')).read_text().splitlines()]


def test_throughput_hook__data_bound(tmp_path, monkeypatch, messages):
    runner = run(tmp_path / 'a', monkeypatch, data=lambda _: 0.75, model=0.25, iters=40)
    assert runner.message_hub.get_scalar('train/images_per_s').current() == pytest.approx(4)
    lines = [line for line in scalars(tmp_path / 'a') if 'images_per_s' in line]
    assert [line['step'] for line in lines] == [10, 20, 30, 40]
    assert all(line['images_per_s'] == pytest.approx(4) for line in lines)
    assert all(line['data_share'] == pytest.approx(0.75) for line in lines)
    left = {line['step']: line['seconds_left'] for line in scalars(tmp_path / 'a') if 'seconds_left' in line}
    assert left == pytest.approx({10: 30.0, 20: 20.0, 30: 10.0, 40: 0.0})
    ((level, text),) = messages  # said once
    assert level == logging.WARNING
    assert text.startswith(
        'Data bound: the model waits 75% of the time for the loader, 4 images/s, 0:00:30 left. Without waiting it '
        'would be 16 images/s: '
    )


def test_throughput_hook__model_bound(tmp_path, monkeypatch, messages):
    run(tmp_path / 'a', monkeypatch, data=lambda _: 0.05, model=0.95, iters=20)
    assert messages == [
        (logging.INFO, 'Model bound: the model waits 5% of the time for the loader, 4 images/s, 0:00:10 left.')
    ]


def test_throughput_hook__says_when_it_changes(tmp_path, monkeypatch, messages):
    """Model bound, then 12 % (still model bound), 50 %, 12 % (still data bound), 5 %."""
    waits = [0.0, 0.12 / 0.88, 1.0, 0.12 / 0.88, 0.05 / 0.95]
    run(tmp_path / 'a', monkeypatch, data=lambda k: waits[min(k // 10, 4)], model=1.0, iters=50)
    shares = [line['data_share'] for line in scalars(tmp_path / 'a') if 'data_share' in line]
    assert shares == pytest.approx([0, 0.12, 0.5, 0.12, 0.05])
    assert [text.split(',')[0] for _, text in messages] == [
        'Model bound: the model waits 0% of the time for the loader',
        'Now data bound',
        'Now model bound',
    ]


def test_throughput_hook__neither_warm_up_nor_validation_counts(tmp_path, monkeypatch, messages):
    run(
        tmp_path / 'a', monkeypatch, data=lambda k: 0.5 if k >= 7 else 100.0, model=0.5, iters=30, validation=33.0,
        interval=15, warm_up=8,
    )  # fmt: skip
    pace = [line['images_per_s'] for line in scalars(tmp_path / 'a') if 'images_per_s' in line]
    assert pace[-1] == pytest.approx(4) and len(messages) == 1
    left = [line['seconds_left'] for line in scalars(tmp_path / 'a') if 'seconds_left' in line]
    assert left == pytest.approx([15.0, 0.0])


def test_throughput_hook__needs_our_loop(tmp_path, monkeypatch):
    with pytest.raises(TypeError, match='IterBasedTrainLoop waits for its loader: set runner_type'):
        run(tmp_path / 'a', monkeypatch, data=lambda _: 0.0, model=0.0, iters=2, cls=Runner)


def test_advice(monkeypatch):
    class Loader:
        num_workers = 2
        dataset = SlowPictures(None, None)

    monkeypatch.setattr('mixedae.engine.throughput_hook.usable_cores', lambda: 16)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '4')
    assert advice(Loader) == (
        'raise train_dataloader.num_workers (now 2 for each of 4 training processes, on 16 cores)'
    )
    Loader.num_workers = 3
    assert advice(Loader) == 'the 16 cores do all they can, take more or store smaller images'
    Loader.dataset.cache = None
    assert advice(Loader) == 'keep decoded scenes in memory if they fit (train_dataloader.dataset.cache_gib)'


def teardown_module():
    MMLogger._instance_dict.clear()
