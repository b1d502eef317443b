"""Annotation files of any size: counts, shares of sizes, masks that pycocotools reads, the same file from a seed."""

import json

import numpy as np
from pycocotools import mask as coco

from object_aware.scenes import read_scenes
from object_aware.synthetic_annotations import write_annotations


def test_write_annotations__follows_coco(tmp_path, monkeypatch):
    monkeypatch.setattr('object_aware.synthetic_annotations._BLOCK', 700)
    path = tmp_path / 'x.json'
    calls = []
    write_annotations(path, images=500, objects=3650, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (3650, 3650) and len(calls) == 6
    content = json.loads(path.read_text())
    assert len(content['images']) == 500 and len(content['annotations']) == 3650 and len(content['categories']) == 80
    images = {image['id']: image for image in content['images']}
    areas = []
    for entry in content['annotations'][:300]:
        image = images[entry['image_id']]
        x, y, w, h = entry['bbox']
        assert x >= 0 and y >= 0 and x + w <= image['width'] + 0.02 and y + h <= image['height'] + 0.02
        rle = coco.frPyObjects(entry['segmentation'], image['height'], image['width'])
        painted = coco.area(coco.merge(rle) if isinstance(rle, list) else rle)
        assert entry['iscrowd'] or 0.2 * w * h < painted + 20
        assert painted < 1.3 * w * h + 20
    areas = np.array([entry['area'] for entry in content['annotations']])
    assert 0.36 < (areas < 32**2).mean() < 0.46 and 0.16 < (areas > 96**2).mean() < 0.28
    points = [len(p) / 2 for e in content['annotations'] if not e['iscrowd'] for p in e['segmentation']]
    assert 20 < np.mean(points) < 40
    assert len({entry['image_id'] for entry in content['annotations']}) < 500  # some images are empty
    scenes = read_scenes([(path, tmp_path)], check_files=False)
    assert len(scenes.boxes) == 3650 and scenes.left_out['bad mask'] <= 3
    assert 0.005 < scenes.crowd.mean() < 0.02


def test_write_annotations__boxes_only_and_seeds(tmp_path):
    texts = []
    for name, seed in (('a', 0), ('b', 0), ('c', 1)):
        write_annotations(tmp_path / name, images=20, objects=90, masks=False, classes=365, seed=seed)
        texts.append((tmp_path / name).read_bytes())
    assert texts[0] == texts[1] != texts[2]
    content = json.loads(texts[0])
    assert 'segmentation' not in content['annotations'][0] and len(content['categories']) == 365
    assert len(texts[0]) / 90 > 170  # bytes per object, as in Objects365
