"""The meter hook inside a real MMEngine Runner on a tiny model."""

import json
import logging
from pathlib import Path

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from torch.utils.data import Dataset

import mixedae
from mixedae.engine import PretrainMeterHook
from mixedae.functional import draw_mixing_mask

DEPTH = 3


class Pictures(Dataset):
    def __init__(self, length: int = 64) -> None:
        self.images = torch.rand(length, 3, 32, 32, generator=torch.Generator().manual_seed(0)).mul(255).byte()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        return {'inputs': self.images[index]}


def run(work_dir: Path, batch_size: int = 8, drop_last: bool = True, seed: int = 3, iters: int = 4, **model) -> Runner:
    encoder = dict(arch=dict(embed_dim=24, depth=DEPTH, num_heads=2), img_size=32, patch_size=8)
    runner = Runner(
        model=dict(
            type='mixedae.MixedAE',
            encoder=encoder,
            decoder=dict(embed_dim=16, depth=1, num_heads=2),
            data_preprocessor=dict(type='ImgDataPreprocessor', mean=[127.5] * 3, std=[127.5] * 3),
            **model,
        ),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=Pictures(),
            batch_size=batch_size,
            num_workers=0,
            drop_last=drop_last,
            sampler=dict(type='DefaultSampler', shuffle=True),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=False, max_iters=iters),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3)),
        custom_hooks=[dict(type='mixedae.PretrainMeterHook', interval=2)],
        default_hooks=dict(logger=dict(type='LoggerHook', interval=2), checkpoint=dict(type='CheckpointHook')),
        visualizer=dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')]),
        randomness=dict(seed=seed),
        experiment_name=work_dir.name,
    )
    runner.train()
    return runner


def scalars(work_dir: Path) -> list[dict]:
    file = next(work_dir.glob('*/vis_data/scalars.json'))
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_meter_hook__writes_every_layer_and_the_last_one_to_the_log(tmp_path: Path) -> None:
    runner = run(tmp_path / 'a')
    lines = scalars(tmp_path / 'a')
    layers = [line for line in lines if 'topk_acc/layer_00' in line]
    assert [line['step'] for line in layers] == [1, 2, 4]
    for name in ('topk_acc', 'own_attention'):
        assert [f'{name}/layer_{i:02d}' in layers[0] for i in range(DEPTH + 1)] == [True] * DEPTH + [False]
        assert all(0 <= layers[0][f'{name}/layer_{i:02d}'] <= 1 for i in range(DEPTH))
    log = [line for line in lines if 'topk_acc' in line][-1]
    assert log['topk_acc'] == pytest.approx(layers[-1][f'topk_acc/layer_{DEPTH - 1:02d}'], abs=1e-6)
    assert log['loss'] == pytest.approx(log['loss_recon'] + log['loss_contrastive'], abs=1e-3)
    assert runner.model.measure is False


def test_meter_hook__gives_seed_and_iteration_to_the_model(tmp_path: Path) -> None:
    model = run(tmp_path / 'a', seed=5).model
    assert (model.seed, model.step) == (5, 4)


def test_meter_hook__same_seed_gives_the_same_run(tmp_path: Path) -> None:
    first = run(tmp_path / 'a', seed=1).model.state_dict()
    again = run(tmp_path / 'b', seed=1).model.state_dict()
    other = run(tmp_path / 'c', seed=2).model.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_meter_hook__batch_that_is_no_multiple_of_the_group_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'batch_size 6 .* not a multiple of the group size 4'):
        run(tmp_path / 'a', batch_size=6)


def test_meter_hook__missing_drop_last_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'drop_last=True'):
        run(tmp_path / 'a', drop_last=False)


def test_meter_hook__accuracy_at_chance_is_called_broken_once(tmp_path: Path) -> None:
    hook = PretrainMeterHook()
    run(tmp_path / 'a', iters=1)  # makes the logger that the hook writes to the current one
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    MMLogger.get_current_instance().addHandler(handler)
    hook._check_accuracy(0.29, 0.25, 0.286, step=100)
    assert not messages
    hook._check_accuracy(0.28, 0.25, 0.286, step=100)  # each patch keeps itself, and no more than that is found
    hook._check_accuracy(0.24, 0.25, 0.286, step=200)
    said = [message for message in messages if 'chance is 25.0%, and a patch that finds nothing but itself' in message]
    assert len(said) == 1 and 'has 28.6%' in said[0]


def test_model__masks_depend_on_seed_step_and_nothing_else() -> None:
    model = mixedae.models.MixedAE(
        encoder=dict(arch=dict(embed_dim=24, depth=1, num_heads=2), img_size=32, patch_size=8),
        decoder=dict(embed_dim=16, depth=1, num_heads=2),
    )

    def masks(seed: int, step: int) -> torch.Tensor:
        model.seed, model.step = seed, step
        torch.rand(3)  # the global generator plays no part
        return model.draw_mask(2, model.generator(), 'cpu')

    assert torch.equal(masks(0, 7), masks(0, 7))
    assert not torch.equal(masks(0, 7), masks(0, 8))
    assert not torch.equal(masks(0, 7), masks(1, 7))
    assert masks(0, 7).shape == draw_mixing_mask(2, 16, 4).unsqueeze(1).shape
