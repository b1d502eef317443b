"""patchify / unpatchify against the loops of tests/oracles.py."""

import numpy as np
import oracles
import pytest
import torch

from mixedae.functional import patchify, unpatchify


@pytest.mark.parametrize(
    'batch,height,width,patch', [(2, 4, 4, 2), (1, 6, 4, 2), (2, 4, 12, 4), (3, 5, 10, 5), (1, 3, 3, 1)]
)
def test_patchify__oracle(rng, batch, height, width, patch):
    images = rng.normal(size=(batch, 3, height, width))
    ours = patchify(torch.from_numpy(images), patch)
    assert ours.shape == (batch, height * width // patch**2, patch * patch * 3)
    np.testing.assert_array_equal(ours.numpy(), oracles.patchify(images, patch))


def test_patchify__order_is_row_column_channel():
    image = torch.arange(3 * 4 * 6).view(1, 3, 4, 6)  # value = c * 24 + y * 6 + x
    patches = patchify(image, 2)
    assert patches[0, 0].tolist() == [0, 24, 48, 1, 25, 49, 6, 30, 54, 7, 31, 55]
    assert patches[0, 1, 0] == 2 and patches[0, 3, 0] == 12  # next column, then next row of patches


@pytest.mark.parametrize('height,width,patch', [(4, 4, 2), (6, 4, 2), (4, 12, 4)])
def test_unpatchify__inverts_patchify(rng, height, width, patch):
    images = torch.from_numpy(rng.normal(size=(2, 3, height, width)))
    grid = (height // patch, width // patch)
    assert torch.equal(unpatchify(patchify(images, patch), patch, grid), images)
    patches = torch.from_numpy(rng.normal(size=(2, grid[0] * grid[1], patch * patch * 3)))
    assert torch.equal(patchify(unpatchify(patches, patch, grid), patch), patches)


def test_patchify__leading_dimensions(rng):
    images = torch.from_numpy(rng.normal(size=(2, 3, 3, 4, 6)))  # (G, g, 3, H, W)
    flat = patchify(images.flatten(0, 1), 2).view(2, 3, 6, 12)
    assert torch.equal(patchify(images, 2), flat)
    assert torch.equal(unpatchify(flat, 2, (2, 3)), images)


def test_patchify__non_contiguous(rng):
    images = torch.from_numpy(rng.normal(size=(2, 6, 4, 3))).permute(0, 3, 1, 2)  # channels last in memory
    np.testing.assert_array_equal(patchify(images, 2).numpy(), oracles.patchify(images.numpy(), 2))
    patches = torch.from_numpy(rng.normal(size=(2, 12, 6))).transpose(1, 2)
    again = patchify(unpatchify(patches, 2, (2, 3)), 2)
    assert torch.equal(again, patches)


def test_patchify__gradient(rng):
    images = torch.from_numpy(rng.normal(size=(1, 3, 4, 4))).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: patchify(x, 2), images)
    patches = torch.from_numpy(rng.normal(size=(1, 4, 12))).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: unpatchify(x, 2, (2, 2)), patches)


@pytest.mark.parametrize('dtype', [torch.uint8, torch.float16, torch.bfloat16, torch.float32])
def test_patchify__keeps_dtype(dtype):
    images = torch.arange(48).view(1, 3, 4, 4).to(dtype)
    assert patchify(images, 2).dtype == dtype
    assert torch.equal(unpatchify(patchify(images, 2), 2, (2, 2)), images)


@pytest.mark.parametrize('shape,patch', [((1, 3, 5, 4), 2), ((1, 3, 4, 5), 2), ((1, 3, 4, 4), 0), ((1, 3, 4, 4), 8)])
def test_patchify__bad_size(shape, patch):
    with pytest.raises(ValueError, match=r'\d'):
        patchify(torch.zeros(shape), patch)


@pytest.mark.parametrize(
    'shape,patch,grid', [((1, 4, 12), 2, (2, 3)), ((1, 4, 12), 3, (2, 2)), ((1, 4, 13), 2, (2, 2))]
)
def test_unpatchify__bad_shape(shape, patch, grid):
    with pytest.raises(ValueError, match=r'\d'):
        unpatchify(torch.zeros(shape), patch, grid)
