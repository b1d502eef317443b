"""Masks of the next step, drawn while the device is busy with this one: the same masks, whatever happens in between."""

import copy
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from pretrain_cases import batch, small_mae, small_mixedae


def fresh(model, step, count, seed=0, rank=None):
    """The masks of a model that has drawn nothing ahead."""
    other = copy.copy(model)
    other.step, other.seed, other.rank, other._ahead = step, seed, rank, (None, None)
    return type(model).drawn(other, images_of(count))


@pytest.fixture(params=[small_mixedae, small_mae], ids=['MixedAE', 'MAE'])
def model(request):
    return request.param(encoder=dict(height=16, width=24)).train()


def images_of(count):
    return batch(small_mixedae(), groups=count // 4)


def test_drawn__masks_are_those_of_the_step(model):
    used, drawn = [], model.drawn
    model.drawn = lambda images: used.append(drawn(images)) or used[-1]
    for count in (8, 8, 4, 8):  # the last batch of an epoch may be smaller
        model(images_of(count), mode='loss')
    model.step = 9  # a resumed run
    model(images_of(8), mode='loss')
    model.seed, model.rank = 5, 3
    model(images_of(8), mode='loss')
    expected = [fresh(model, step, count) for step, count in enumerate((8, 8, 4, 8))]
    expected += [fresh(model, 9, 8), fresh(model, 10, 8, seed=5, rank=3)]
    assert all(torch.equal(a, b) for a, b in zip(used, expected, strict=True))
    assert not torch.equal(used[5], fresh(model, 10, 8))


def test_drawn__a_step_finds_its_masks_drawn(model):
    """One draw a step, and it is for the next one."""
    steps, draw = [], model.draw
    model.draw = lambda batch_size: steps.append(model.step) or draw(batch_size)
    for _ in range(3):
        model(images_of(8), mode='loss')
    assert steps == [0, 1, 2, 3]
    assert not any('ahead' in name for name in model.state_dict())
