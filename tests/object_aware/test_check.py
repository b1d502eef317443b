"""The check sees what the loader emits, and sees when it is wrong."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from object_aware import ObjectCropDataset, WindowRules, build_crop_index, read_scenes
from object_aware.check import check_dataset, main, measure_crops
from object_aware.synthetic import encode_rle


@pytest.fixture
def index_file(coco_scenes, tmp_path):
    build_crop_index(read_scenes([coco_scenes]), 48).save(tmp_path / 'crops.safetensors')
    return tmp_path / 'crops.safetensors'


def test_check_dataset__no_violations(index_file):
    calls = []
    report = check_dataset(ObjectCropDataset(index_file), 90, progress=lambda done, total: calls.append((done, total)))
    assert report.samples == 92  # whole groups
    assert report.num_violations == 0
    assert report.measures.shape == (92, 5)
    assert report.measures[:, 0].min() >= 0.9 and report.measures[:, 3].max() < 0.3
    assert calls[-1] == (184, 184)  # loaded, then measured
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


class WrongScene(ObjectCropDataset):
    """Says that every crop is from the next scene."""

    def __getitem__(self, key):
        sample = super().__getitem__(key)
        sample['data_samples']['scene'] = (sample['data_samples']['scene'] + 1) % len(self.index.names)
        return sample


def test_check_dataset__finds_a_scene_that_is_not_the_objects(index_file):
    assert check_dataset(WrongScene(index_file), 24).violations == {'scene': 24, 'group': 0}


def grown(window, factors):
    centre, half = (window[:2] + window[2:]) / 2, (window[2:] - window[:2]) / 2 * np.array(factors)
    return np.concatenate([centre - half, centre + half])


PLANTS = {  # rule: what is done to an emitted window of a 200 x 180 scene
    'inside': lambda window: window + (window[2] - window[0]) * np.array([0.6, 0, 0.6, 0]),
    'offset': lambda window: window + (window[2] - window[0]) * np.array([0.4, 0, 0.4, 0]),
    'fill': lambda window: grown(window, (4, 4)),
    'others': lambda window: np.array([0, 0, 200, 180]),
    'upsample': lambda window: grown(window, (0.1, 0.1)),
    'aspect': lambda window: grown(window, (2, 0.9)),
    'border': lambda window: grown(window, (1, 6)),
}


@pytest.mark.parametrize('rule', PLANTS)
def test_check_dataset__finds_each_broken_rule(index_file, rule):
    class Planted(ObjectCropDataset):
        def draw(self, key):
            number, window, flip = super().draw(key)
            broken = PLANTS[rule](window.astype(float)) if number % 2 else window
            return number, broken.astype(np.float32), flip

    report = check_dataset(Planted(index_file), 48, windows_only=True)
    assert 20 <= report.violations[rule] <= 28  # half of the crops
    assert report.shown and rule in '\n'.join(report.shown)
    assert 'broken: ' in report.table()
    clean = check_dataset(ObjectCropDataset(index_file), 48, windows_only=True)
    assert clean.num_violations == 0 and clean.samples == 48


def test_check_dataset__workers_measure_the_same(index_file):
    reports = [
        check_dataset(ObjectCropDataset(index_file), 40, windows_only=True, num_workers=workers) for workers in (0, 1)
    ]
    np.testing.assert_array_equal(reports[0].measures, reports[1].measures)


def ring_and_neighbour(tmp_path, write_coco):
    """Scenes in which masks and boxes say different things: a ring around a disc, and an L beside a square."""
    rows, columns = np.mgrid[:180, :200] + 0.5
    distance = np.hypot(columns - 60, rows - 90)
    ring, disc = (distance < 40) & (distance > 28), distance < 10
    corner = np.zeros((180, 200), dtype=bool)
    corner[60:120, 130:140] = corner[110:120, 130:190] = True
    square = np.zeros((180, 200), dtype=bool)
    square[62:105, 145:188] = True
    masks = [ring, disc, corner, square]
    boxes = [[20, 50, 80, 80], [50, 80, 20, 20], [130, 60, 60, 60], [145, 62, 43, 43]]
    file, folder = write_coco([(f'm{k}.png', (200, 180), boxes) for k in range(6)])
    content = json.loads(file.read_text())
    for k, annotation in enumerate(content['annotations']):
        annotation['segmentation'] = encode_rle(masks[k % 4])
    file.write_text(json.dumps(content))
    return file, folder


def test_check_dataset__by_mask_and_by_box_differ(tmp_path, write_coco):
    scenes = read_scenes([ring_and_neighbour(tmp_path, write_coco)])
    for measure in ('mask', 'box'):
        build_crop_index(scenes, 32, WindowRules(measure=measure)).save(tmp_path / f'{measure}.safetensors')
    by_mask = ObjectCropDataset(tmp_path / 'mask.safetensors')
    by_box = ObjectCropDataset(tmp_path / 'box.safetensors')
    assert check_dataset(by_mask, 200, windows_only=True).num_violations == 0
    assert check_dataset(by_box, 200, windows_only=True).num_violations == 0
    # By mask the square can be cropped, though its box lies in the box of the L.
    assert 3 in by_mask.index.targets % 4 and 3 not in by_box.index.targets % 4
    # Windows that obey by box need not obey by mask: the other way of measuring sees it.
    numbers = np.repeat(np.arange(len(by_box.index)), 20)
    windows = np.array([by_box.draw((number, epoch))[1] for epoch, number in enumerate(numbers)])
    strict = dataclasses.replace(by_mask.index, targets=by_box.index.targets, target_scenes=by_box.index.target_scenes)
    _, broken = measure_crops(strict, numbers, windows, (32, 32))
    assert 'fill' in np.concatenate(broken)
    assert not any(measure_crops(by_box.index, numbers, windows, (32, 32))[1])


def test_check_dataset__scenes_without_objects_by_the_overlap_rule(tmp_path, write_coco):
    scenes = [(f'o{k}.png', (200, 180), [[20, 20, 40, 40]]) for k in range(4)]
    scenes += [(f'e{k}.png', (180, 120), [[20, 20, 4, 4]]) for k in range(4)]
    build_crop_index(read_scenes([write_coco(scenes)]), 48, empty_scenes='overlap').save(tmp_path / 'o.safetensors')
    dataset = ObjectCropDataset(tmp_path / 'o.safetensors')
    assert np.count_nonzero(dataset.index.targets < 0) == 4
    report = check_dataset(dataset, 80)
    assert report.num_violations == 0
    overlap = report.measures[:, 4]
    assert np.count_nonzero(~np.isnan(overlap)) == 40 and np.nanmin(overlap) > 0.5

    class Planted(ObjectCropDataset):
        def draw(self, key):
            number, window, flip = super().draw(key)
            return number, window / 2 if self.index.targets[number] < 0 else window, flip

    report = check_dataset(Planted(tmp_path / 'o.safetensors'), 80, windows_only=True)
    assert report.violations['overlap'] == 40
    assert 'overlap' in report.table()


def test_check_dataset__groups_of_different_classes(tmp_path, write_coco):
    boxes = [[20, 20, 40, 40], [120, 30, 50, 40], [60, 110, 60, 50]]
    file, folder = write_coco([(f's{k}.png', (200, 180), boxes) for k in range(8)])
    content = json.loads(file.read_text())
    content['categories'] = [dict(id=7 + k, name=f'thing {k}') for k in range(3)]
    for k, annotation in enumerate(content['annotations']):
        annotation['category_id'] = 7 + k % 3
    file.write_text(json.dumps(content))
    build_crop_index(read_scenes([(file, folder)]), 48).save(tmp_path / 'c.safetensors')
    dataset = ObjectCropDataset(tmp_path / 'c.safetensors')
    for kind in ('class', 'size'):
        report = check_dataset(dataset, 60, group_size=3, differ=kind, windows_only=True)
        assert report.num_violations == 0 and kind in report.table()
    dataset.class_ids = np.arange(len(dataset))  # the sampler is told a lie
    assert check_dataset(dataset, 60, group_size=3, differ='class', windows_only=True).violations['class'] > 5
    dataset.window_areas = np.arange(len(dataset))
    assert check_dataset(dataset, 60, group_size=3, differ='size', windows_only=True).violations['size'] > 5


def test_main__table_and_errors(index_file, tmp_path, capsys):
    assert main([str(index_file), '--num-samples', '20']) == 0
    assert '20 samples, 0 violations' in capsys.readouterr().out
    assert main([str(tmp_path / 'none.safetensors')]) == 2
    assert capsys.readouterr().err.startswith('error: Crop index ')
    assert main([str(index_file), '--size', '96']) == 2
    assert main([str(index_file), '--num-samples', '0']) == 2
