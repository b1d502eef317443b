"""Loss or gradient that is not finite: the step is left out and counted; too many are captured, to be replayed."""

import itertools
import sys
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, RUNNERS
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
import small_runs as runs

from mixedae.checkpoints import read_file
from mixedae.engine.configs import read_config
from mixedae.engine.finite import GuardedAmpOptimWrapper, GuardedOptimWrapper, NotFinite, all_finite
from mixedae.engine.replay import replay
from tools import replay as replay_tool


def test_all_finite():
    fine = [torch.ones(3), torch.full((2, 2), 3e37), torch.zeros(0)]
    assert all_finite(fine) and all_finite([])
    for wrong in (float('nan'), float('inf'), -float('inf')):
        assert not all_finite([*fine, torch.tensor([1.0, wrong])])


def test_all_finite__stays_on_the_device():
    for answer in (all_finite([], 'meta'), all_finite([torch.zeros(0, device='meta')])):
        assert (answer.device.type, answer.dtype, answer.shape) == ('meta', torch.bool, ())


def test_guard__no_gradients_asks_on_the_device_of_the_weights(monkeypatch):
    asked = []
    monkeypatch.setattr('mixedae.engine.finite.agreed', lambda flag: asked.append(flag.device.type) or False)
    net = nn.Linear(2, 1, device='meta')
    wrapper = GuardedOptimWrapper(torch.optim.SGD(net.parameters(), lr=0.1))
    wrapper.step()
    wrapper._bad_loss = torch.tensor(False)
    wrapper.step()
    assert asked == ['meta', 'meta']


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.layer = nn.Linear(2, 1)

    def forward(self, x):
        return self.layer(self.norm(x)).square().mean()


def state(net, wrapper):
    optimizer = wrapper.optimizer.state_dict()['state']
    found = [value.detach().clone() for value in net.parameters()]
    return found + [value.clone() for entry in optimizer.values() for value in entry.values()]


def same(a, b):
    return all(x.numpy().tobytes() == y.numpy().tobytes() for x, y in zip(a, b, strict=True))


@pytest.fixture
def amp_on_cpu(monkeypatch):
    """The mixed precision wrapper with a loss scaler that works without a GPU."""
    monkeypatch.setattr('mmengine.optim.optimizer.amp_optimizer_wrapper.is_cuda_available', lambda: True)
    monkeypatch.setattr(
        'mmengine.optim.optimizer.amp_optimizer_wrapper.GradScaler',
        lambda **options: torch.amp.GradScaler('cpu', **options),
    )


WRAPPERS = {  # a scale of 1 or a fixed one: every overflow counts
    'plain': (GuardedOptimWrapper, {}),
    'bfloat16': (GuardedAmpOptimWrapper, dict(dtype='bfloat16')),
    'scale of 1': (GuardedAmpOptimWrapper, dict(loss_scale=dict(init_scale=1.0))),
    'fixed scale': (GuardedAmpOptimWrapper, dict(loss_scale=8.0)),
}


@pytest.mark.parametrize('accumulate', [1, 2])
@pytest.mark.parametrize('wrong', ['loss', 'gradient'])
@pytest.mark.parametrize('kind', WRAPPERS)
def test_guard__bad_step_changes_nothing(accumulate, wrong, kind, amp_on_cpu):
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    guarded, options = WRAPPERS[kind]
    wrapper = guarded(optimizer=optimizer, accumulative_counts=accumulate, clip_grad=dict(max_norm=1.0), **options)
    wrapper.initialize_count_status(net, 0, 100)

    def go(bad_at=None):
        for k in range(accumulate):
            x = torch.randn(4, 2)
            loss = net(x)
            if bad_at == k and wrong == 'loss':
                net(x * float('nan'))  # the running statistics of the batch norm are not finite now
                loss = loss * float('inf')
            if bad_at == k and wrong == 'gradient':
                root = (net.layer.weight * 0).sum().abs()
                loss = loss + root.sqrt()  # 0, with an infinite gradient
                assert loss.isfinite()
            wrapper.update_params(loss)

    go()
    before, buffers = state(net, wrapper), [buffer.clone() for buffer in net.buffers()]
    for _ in range(3):
        go(bad_at=0)
        assert same(before, state(net, wrapper))
        assert all(buffer.isfinite().all() for buffer in net.buffers())
    assert (wrapper.skipped, wrapper.in_a_row) == (3, 3)
    assert same(buffers, net.buffers()) == (wrong == 'loss' and accumulate == 1), 'a finite loss counts'
    go()
    assert not same(before, state(net, wrapper)) and (wrapper.skipped, wrapper.in_a_row) == (3, 0)
    assert all(p.grad is None for p in net.parameters())


