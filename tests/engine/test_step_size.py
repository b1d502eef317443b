"""The warning before a run: images of a step, and what the rate is for."""

import pytest
from mmengine.config import Config

from mixedae.engine.step_size import check_step_size


def config(batch=2, parts=None, rate=1e-4, **scale):
    wrapper = dict(optimizer=dict(lr=rate) if rate else dict())
    if parts is not None:
        wrapper['accumulative_counts'] = parts
    return Config(dict(train_dataloader=dict(batch_size=batch), optim_wrapper=wrapper, auto_scale_lr=scale or None))


@pytest.mark.parametrize(
    'cfg, processes',
    [
        (config(2, base_batch_size=16), 8),
        (config(2, 8, base_batch_size=16), 1),  # what the warning proposes
        (config(2, 8, base_batch_size=2, accumulative_counts=8), 1),  # our configs for one small GPU
        (config(16, base_batch_size=2, accumulative_counts=8), 1),
        (config(2, base_batch_size=16, enable=True), 1),  # MMEngine scales it
        (config(2), 1),
        (Config(dict(model=dict())), 1),
    ],
)
def test_check_step_size__fits_or_is_not_known(cfg, processes):
    assert check_step_size(cfg, processes) is None


def test_check_step_size__one_gpu_of_eight():
    """mmcfg/coco/..._8xb2-... on one GPU: 2 images a step where the rate is for 16."""
    assert check_step_size(config(2, base_batch_size=16, enable=False)) == (
        '2 images a step (2 a process x 1 x 1 added up), but the learning rate 0.0001 is for 16: set '
        'optim_wrapper.accumulative_counts=8 (then iterations are parts of a step), or '
        'optim_wrapper.optimizer.lr=3.5e-05 (by the square root of the ratio; untuned).'
    )


def test_check_step_size__more_images_than_meant():
    text = check_step_size(config(2, 8, base_batch_size=2, accumulative_counts=8), 4)
    assert text.startswith('64 images a step (2 a process x 4 x 8 added up), but the learning rate 0.0001 is for 16')
    assert 'accumulative_counts=2 (' in text and 'lr=0.0002 (' in text
    text = check_step_size(config(12, base_batch_size=16))
    assert 'accumulative_counts' not in text and 'set optim_wrapper.optimizer.lr=8.7e-05' in text
    assert check_step_size(config(12, rate=None, base_batch_size=16)).endswith('but the learning rate is for 16.')
    assert check_step_size(config(1, base_batch_size=2)).startswith('1 image a step')
