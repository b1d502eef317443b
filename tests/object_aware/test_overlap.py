"""Crops of scenes without objects: they overlap the scene's own window by more than the rule asks."""

import numpy as np
import pytest

from object_aware.overlap import draw_overlap, iou, overlap_windows
from object_aware.rules import WindowRules, broken_frame


def test_iou__of_known_rectangles():
    windows = [[0, 0, 2, 2], [1, 0, 3, 2], [2, 2, 4, 4], [0, 0, 4, 4]]
    np.testing.assert_allclose(iou(windows, [0, 0, 2, 2]), [1, 1 / 3, 0, 1 / 4])


@pytest.mark.parametrize(
    ('size', 'out_size', 'window'),
    [
        ((100, 100), (64, 64), [0, 0, 100, 100]),
        ((120, 100), (64, 64), [0, 0, 120, 100]),  # within 3/4 .. 4/3: the whole scene
        ((200, 90), (64, 64), [40, 0, 160, 90]),  # 4/3 of 90
        ((90, 200), (64, 64), [0, 40, 90, 160]),
        ((100, 100), (32, 64), [0, 16.67, 100, 83.33]),  # crops of 2:1; windows down to 3/2
        ((15, 100), (64, 64), None),  # would be enlarged more than 4 times
    ],
)
def test_overlap_windows__largest_centred(size, out_size, window):
    found = overlap_windows(np.array([size]), out_size, WindowRules())[0]
    if window is None:
        assert np.isnan(found).all()
    else:
        np.testing.assert_allclose(found, window, atol=0.02)
        assert broken_frame(found, size, out_size, WindowRules()) == []


@pytest.mark.parametrize('min_iou', [0.5, 0.8])
def test_draw_overlap__obeys_and_varies(min_iou):
    rules = WindowRules(min_iou=min_iou)
    rng = np.random.default_rng(0)
    for size in ((100, 100), (300, 90), (50, 64)):
        own = overlap_windows(np.array([size]), (64, 64), rules)[0]
        drawn = [draw_overlap(own, size, (64, 64), rules, rng) for _ in range(200)]
        drawn = np.array([window for window in drawn if window is not None])
        assert len(drawn) > 150 and drawn.dtype == np.float32
        assert all(broken_frame(window, size, (64, 64), rules) == [] for window in drawn)
        overlap = iou(drawn, own)
        assert overlap.min() > min_iou
        assert overlap.min() < min_iou + 0.1 and overlap.max() > min_iou + 0.1


def test_draw_overlap__none_where_nothing_fits():
    own = overlap_windows(np.array([[17, 17]]), (64, 64), WindowRules())[0]
    rules = WindowRules(min_iou=0.99, aspect=(0.9, 1.1))
    assert draw_overlap(own, (17, 17), (64, 64), rules, np.random.default_rng(0), max_tries=1) is None
