"""Scenes in the memory of the device: its crops are those of the loader."""

import pytest
import torch

from mixedae.registry import DATASETS, MODELS
from object_aware.building import build_crop_index
from object_aware.dataset import ObjectCropDataset
from object_aware.device_scenes import DeviceScenes, resize_weights
from object_aware.scenes import read_scenes


@pytest.fixture
def index_file(write_coco, tmp_path):
    boxes = [[20, 20, 40, 40], [120, 30, 50, 40]]
    scenes = [(f's{k}.png', (200 - 6 * k, 110 + 7 * k), boxes) for k in range(6)]
    path = tmp_path / 'crops.safetensors'
    build_crop_index(read_scenes([write_coco(scenes)]), (32, 32)).save(path)
    return path


def config(index_file):
    return dict(type='mixedae.DeviceScenes', index_file=str(index_file), size=32, mean=[0.0] * 3, std=[1.0] * 3)


def windows_of(index_file):
    return DATASETS.build(
        dict(type='mixedae.WindowDataset', dataset=dict(type='mixedae.ObjectCropDataset', index_file=str(index_file)))
    )


def test_cut__crops_of_the_loader_to_one_level(index_file):
    crops, windows = ObjectCropDataset(index_file), windows_of(index_file)
    keys = [(i, epoch) for i in range(len(crops)) for epoch in range(3)]
    rows = torch.stack([windows[key]['inputs'] for key in keys])
    got = MODELS.build(config(index_file)).cut(rows)
    want = torch.stack([crops[key]['inputs'] for key in keys])
    difference = (got.int() - want.int()).abs()
    assert rows[:, 5].unique().tolist() == [0.0, 1.0]  # flipped and not
    assert difference.max() <= 1 and difference.float().mean() < 0.01


def test_forward__windows_and_images_are_normalised_alike(index_file):
    module = DeviceScenes(index_file, 32, mean=[10.0] * 3, std=[2.0] * 3)
    row = windows_of(index_file)[(0, 0)]
    out = module({'inputs': row['inputs'][None], 'data_samples': None})['inputs']
    crop = module.cut(row['inputs'][None])
    assert torch.equal(out, (crop.float() - 10) / 2)
    assert torch.equal(module({'inputs': crop})['inputs'], out)
    assert all('scenes' not in name for name in module.state_dict())


def test_window_dataset__has_what_the_group_sampler_needs(index_file):
    windows, crops = windows_of(index_file), ObjectCropDataset(index_file)
    assert len(windows) == len(crops) and (windows.scene_ids == crops.scene_ids).all()
    sample, other = windows[(2, 1)], crops[(2, 1)]
    assert sample['data_samples']['object'] == other['data_samples']['object']
    assert torch.equal(sample['data_samples']['window'], other['data_samples']['window'])


def test_load__refuses_more_than_the_limit(index_file):
    module = DeviceScenes(index_file, 32, limit_gib=1e-6, mean=[0.0] * 3, std=[1.0] * 3)
    with pytest.raises(ValueError, match='raise it, or let the loader cut'):
        module.cut(torch.zeros(1, 6))


def test_resize_weights__a_line_of_its_own_length_is_the_identity():
    weights = resize_weights(torch.tensor([0.0]), torch.tensor([4.0]), torch.tensor([4]), 6, 4)
    assert torch.allclose(weights[0], torch.eye(4, 6))
