"""What a training step may look like (accumulated, compiled, fused) and what it must not do: wait for the device."""

import collections
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MMLogger
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'models'))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'reliability'))
import small_runs as runs
from pretrain_cases import batch, masks, small_mixedae

from mixedae.engine import CompileHook, GuardedOptimWrapper
from mixedae.registry import HOOKS


def total(losses):
    return sum(value for key, value in losses.items() if key.startswith('loss'))


@pytest.mark.parametrize('options', [{}, dict(mode='full'), dict(positives='averaged')], ids=str)
def test_accumulation__equals_the_large_batch(options):
    """Both losses are means over groups, and every group has its own mask: parts of a batch add up to it."""
    after = []
    for parts in (1, 2):
        model = small_mixedae(**options).train()
        images, mask = batch(model), masks(model)
        wrapper = GuardedOptimWrapper(torch.optim.SGD(model.parameters(), lr=1.0), accumulative_counts=parts)
        wrapper.initialize_count_status(model, 0, parts)
        for part, part_mask in zip(images.chunk(parts), mask.chunk(parts), strict=True):
            assert len(part) % model.group_size == 0
            wrapper.update_params(total(model.loss(part, part_mask)))
        after.append(model.state_dict())
    initial = small_mixedae(**options).state_dict()
    assert not torch.equal(after[0]['encoder.patch_embed.proj.weight'], initial['encoder.patch_embed.proj.weight'])
    for key, value in after[0].items():
        torch.testing.assert_close(after[1][key], value, rtol=1e-9, atol=1e-12)


def test_accumulation__parts_of_a_batch_draw_masks_of_their_own():
    model = small_mixedae().train()
    drawn = []
    for _ in range(2):
        drawn.append(model.draw_mask(8, model.generator(), 'cpu'))
        model(batch(model), mode='loss')
    assert not torch.equal(drawn[0], drawn[1])


def test_compile_hook__same_losses_and_gradients():
    found = []
    for compiled in (False, True):
        model = small_mixedae().train()
        if compiled:
            hook = HOOKS.build(dict(type='mixedae.CompileHook', backend='aot_eager'))
            hook.before_train(SimpleNamespace(model=model, logger=MMLogger.get_current_instance()))
            assert all(
                block._compiled_call_impl is not None for block in (*model.encoder.blocks, *model.decoder.blocks)
            )
        losses = model.loss(batch(model), masks(model))
        total(losses).backward()
        found.append((losses, {key: p.grad for key, p in model.named_parameters()}))
    (losses, gradients), (compiled_losses, compiled_gradients) = found
    assert gradients.keys() == compiled_gradients.keys()  # the names of the weights are as before
    for key, value in losses.items():
        torch.testing.assert_close(compiled_losses[key], value, rtol=1e-9, atol=1e-12)
    for key, value in gradients.items():
        torch.testing.assert_close(compiled_gradients[key], value, rtol=1e-7, atol=1e-10)


def test_compile_hook__no_blocks():
    with pytest.raises(ValueError, match='found no Transformer block'):
        CompileHook().before_train(SimpleNamespace(model=torch.nn.Linear(2, 2)))


def test_fused_adamw__same_weights():
    after = []
    for fused in (False, True):
        model = small_mixedae().train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05, fused=fused)
        wrapper = GuardedOptimWrapper(optimizer)
        for _ in range(3):
            wrapper.update_params(total(model.loss(batch(model), masks(model))))
        after.append(model.state_dict())
    for key, value in after[0].items():
        torch.testing.assert_close(after[1][key], value, rtol=1e-6, atol=1e-9)


WAITS = ('aten::_local_scalar_dense', 'aten::is_nonzero', 'aten::nonzero', 'aten::equal', 'aten::masked_select')

ON_A_GPU = {
    ('finite.py', 'agreed'): 1,  # may this step change the weights?
    ('message_hub.py', '_get_valid_value'): 4,  # MMEngine's RuntimeInfoHook: the losses, computed before that decision
}
"""Where a step brings a number from the device, and how many."""

ON_THE_CPU = {
    ('positions.py', 'positions_of'),  # these look only if the tensor is on the CPU
    ('positions.py', 'take'),
    ('losses.py', 'homologous_contrastive_loss'),
    ('optimizer_wrapper.py', 'step'),  # AdamW's counters of steps, which lie on the CPU unless it is fused
}


class Waits(TorchDispatchMode):
    """Counts what makes the CPU wait for a device, by iteration and by the place in our code or MMEngine's."""

    def __init__(self, runner):
        super().__init__()
        self.runner = runner
        self.found = collections.defaultdict(collections.Counter)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name in WAITS:
            frame = sys._getframe()
            while '/torch/' in frame.f_code.co_filename or frame.f_code.co_filename == __file__:
                frame = frame.f_back
            self.found[self.runner.iter][(Path(frame.f_code.co_filename).name, frame.f_code.co_name)] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def amp_on_cpu(monkeypatch):
    """Mixed precision and its loss scaler without a GPU; the runner leaves the wrapper as the config has it."""
    monkeypatch.setattr('mixedae.engine.runner.adapt_to_device', lambda cfg: None)
    monkeypatch.setattr('mmengine.optim.optimizer.amp_optimizer_wrapper.is_cuda_available', lambda: True)
    monkeypatch.setattr(
        'mmengine.optim.optimizer.amp_optimizer_wrapper.GradScaler',
        lambda **options: torch.amp.GradScaler('cpu', **options),
    )


@pytest.mark.parametrize(
    'wrapper, scaled',
    [
        (dict(type='OptimWrapper'), None),
        (dict(type='AmpOptimWrapper', dtype='bfloat16'), False),
        (dict(type='AmpOptimWrapper', dtype='bfloat16', loss_scale=dict(init_scale=16.0)), True),
    ],
    ids=['float32', 'bfloat16', 'loss scaler'],
)
def test_step__waits_for_the_device_where_it_is_known(tmp_path, wrapper, scaled, amp_on_cpu):
    cfg = runs.pretraining(tmp_path / 'work', runs.write_pictures(tmp_path / 'pictures'), iters=6, every=9, workers=0)
    cfg.custom_hooks = [dict(type='mixedae.PretrainMeterHook', interval=50)]
    cfg.default_hooks.throughput = dict(type='mixedae.ThroughputHook')
    cfg.default_hooks.logger.interval = 50
    cfg.default_hooks.checkpoint.save_last = False
    cfg.optim_wrapper = dict(wrapper, optimizer=dict(type='AdamW', lr=1e-3))
    runner = runs.RUNNERS.build(cfg)
    with Waits(runner) as waits:
        runner.train()
    scaler = getattr(runner.optim_wrapper, 'loss_scaler', None)
    assert (scaler and scaler.is_enabled()) == scaled and runner.optim_wrapper.skipped == 0
    assert waits.found[0][('meter_hook.py', 'after_train_iter')] == 1  # measured in the first iteration: it is seen
    for iteration in (4, 5):  # neither an epoch's start nor a line in the log
        found = {place: count for place, count in waits.found[iteration].items() if place not in ON_THE_CPU}
        assert found == ON_A_GPU
