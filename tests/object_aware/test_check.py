"""The check sees what the loader emits, and sees when it is wrong."""

import dataclasses

import numpy as np
import pytest
import torch

from object_aware import ObjectCropDataset, build_crop_index, read_scenes
from object_aware.check import check_dataset, main


@pytest.fixture
def index_file(coco_scenes, tmp_path):
    build_crop_index(read_scenes([coco_scenes]), 48).save(tmp_path / 'crops.npz')
    return tmp_path / 'crops.npz'


def test_check_dataset__no_violations(index_file):
    calls = []
    report = check_dataset(ObjectCropDataset(index_file), 90, progress=lambda done, total: calls.append((done, total)))
    assert report.samples == 92  # whole groups
    assert report.num_violations == 0
    assert report.measures.shape == (92, 4)
    assert report.measures[:, 0].min() >= 0.9 and report.measures[:, 3].max() < 0.3
    assert calls[-1] == (92, 92)
    assert '92 samples, 0 violations' in report.table()


class Wrong(ObjectCropDataset):
    """Emits windows that are moved by a third of their width."""

    def __getitem__(self, key):
        sample = super().__getitem__(key)
        window = sample['data_samples']['window']
        sample['data_samples']['window'] = window + torch.tensor([1.0, 0, 1, 0]) * (window[2] - window[0]) / 3
        return sample


def test_check_dataset__finds_wrong_windows(index_file):
    report = check_dataset(Wrong(index_file), 40)
    assert report.violations['offset'] > 10
    assert report.violations['inside'] > 10
    assert report.num_violations > 20


def test_check_dataset__finds_groups_of_one_scene(index_file):
    dataset = ObjectCropDataset(index_file)
    dataset.scene_ids = np.arange(len(dataset))  # the sampler is told a lie
    assert check_dataset(dataset, 200).violations['group'] > 10


def test_check_dataset__finds_a_scene_that_is_not_the_objects(index_file):
    dataset = ObjectCropDataset(index_file)
    dataset.index = dataclasses.replace(dataset.index, target_scenes=np.roll(dataset.index.target_scenes, 3))
    report = check_dataset(dataset, 24)
    assert report.num_violations > 0


def test_main__table_and_errors(index_file, tmp_path, capsys):
    assert main([str(index_file), '--num-samples', '20']) == 0
    assert '20 samples, 0 violations' in capsys.readouterr().out
    assert main([str(tmp_path / 'none.npz')]) == 2
    assert capsys.readouterr().err.startswith('error: Crop index ')
    assert main([str(index_file), '--size', '96']) == 2
    assert main([str(index_file), '--num-samples', '0']) == 2