def one_of_two(folder, rank, kind):
    """Process 1 has a loss that is not finite (its gradient is); says what became of the step."""
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/meeting', rank=rank, world_size=2)
    torch.manual_seed(0)
    net = Net()
    guarded, options = WRAPPERS[kind]
    wrapper = guarded(optimizer=torch.optim.AdamW(net.parameters(), lr=0.1), **options)
    wrapper.initialize_count_status(net, 0, 100)
    counts = []
    for wrong in (False, True, False):
        before = state(net, wrapper)
        loss = net(torch.randn(4, 2))
        wrapper.update_params(loss + float('inf') if wrong and rank == 1 else loss)
        counts.append((wrapper.skipped, wrapper.in_a_row, same(before, state(net, wrapper)) if wrong else None))
    (folder / f'{rank}').write_text(repr(counts))


@pytest.mark.parametrize('kind', WRAPPERS)
def test_guard__two_processes_agree(tmp_path, kind, amp_on_cpu):
    pids = [runs.fork(lambda rank=rank: one_of_two(tmp_path, rank, kind), tmp_path / 'log') for rank in range(2)]
    assert [runs.exit_code(pid) for pid in pids] == [0, 0], (tmp_path / 'log').read_text()
    for rank in '01':
        assert (tmp_path / rank).read_text() == '[(0, 0, None), (1, 1, True), (1, 0, None)]'


def test_guard__loss_scaler(amp_on_cpu):
    """An overflow is the scaler's business and lowers its scale; a loss that is not finite is left out and counted."""
    net = nn.Linear(2, 1)
    wrapper = GuardedAmpOptimWrapper(loss_scale=dict(init_scale=8.0), optimizer=torch.optim.AdamW(net.parameters()))
    wrapper.initialize_count_status(net, 0, 100)
    wrapper.update_params(net(torch.ones(1, 2)).sum())
    before = state(net, wrapper)
    wrapper.update_params(net(torch.ones(1, 2)).sum() * float('nan'))
    assert same(before, state(net, wrapper)) and wrapper.in_a_row == 1
    assert wrapper.loss_scaler.get_scale() == 4
    wrapper.update_params(net(torch.full((1, 2), 1e38)).sum())  # 4e38 overflows, 1e38 does not
    assert same(before, state(net, wrapper)) and wrapper.skipped == 1
    assert wrapper.loss_scaler.get_scale() == 2
    wrapper.update_params(net(torch.ones(1, 2)).sum())
    assert not same(before, state(net, wrapper)) and wrapper.in_a_row == 0
    assert wrapper.state_dict()['loss_scaler']['scale'] == 2


def test_guard__overflow_counts_when_the_scale_is_down_to_1(amp_on_cpu):
    net = nn.Linear(2, 1)
    wrapper = GuardedAmpOptimWrapper(loss_scale=dict(init_scale=4.0), optimizer=torch.optim.AdamW(net.parameters()))
    wrapper.initialize_count_status(net, 0, 100)
    before, found = state(net, wrapper), []
    for _ in range(4):
        root = (net.weight * 0).sum().abs().sqrt()  # 0, with a gradient that is not finite
        wrapper.update_params(net(torch.ones(1, 2)).sum() + root)
        found.append((wrapper.loss_scaler.get_scale(), wrapper.skipped, wrapper.in_a_row))
    assert found == [(2, 0, 0), (1, 0, 0), (0.5, 1, 1), (0.25, 2, 2)]
    assert same(before, state(net, wrapper))


