"""Windows that object crops are compared with: moved ones and those of whole scenes."""

import numpy as np
import pytest

from object_aware.baselines import SceneCropDataset, moved_window
from object_aware.building import build_crop_index
from object_aware.dataset import ObjectCropDataset
from object_aware.scenes import read_scenes


@pytest.fixture
def index_file(coco_scenes, tmp_path):
    path = tmp_path / 'crops.safetensors'
    build_crop_index(read_scenes([coco_scenes]), (32, 32)).save(path)
    return path


def test_moved_window__keeps_its_size_and_reaches_both_borders(rng):
    window = np.array([10.0, 20.0, 40.0, 60.0], np.float32)
    moved = np.stack([moved_window(window, (100, 80), rng) for _ in range(2000)])
    assert np.allclose(moved[:, 2:] - moved[:, :2], [30, 40], atol=1e-4)
    assert moved[:, 0].min() >= 0 and moved[:, 2].max() <= 100 and moved[:, 3].max() <= 80
    assert moved[:, :2].mean(0) == pytest.approx([35, 20], abs=1.0)  # uniform over 0..70 and 0..40
    assert moved[:, 0].min() < 1 and moved[:, 0].max() > 69
    assert moved_window([0, 0, 100, 80], (100, 80), rng).tolist() == [0, 0, 100, 80]


def test_scene_crops__same_scenes_as_object_crops_other_windows(index_file):
    objects = ObjectCropDataset(index_file)
    moved, scenes = (SceneCropDataset(index_file, windows=kind) for kind in ('moved', 'scene'))
    assert (moved.scene_ids == objects.scene_ids).all() and len(scenes) == len(objects)
    for key in ((0, 0), (3, 1), (5, 2)):
        number, window, _ = objects.draw(key)
        number_moved, window_moved, _ = moved.draw(key)
        assert number_moved == number
        assert window_moved[2:] - window_moved[:2] == pytest.approx(window[2:] - window[:2], abs=1e-3)
        assert not np.allclose(window_moved, window)
        _, whole, _ = scenes.draw(key)
        share = np.prod(whole[2:] - whole[:2]) / (200 * 180)
        assert 0.19 <= share <= 1.0
        assert (moved.draw(key)[1] == window_moved).all()  # a function of the key
    assert moved[(0, 0)]['inputs'].shape == (3, 32, 32)
    assert moved[(0, 0)]['data_samples']['scene'] == objects[(0, 0)]['data_samples']['scene']


def test_scene_crops__unknown_windows(index_file):
    with pytest.raises(ValueError, match=r"one of 'moved', 'scene', not 'all'"):
        SceneCropDataset(index_file, windows='all')
