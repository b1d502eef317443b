"""SafeRunner: checkpoints are read safely, resuming works, mixed precision steps back without a GPU."""

import copy
import os
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS, RUNNERS
from mmengine.runner import Runner
from torch.utils.data import Dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'reliability'))
import small_runs as runs

import mixedae  # noqa: F401  (registration)
from mixedae.checkpoints import CheckpointError, read_file
from mixedae.engine.runner import SafeRunner
from mixedae.engine.without_gpu import adapt_to_device, without_sync_norms
from mixedae.models import MapNorm, MultiBlockPyramid


@MODELS.register_module(force=True)
class OneLayerModel(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def forward(self, x, mode='loss'):
        return dict(loss=(self.layer(x) - x.sum(1, keepdim=True)).square().mean())


@DATASETS.register_module(force=True)
class NumberDataset(Dataset):
    metainfo = dict(classes=('one', 'two'))

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return dict(x=torch.tensor([index / 8, 1.0]))


def config(work_dir, **changes):
    return Config(
        dict(
            runner_type='mixedae.SafeRunner',
            model=dict(type='OneLayerModel'),
            work_dir=str(work_dir),
            train_dataloader=dict(
                batch_size=2,
                dataset=dict(type='NumberDataset'),
                sampler=dict(type='DefaultSampler', shuffle=False),
                collate_fn=dict(type='default_collate'),
            ),
            train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=2),
            optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.01)),
            param_scheduler=[dict(type='CosineAnnealingLR', by_epoch=False, T_max=100)],
            default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)),
            experiment_name=str(work_dir).replace(os.sep, '_'),
            log_level='WARNING',
            randomness=dict(seed=3),
            **changes,
        )
    )


def train(work_dir, epochs=2, **changes):
    cfg = config(work_dir, **changes)
    cfg.train_cfg.max_epochs = epochs
    runner = RUNNERS.build(cfg)
    runner.train()
    return runner


def test_build__by_runner_type(tmp_path):
    assert type(RUNNERS.build(config(tmp_path))) is SafeRunner and issubclass(SafeRunner, Runner)


def test_resume__same_as_unbroken_run(tmp_path):
    whole = train(tmp_path / 'whole', epochs=3)
    second = train(tmp_path / 'rest', epochs=3, resume=True, load_from=str(tmp_path / 'whole' / 'epoch_1.pth'))
    assert second.iter == whole.iter == 12 and second.epoch == 3
    torch.testing.assert_close(second.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)
    a, b = whole.optim_wrapper.state_dict(), second.optim_wrapper.state_dict()
    torch.testing.assert_close(a['state'][0]['exp_avg'], b['state'][0]['exp_avg'], rtol=0, atol=0)
    assert a['param_groups'][0]['lr'] == b['param_groups'][0]['lr'] != 0.01
    history = second.message_hub.get_scalar('train/loss')
    assert len(history.data[0]) == 12  # the log history of the first epoch came along


def test_load_from__a_named_file(tmp_path):
    first = train(tmp_path / 'a', epochs=1)
    runner = RUNNERS.build(config(tmp_path / 'b', load_from=str(tmp_path / 'a' / 'epoch_1.pth')))
    runner.load_or_resume()
    torch.testing.assert_close(runner.model.state_dict(), first.model.state_dict(), rtol=0, atol=0)


def poison_with_code(checkpoint, marker):
    class Calls:
        def __reduce__(self):
            return os.system, (f'touch {marker}',)

    checkpoint['message_hub']['extra'] = Calls()


def poison_with_config(checkpoint, marker):
    checkpoint['meta']['config'] = f'open({str(marker)!r}, "w").write("ran")\na = 1\n'


@pytest.mark.parametrize('poison, refused', [(poison_with_code, True), (poison_with_config, False)])
def test_resume__never_runs_code_from_the_file(tmp_path, poison, refused):
    train(tmp_path / 'a', epochs=1)
    marker, evil = tmp_path / 'it_ran', tmp_path / 'evil.pth'
    checkpoint = read_file(tmp_path / 'a' / 'epoch_1.pth')
    poison(checkpoint, marker)
    torch.save(checkpoint, evil)
    runner = RUNNERS.build(config(tmp_path / 'b', load_from=str(evil), resume=True))
    if refused:
        with pytest.raises(CheckpointError, match=r'evil\.pth was refused: it asks for'):
            runner.train()
    else:
        runner.train()
    assert not marker.exists()


def test_mmengine_runs_the_config_text(tmp_path):
    """Why SafeRunner drops it: MMEngine's own resume executes ``meta['config']``. If this fails, the guard may go."""
    train(tmp_path / 'a', epochs=1)
    marker, evil = tmp_path / 'it_ran', tmp_path / 'evil.pth'
    checkpoint = read_file(tmp_path / 'a' / 'epoch_1.pth')
    poison_with_config(checkpoint, marker)
    torch.save(checkpoint, evil)
    cfg = config(tmp_path / 'b', load_from=str(evil), resume=True)
    cfg.pop('runner_type')
    Runner.from_cfg(cfg).train()
    assert marker.exists()


def test_resume__from_bare_weights(tmp_path):
    torch.save(OneLayerModel().state_dict(), tmp_path / 'bare.pth')
    runner = RUNNERS.build(config(tmp_path / 'b', load_from=str(tmp_path / 'bare.pth'), resume=True))
    with pytest.raises(CheckpointError, match='holds weights but no training state'):
        runner.train()


