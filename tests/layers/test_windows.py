"""Windows and padding: places by hand, and timm's partition."""

import pytest
import torch
from timm.models.vision_transformer_sam import window_partition

from mixedae.layers.padding import padded_patches, real_grids
from mixedae.layers.windows import empty_places, from_windows, num_windows, pad_to_windows, to_windows


def test_to_windows__by_hand():
    x = torch.arange(2 * 4 * 6).view(1, 8, 6, 1)[:, :4]
    windows = to_windows(x, 2)[..., 0]
    assert windows.shape == (6, 4) and num_windows((4, 6), 2) == 6
    assert windows[0].tolist() == [0, 1, 6, 7] and windows[1].tolist() == [2, 3, 8, 9]
    assert windows[3].tolist() == [12, 13, 18, 19]


@pytest.mark.parametrize('grid', [(4, 4), (5, 7), (1, 9), (2, 2)])
def test_windows__round_trip_and_timm(grid):
    x = torch.randn(2, *grid, 3)
    windows = to_windows(pad_to_windows(x, 4), 4)
    assert torch.equal(windows, window_partition(x, 4)[0].flatten(1, 2))
    assert torch.equal(from_windows(windows, grid, 4), x)


def test_empty_places__by_hand():
    padded = torch.tensor([[False, False, True, False, False, True], [False] * 6])  # 2 x 3 grids
    inside = empty_places(padded, (2, 3), 2, outside=False)
    assert inside.view(2, 2, 4).tolist() == [
        [[False] * 4, [True, False, True, False]],
        [[False] * 4, [False] * 4],
    ]
    both = empty_places(padded, (2, 3), 2, outside=True)
    assert both.view(2, 2, 4)[0, 1].tolist() == [True] * 4 and both.view(2, 2, 4)[1, 1].tolist() == [0, 1, 0, 1]


def test_real_grids__trailing_zeros_are_padding():
    images = torch.zeros(4, 3, 32, 48)
    images[0] = torch.randn(3, 32, 48)
    images[1, :, :16, :20] = 1.0  # 1 patch high, 20 pixels wide: 2 patches
    images[2, 2, 17, 3] = -0.1  # one channel of one pixel is enough
    assert real_grids(images, 16) == [(2, 3), (1, 2), (2, 1), (1, 1)]


def test_padded_patches__by_hand():
    padded = padded_patches([(2, 3), (1, 2)], (2, 3))
    assert padded.tolist() == [[False] * 6, [False, False, True, True, True, True]]
