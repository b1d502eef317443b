"""Samples of the crop dataset: values, determinism, and inputs that are refused before training."""

import math

import numpy as np
import pytest
import torch
from mmengine.dataset import default_collate
from PIL import Image
from torch.utils.data import DataLoader

from mixedae.registry import DATASETS
from object_aware import ObjectCropDataset, build_crop_index, read_scenes, violations


@pytest.fixture
def index_file(coco_scenes, tmp_path):
    build_crop_index(read_scenes([coco_scenes]), 48).save(tmp_path / 'crops.safetensors')
    return tmp_path / 'crops.safetensors'


def equal(a, b):
    return torch.equal(a['inputs'], b['inputs']) and torch.equal(
        a['data_samples']['window'], b['data_samples']['window']
    )


def test_object_crop_dataset__sample(index_file):
    dataset = ObjectCropDataset(index_file)
    assert len(dataset) == 24 and dataset.size == (48, 48)
    np.testing.assert_array_equal(dataset.scene_ids, np.repeat(np.arange(8), 3))
    sample = dataset[5]
    assert set(sample) == {'inputs', 'data_samples'}
    assert set(sample['data_samples']) == {'scene', 'object', 'window'}  # no class label
    assert sample['inputs'].shape == (3, 48, 48) and sample['inputs'].dtype == torch.uint8
    assert sample['data_samples']['scene'] == 1 and sample['data_samples']['object'] == 5
    assert sample['data_samples']['window'].dtype == torch.float32


def test_object_crop_dataset__pixels_are_those_of_the_emitted_window(index_file):
    plain = ObjectCropDataset(index_file, flip_prob=0.0)
    flipped = ObjectCropDataset(index_file, flip_prob=1.0)
    for number in range(0, 24, 5):
        sample = plain[(number, 3)]
        window = sample['data_samples']['window'].tolist()
        with Image.open(plain.path(sample['data_samples']['scene'])) as image:
            oracle = image.convert('RGB').resize((48, 48), Image.Resampling.BICUBIC, box=window, reducing_gap=2.0)
        np.testing.assert_array_equal(sample['inputs'].permute(1, 2, 0), np.asarray(oracle))
        mirrored = flipped[(number, 3)]
        assert torch.equal(mirrored['data_samples']['window'], sample['data_samples']['window'])
        assert torch.equal(mirrored['inputs'], sample['inputs'].flip(2))


def test_object_crop_dataset__windows_obey_the_rules_and_vary(index_file):
    dataset = ObjectCropDataset(index_file)
    index = dataset.index
    windows = set()
    for epoch in range(30):
        number, window, _ = dataset.draw((7, epoch))
        box = index.boxes[index.targets[number]]
        assert violations(window, box, index.others(number), (200, 180), (48, 48), index.rules) == []
        windows.add(tuple(window.tolist()))
    assert len(windows) == 30


def test_object_crop_dataset__a_sample_depends_on_seed_epoch_and_index_alone(index_file):
    first, second = ObjectCropDataset(index_file, seed=4), ObjectCropDataset(index_file, seed=4)
    second[3], second[(9, 1)]  # what was asked before does not matter
    assert equal(first[(2, 6)], second[(2, 6)])
    assert equal(first[2], first[(2, 0)])
    assert not equal(first[(2, 6)], first[(2, 7)])
    assert not equal(first[(2, 6)], ObjectCropDataset(index_file, seed=5)[(2, 6)])


@pytest.mark.parametrize('workers', [1, 2])
def test_object_crop_dataset__same_samples_with_any_number_of_workers(index_file, workers):
    dataset = ObjectCropDataset(index_file, seed=1)
    keys = [(k, 2) for k in range(8)]
    loader = DataLoader(dataset, batch_size=2, sampler=keys, num_workers=workers, collate_fn=default_collate)
    batches = list(loader)
    inputs = torch.cat([batch['inputs'] for batch in batches])
    windows = torch.cat([batch['data_samples']['window'] for batch in batches])
    assert inputs.shape == (8, 3, 48, 48) and windows.shape == (8, 4)
    assert batches[0]['data_samples']['scene'].tolist() == [0, 0]
    for k, key in enumerate(keys):
        assert torch.equal(inputs[k], dataset[key]['inputs'])
        assert torch.equal(windows[k], dataset[key]['data_samples']['window'])


