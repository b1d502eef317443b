"""tools/reproduce_parts/precision.py: unrounded AP."""

import json

import pytest

from tools.reproduce_parts.precision import main, precision

TRUTH = {
    'images': [{'id': i, 'width': 100, 'height': 100} for i in (1, 2)],
    'categories': [{'id': 7, 'name': 'cup'}, {'id': 9, 'name': 'plate'}, {'id': 11, 'name': 'nowhere'}],
}


def square(number, image, category, left=10, side=40):
    corners = [left, 10, left + side, 10, left + side, 10 + side, left, 10 + side]
    return {
        'id': number, 'image_id': image, 'category_id': category, 'bbox': [left, 10, side, side], 'iscrowd': 0,
        'area': side * side, 'segmentation': [corners],
    }  # fmt: skip


@pytest.fixture
def annotations(tmp_path):
    path = tmp_path / 'val.json'
    path.write_text(json.dumps({**TRUTH, 'annotations': [square(1, 1, 7), square(2, 2, 7), square(3, 1, 9)]}))
    return path


def write(tmp_path, **kinds):
    for kind, detections in kinds.items():
        (tmp_path / f'detections.{kind}.json').write_text(json.dumps(detections))
    return tmp_path / 'detections'


def test_precision__by_hand(annotations, tmp_path):
    """Cup: one of two found exactly, so precision 1 at the 51 recalls up to .5 of 101; plate: found with an IoU of .6,
    which counts at three of ten thresholds. Nothing of the third class is there to find: it does not count."""
    from pycocotools import mask

    def rle(left, side):
        code = mask.frPyObjects([square(0, 0, 0, left, side)['segmentation'][0]], 100, 100)[0]
        return {'size': code['size'], 'counts': code['counts'].decode()}

    found = [
        {'image_id': 1, 'category_id': 7, 'score': 0.9, 'bbox': [10, 10, 40, 40]},
        {'image_id': 1, 'category_id': 9, 'score': 0.8, 'bbox': [20, 10, 40, 40]},  # 30 * 40 / (2 * 40 * 40 - 30 * 40)
    ]
    masks = [{**d, 'segmentation': rle(d['bbox'][0], 40)} for d in found]
    prefix = write(tmp_path, bbox=found, segm=masks)
    expected = {'50': (51 / 101 + 1) / 2, '': (51 / 101 + 0.3) / 2}
    values = precision(annotations, prefix)
    for kind in ('box', 'mask'):
        for end, value in expected.items():
            assert values[kind + end] == pytest.approx(value, abs=1e-12), kind + end


def test_precision__against_the_rounded_figures_of_mmdet(annotations, tmp_path):
    CocoMetric = pytest.importorskip('mmdet.evaluation').CocoMetric
    import numpy as np
    import torch

    generator = np.random.default_rng(0)
    metric = CocoMetric(str(annotations), outfile_prefix=str(tmp_path / 'detections'))
    metric.dataset_meta = {'classes': ('cup', 'plate', 'nowhere')}
    for image in (1, 2):
        corners = torch.from_numpy(generator.uniform((8, 8, 40, 40), (14, 14, 60, 60), (30, 4)))
        predictions = {
            'bboxes': corners, 'scores': torch.from_numpy(generator.random(30)),
            'labels': torch.from_numpy(generator.integers(0, 3, 30)),
        }  # fmt: skip
        metric.process({}, [{'img_id': image, 'ori_shape': (100, 100), 'pred_instances': predictions}])
    theirs = metric.evaluate(2)
    ours = precision(annotations, tmp_path / 'detections')
    assert ours.keys() == {'box', 'box50'} and 0.05 < ours['box'] < ours['box50']
    assert ours['box'] == pytest.approx(theirs['coco/bbox_mAP'], abs=5e-4)
    assert ours['box50'] == pytest.approx(theirs['coco/bbox_mAP_50'], abs=5e-4)


def test_precision__nothing_found_and_nothing_written(annotations, tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match=r'detections\.bbox\.json: no detections; did the test set'):
        precision(annotations, tmp_path / 'detections')
    prefix = write(tmp_path, bbox=[])
    out = tmp_path / 'new' / 'precision.json'
    assert main([str(annotations), str(prefix), '--out', str(out)]) == 0
    assert json.loads(out.read_text()) == {'box': 0.0, 'box50': 0.0} == json.loads(capsys.readouterr().out)