def test_guard__a_scale_changes_no_step(amp_on_cpu):
    """A power of two comes out of the gradients exactly, also where they are clipped."""
    after = []
    for guarded, options in WRAPPERS.values():
        torch.manual_seed(0)
        net = Net()
        wrapper = guarded(
            optimizer=torch.optim.AdamW(net.parameters(), lr=0.1), clip_grad=dict(max_norm=0.1), **options
        )
        for _ in range(3):
            wrapper.update_params(net(torch.randn(4, 2)))
        assert wrapper.skipped == 0
        after.append(state(net, wrapper))
    assert all(same(after[0], other) for other in after[1:])


@pytest.mark.parametrize('dtype', ['bfloat16', torch.bfloat16])
def test_guard__bfloat16_has_no_scaler(amp_on_cpu, dtype):
    def wrapper(**options):
        return GuardedAmpOptimWrapper(optimizer=torch.optim.AdamW(nn.Linear(2, 1).parameters()), **options)

    assert not wrapper(dtype=dtype).loss_scaler.is_enabled()
    assert not wrapper(dtype=dtype, loss_scale='dynamic').loss_scaler.is_enabled()
    assert wrapper(dtype=dtype, loss_scale=8.0).loss_scaler.get_scale() == 8  # asked for
    assert wrapper().loss_scaler.is_enabled() and wrapper(dtype='float16').loss_scaler.is_enabled()


def test_guard__goes_on_with_and_without_the_state_of_a_scaler(amp_on_cpu):
    def stepped(kind):
        guarded, options = WRAPPERS[kind]
        net = nn.Linear(2, 1)
        wrapper = guarded(optimizer=torch.optim.AdamW(net.parameters(), lr=0.1), **options)
        wrapper.update_params(net(torch.ones(1, 2)).sum())
        return net, wrapper

    for before, after in itertools.permutations(('plain', 'bfloat16', 'fixed scale'), 2):
        (_, old), (net, new) = stepped(before), stepped(after)
        new.load_state_dict(old.state_dict())
        moments = [list(wrapper.optimizer.state_dict()['state'][0].values()) for wrapper in (old, new)]
        assert same(*moments) and moments[0] is not moments[1]
        if after != 'plain':
            assert new.loss_scaler.get_scale() == (8 if after == 'fixed scale' else 1)
        new.update_params(net(torch.ones(1, 2)).sum())
        assert new.skipped == 0 and new.optimizer.state_dict()['state'][0]['step'] == 2
    (_, old), (_, new) = stepped('scale of 1'), stepped('fixed scale')
    new.load_state_dict(old.state_dict())
    assert new.loss_scaler.get_scale() == 1


def test_run__wrong_samples_are_left_out_and_counted(tmp_path):
    """Two of 20 samples are not numbers: their steps are left out, the run ends with finite weights."""
    cfg = runs.noisy(tmp_path / 'run', iters=14, workers=0, wrong=(3, 11))
    runs.finish(lambda folder: cfg, tmp_path / 'run')
    checkpoint = read_file(tmp_path / 'run' / 'iter_14.pth')
    assert checkpoint['message_hub']['runtime_info']['skipped_steps'] in (2, 3, 4)
    assert all(value.isfinite().all() for value in checkpoint['state_dict'].values() if value.is_floating_point())
    assert 'the step is left out, the weights are as before' in (tmp_path / 'run' / 'output_0.txt').read_text()


class Root(nn.Module):
    def forward(self, x):
        return (x - 1e9).sqrt()


@MODELS.register_module(force=True)
class WrongRoot(runs.NoisyModel):
    """One layer takes the root of negative numbers."""

    def __init__(self):
        super().__init__()
        self.net.insert(3, Root())


class ZeroRoot(nn.Module):
    def forward(self, x):
        return x + (x * 0).sum().abs().sqrt()  # x, with a gradient that is not finite


@MODELS.register_module(force=True)
class WrongGradient(runs.NoisyModel):
    """Its loss is finite; the gradient of what comes out of the layer before the root is not."""

    def __init__(self):
        super().__init__()
        self.net.insert(3, ZeroRoot())


