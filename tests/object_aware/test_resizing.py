"""Our bicubic resizing against Pillow's, bit for bit."""

import numpy as np
import pytest
from PIL import Image

from object_aware.resizing import resize_window


@pytest.mark.parametrize('seed', range(12))
def test_resize_window__pillows_bits(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(20, 300, 2)
    out_height, out_width = rng.integers(5, 150, 2)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    x1, x2 = np.float32(np.sort(rng.uniform(0, width - 2, 2)) + (0, 2)).tolist()
    y1, y2 = np.float32(np.sort(rng.uniform(0, height - 2, 2)) + (0, 2)).tolist()
    if seed % 4 == 0:
        x1, y1, x2, y2 = 0.0, 0.0, float(width), float(height)
    if seed % 4 == 1:
        x1, y1, x2, y2 = 3.0, 4.0, 15.0, 19.0  # whole pixels
    bicubic = Image.Resampling.BICUBIC  # in two steps: which pass goes first depends on Pillow's version
    image = Image.fromarray(pixels).resize((out_width, height), bicubic, box=(x1, 0, x2, height))
    image = image.resize((out_width, out_height), bicubic, box=(0, y1, out_width, y2))
    wanted = np.asarray(image).transpose(2, 0, 1)
    out = np.empty((3, out_height, out_width), dtype=np.uint8)
    resize_window(pixels, x1, y1, x2, y2, False, out)
    np.testing.assert_array_equal(out, wanted)
    resize_window(pixels, x1, y1, x2, y2, True, out)
    np.testing.assert_array_equal(out, wanted[:, :, ::-1])


@pytest.mark.parametrize(
    'window', [(-1.0, 0, 9, 9), (0, 0, 9, 20.5), (5, 0, 5, 9), (0, 9, 9, 3), (float('nan'), 0, 9, 9), (0, 0, 1e9, 9)]
)
def test_resize_window__outside_its_pixels(window):
    with pytest.raises(ValueError, match='outside its pixels, or has no area'):
        resize_window(np.zeros((20, 20, 3), np.uint8), *window, False, np.empty((3, 8, 8), np.uint8))
