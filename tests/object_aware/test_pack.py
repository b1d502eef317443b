"""The same on real photographs, where the pack is there."""

import numpy as np

from object_aware import ObjectCropDataset, build_crop_index, read_scenes
from object_aware.check import check_dataset


def test_pack__detection_and_person_scenes_in_one_index(pack, tmp_path):
    scenes = read_scenes(
        [
            (pack / 'det' / 'annotations' / 'train_super12.json', pack / 'det' / 'images'),
            (pack / 'pretrain' / 'annotations' / 'person_val.json', pack / 'pretrain' / 'images'),
        ]
    )
    assert len(scenes) == 439 + 500
    index = build_crop_index(scenes, 96)
    counts = index.reason_counts()
    assert sum(counts.values()) + index.crowd.sum() == len(scenes.boxes)
    assert counts['accepted'] > 1000
    index.save(tmp_path / 'crops.safetensors')
    dataset = ObjectCropDataset(tmp_path / 'crops.safetensors')
    dataset.preflight()
    report = check_dataset(dataset, 800)
    assert report.num_violations == 0, report.table()
    # Crops are pictures: neither flat nor noise.
    pixels = np.stack([dataset[k]['inputs'].numpy() for k in range(0, len(dataset), len(dataset) // 16)]).astype(float)
    assert pixels.std(axis=(1, 2, 3)).min() > 2
    assert np.abs(np.diff(pixels, axis=3)).mean() < 25