def test_object_crop_dataset__flips_about_as_often_as_asked(index_file):
    dataset = ObjectCropDataset(index_file, flip_prob=0.25)
    flips = [dataset.draw((k % 24, k))[2] for k in range(1500)]
    assert np.mean(flips) == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 1500))


def test_object_crop_dataset__registered(index_file):
    dataset = DATASETS.build(dict(type='mixedae.ObjectCropDataset', index_file=str(index_file), size=(24, 24)))
    assert isinstance(dataset, ObjectCropDataset)
    assert dataset[0]['inputs'].shape == (3, 24, 24)


def test_object_crop_dataset__sizes_the_index_cannot_promise(index_file):
    for size in (49, (24, 48)):
        with pytest.raises(ValueError, match=r'was built for crops of 48x48 .* build it anew'):
            ObjectCropDataset(index_file, size)
    with pytest.raises(ValueError, match='flip_prob'):
        ObjectCropDataset(index_file, flip_prob=2)
    with pytest.raises(IndexError):
        ObjectCropDataset(index_file)[24]


def test_object_crop_dataset__missing_data(index_file, tmp_path):
    with pytest.raises(FileNotFoundError, match='does not exist: build it with'):
        ObjectCropDataset(tmp_path / 'none.safetensors')
    (tmp_path / 'images').rename(tmp_path / 'moved')
    with pytest.raises(FileNotFoundError, match='if the data moved, give image_root'):
        ObjectCropDataset(index_file)
    dataset = ObjectCropDataset(index_file, image_root=tmp_path / 'moved')
    assert dataset[0]['inputs'].shape == (3, 48, 48)
    (tmp_path / 'moved' / 's3.png').unlink()
    with pytest.raises(FileNotFoundError, match=r'1 of 8 images of crop index .* are not in .*moved \(s3\.png\)'):
        ObjectCropDataset(index_file, image_root=tmp_path / 'moved')


def test_preflight__finds_broken_and_foreign_images(index_file, tmp_path):
    dataset = ObjectCropDataset(index_file)
    calls = []
    dataset.preflight(lambda done, total: calls.append((done, total)))
    assert calls[-1] == (8, 8)
    (tmp_path / 'images' / 's2.png').write_bytes(b'broken')
    Image.new('RGB', (30, 30)).save(tmp_path / 'images' / 's5.png')
    with pytest.raises(ValueError, match=r'2 of 8 images cannot be used; the first: Image .*s2\.png does not decode'):
        dataset.preflight()
    with pytest.raises(RuntimeError, match=r's2\.png does not decode'):
        dataset[6]
    with pytest.raises(RuntimeError, match=r's5\.png has 30x30 pixels, but its annotation says 200x180'):
        dataset[15]


def test_object_crop_dataset__through_mmengines_loader(index_file):
    from mmengine.runner import Runner

    import mixedae  # noqa: F401  (registers the scope)

    loader = Runner.build_dataloader(
        dict(
            dataset=dict(type='mixedae.ObjectCropDataset', index_file=str(index_file)),
            sampler=dict(type='mixedae.GroupSampler', group_size=4),
            batch_size=8,
            num_workers=0,
            drop_last=True,
            collate_fn=dict(type='default_collate'),
        ),
        seed=11,
    )
    assert loader.sampler.seed == 11
    seen = []
    for batch in loader:
        assert batch['inputs'].shape == (8, 3, 48, 48) and batch['inputs'].dtype == torch.uint8
        for group in batch['data_samples']['scene'].reshape(2, 4).tolist():
            assert len(set(group)) == 4
        seen += batch['data_samples']['object'].tolist()
    assert sorted(seen) == list(range(24))