def test_load_from__another_model(tmp_path):
    torch.save({'state_dict': {'encoder.blocks.0.w': torch.zeros(1)}}, tmp_path / 'other.pth')
    runner = RUNNERS.build(config(tmp_path / 'b', load_from=str(tmp_path / 'other.pth')))
    with pytest.raises(
        CheckpointError, match=r'shares no weight with this model\. A pre-training checkpoint goes into'
    ):
        runner.train()


def test_adapt_to_device(monkeypatch, capfd):
    amp = dict(type='AmpOptimWrapper', loss_scale='dynamic', dtype='bfloat16', optimizer=dict(type='AdamW', lr=0.1))
    cfg = Config(dict(optim_wrapper=dict(amp, clip_grad=dict(max_norm=1.0))))
    monkeypatch.setattr('mixedae.engine.without_gpu.get_device', lambda: 'cuda')
    adapt_to_device(cfg)
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper' and cfg.optim_wrapper.loss_scale == 'dynamic'
    monkeypatch.setattr('mixedae.engine.without_gpu.get_device', lambda: 'cpu')
    adapt_to_device(cfg)
    assert cfg.optim_wrapper == dict(
        type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.1), clip_grad=dict(max_norm=1.0)
    )
    assert ''.join(capfd.readouterr()).count('No GPU here: training in float32') == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason='needs a machine without a GPU')
def test_train__amp_config_on_cpu(tmp_path):
    cfg = config(tmp_path)
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    runner = RUNNERS.build(cfg)
    runner.train()
    assert type(runner.optim_wrapper).__name__ == 'GuardedOptimWrapper'
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper', 'the caller keeps the config as it was'


def normed() -> torch.nn.Module:
    """A neck of ours with SyncBatchNorm and one without weights, after a step."""
    net = torch.nn.Sequential(MultiBlockPyramid(4), MapNorm(4)).train()
    for kind in (net[0].up4[1], net[1].norm):
        kind.running_mean.fill_(0.5)
        kind.num_batches_tracked.fill_(3)
    torch.nn.init.normal_(net[0].up4[1].weight)
    net[0].up4[1].bias.requires_grad_(False)
    return net


def test_without_sync_norms__same_weights_buffers_and_values(monkeypatch):
    said = []
    monkeypatch.setattr('mixedae.engine.without_gpu.print_log', lambda text, **options: said.append(text))
    before = normed()
    expected = {name: value.clone() for name, value in before.state_dict().items()}
    maps = [torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(k)) for k in range(4)]
    values = copy.deepcopy(before)(maps)  # one process: SyncBatchNorm is BatchNorm
    parameters = dict(before.named_parameters())
    net = without_sync_norms(before)
    assert len(said) == 1 and said[0].startswith('No GPU here: 2 SyncBatchNorm layers become BatchNorm')
    assert not any(isinstance(module, torch.nn.SyncBatchNorm) for module in net.modules())
    torch.testing.assert_close(dict(net.state_dict()), expected, rtol=0, atol=0)
    assert all(parameters[name] is value for name, value in net.named_parameters()) and len(parameters) > 6
    assert net.training and net[0].up4[1].training and not net[0].up4[1].bias.requires_grad
    torch.testing.assert_close(net(maps), values)
    assert net[0].up4[1].num_batches_tracked == 4 and net[0].up4[1].running_mean.ne(0.5).all()
    assert without_sync_norms(net) is net and len(said) == 1


@MODELS.register_module(force=True)
class NormedModel(OneLayerModel):
    """With SyncBatchNorm of its own, and a BatchNorm that ``sync_bn`` would turn into one."""

    def __init__(self):
        super().__init__()
        self.norms = torch.nn.Sequential(torch.nn.SyncBatchNorm(2), torch.nn.BatchNorm1d(2))

    def forward(self, x, mode='loss'):
        return super().forward(self.norms(x), mode)


def train_normed(folder, rank, port):
    meeting = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=2, MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
    os.environ.update({name: str(value) for name, value in meeting.items()}, GLOO_SOCKET_IFNAME='lo')
    cfg = config(folder / 'run', launcher='pytorch', sync_bn='torch')
    cfg.model.type = 'NormedModel'
    cfg.env_cfg = dict(dist_cfg=dict(backend='gloo'))
    runner = RUNNERS.build(cfg)
    runner.train()
    names = [type(module).__name__ for module in runner.model.module.norms]
    (folder / f'{rank}').write_text(f'{runner.iter} {names}')


@pytest.mark.skipif(torch.cuda.is_available(), reason='needs a machine without a GPU')
def test_train__two_processes_on_cpu_with_sync_norms(tmp_path):
    port = runs.free_port()
    pids = [runs.fork(lambda rank=rank: train_normed(tmp_path, rank, port), tmp_path / 'log') for rank in range(2)]
    assert [runs.exit_code(pid) for pid in pids] == [0, 0], (tmp_path / 'log').read_text()
    for rank in '01':
        assert (tmp_path / rank).read_text() == "4 ['_BatchNormXd', 'BatchNorm1d']"
    assert (tmp_path / 'log').read_text().count('No GPU here: 1 SyncBatchNorm layers') == 1