def stopping(folder, limit, **changes):
    """A run that stops after ``limit`` bad steps; its config file."""
    cfg = runs.noisy(folder / 'run', iters=40, workers=0, every=100, **changes)
    cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
    cfg.default_hooks.checkpoint.save_best = None
    cfg.optim_wrapper.accumulative_counts = 1
    cfg.reliability = dict(finite=dict(limit=limit))
    return cfg


def run_file(cfg, path):
    cfg.dump(path)
    return RUNNERS.build(read_config(str(path)))


def test_run__stops_with_a_capture_that_replays(tmp_path, capsys):
    cfg = stopping(tmp_path, 4)
    cfg.model.type = 'WrongRoot'
    sentence = r'4 steps in a row were not finite, so the run stops at iteration 4\..*replay\.py'
    with pytest.raises(NotFinite, match=sentence):
        run_file(cfg, tmp_path / 'wrong.py').train()
    assert replay_tool.main([str(tmp_path / 'run' / 'captures' / 'step_4_rank_0.pth')]) == 1
    said = capsys.readouterr().out
    assert 'in the forward pass, in the output of net.3; its input is finite.' in said and '(then nan)' in said
    torch.save({'state_dict': {'w': torch.zeros(1)}}, tmp_path / 'other.pth')
    assert replay_tool.main([str(tmp_path / 'other.pth')]) == 2
    assert 'is no captured step' in capsys.readouterr().err


def test_replay__finds_the_place(tmp_path):
    """A sample that is not a number is found in the batch; a weight, in the weights."""
    with pytest.raises(NotFinite, match='2 steps in a row'):
        run_file(stopping(tmp_path, 2, wrong=range(20)), tmp_path / 'wrong.py').train()
    capture = tmp_path / 'run' / 'captures' / 'step_2_rank_0.pth'
    assert replay(capture).verdict() == 'First number that is not finite: in the batch: batch.x.'
    content = read_file(capture)
    again = dict(content, batch=None)  # as a batch of data samples is kept: by its place
    torch.save(again, tmp_path / 'again.pth')
    assert replay(tmp_path / 'again.pth', str(tmp_path / 'wrong.py')).batch == ['batch.x', 'batch.y']
    content['state_dict']['net.4.weight'][0, 0] = float('nan')
    torch.save(content, tmp_path / 'weights.pth')
    report = replay(tmp_path / 'weights.pth', str(tmp_path / 'wrong.py'))
    assert report.verdict() == 'First number that is not finite: in the weights before the step: net.4.weight.'


def test_replay__every_number_is_finite_this_time(tmp_path, capsys):
    """What was wrong was the batch: with another one the step is done to the end."""
    with pytest.raises(NotFinite, match='2 steps in a row'):
        run_file(stopping(tmp_path, 2, wrong=range(20)), tmp_path / 'wrong.py').train()
    capture = tmp_path / 'run' / 'captures' / 'step_2_rank_0.pth'
    content = read_file(capture)
    content['batch'] = {key: torch.ones_like(value) for key, value in content['batch'].items()}
    torch.save(content, capture)
    report = replay(capture)
    assert report.finite and report.verdict() == 'Every number is finite this time.'
    assert report.losses['loss'] > 0 and not (report.backward or report.gradients)
    assert replay_tool.main([str(capture)]) == 0
    assert capsys.readouterr().out.endswith('(then nan)\nEvery number is finite this time.\n')


def test_replay__finite_loss_and_other_gradient(tmp_path, capsys):
    cfg = stopping(tmp_path, 3)
    cfg.model.type = 'WrongGradient'
    with pytest.raises(NotFinite, match='3 steps in a row'):
        run_file(cfg, tmp_path / 'wrong.py').train()
    capture = tmp_path / 'run' / 'captures' / 'step_3_rank_0.pth'
    report = replay(capture)
    assert not report.finite and not (report.forward or report.batch or report.weights)
    assert report.backward == ['net.2', 'net.1', 'net.0']  # not the layers behind the root
    assert report.gradients == ['net.0.weight', 'net.0.bias', 'net.1.weight', 'net.1.bias']
    assert replay_tool.main([str(capture)]) == 1
    said = capsys.readouterr().out
    assert 'in the backward pass, the gradient at the output of net.2; the loss is finite.' in said
