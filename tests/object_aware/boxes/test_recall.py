"""Recall and CorLoc against an independent slow loop and pycocotools; the baselines."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from object_aware.boxes.baselines import centre_box, random_boxes
from object_aware.boxes.recall import Truth, evaluate, match


def made_up(rng, images=12):
    """Truths and noisy proposals of them; sizes from small to large."""
    truths, proposals = {}, {}
    for k in range(images):
        count = int(rng.integers(0, 6))
        side = rng.uniform(8, 150, (count, 2))
        corner = rng.uniform(0, 200, (count, 2))
        boxes = np.concatenate([corner, corner + side], axis=1)
        noisy = np.concatenate([boxes + rng.normal(0, 6, boxes.shape) for _ in range(3)]) if count else boxes
        noisy = np.concatenate([noisy, rng.uniform(0, 100, (4, 4)) + [0, 0, 110, 110]])
        truths[f'{k}.jpg'] = Truth(boxes, np.prod(side, axis=1))
        proposals[f'{k}.jpg'] = (noisy[rng.permutation(len(noisy))], rng.random(len(noisy)))
    return truths, proposals


def slow_recall(truths, proposals, n, threshold):
    """Each of the best n boxes takes the free object that it covers best; plain loops."""
    found = total = 0
    for name, truth in truths.items():
        boxes, scores = proposals[name]
        taken = set()
        for row in sorted(range(len(boxes)), key=lambda k: -scores[k])[:n]:
            best, best_iou = None, threshold
            for column, (x1, y1, x2, y2) in enumerate(truth.boxes):
                a1, b1, a2, b2 = boxes[row]
                both = max(0, min(x2, a2) - max(x1, a1)) * max(0, min(y2, b2) - max(y1, b1))
                iou = both / ((x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - both)
                if column not in taken and iou >= best_iou:
                    best, best_iou = column, iou
            if best is not None:
                taken.add(best)
        found, total = found + len(taken), total + len(truth.boxes)
    return found / total


def test_evaluate__recall_equals_a_slow_loop(rng):
    truths, proposals = made_up(rng)
    result = evaluate(proposals, truths)
    for n in (1, 3, 10, 100):
        assert result[f'recall@{n}'] == pytest.approx(slow_recall(truths, proposals, n, 0.5))
    levels = np.arange(0.5, 0.96, 0.05)
    expected = np.mean([slow_recall(truths, proposals, 10, level) for level in levels])
    assert result['ar@10'] == pytest.approx(expected)
    assert 0.2 < result['recall@10'] < 1 and 0.05 < result['ar@10'] < result['recall@10']


def test_evaluate__equals_pycocotools(rng):
    truths, proposals = made_up(rng, images=25)
    result = evaluate(proposals, truths)

    def xywh(box):
        return [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()]

    truth, names = COCO(), sorted(truths)
    annotations = [
        dict(id=0, image_id=i, category_id=1, bbox=xywh(box), area=float(area), iscrowd=0)
        for i, name in enumerate(names)
        for box, area in zip(truths[name].boxes, truths[name].areas)
    ]
    for number, annotation in enumerate(annotations, start=1):
        annotation['id'] = number
    truth.dataset = dict(
        images=[dict(id=i) for i in range(len(names))], annotations=annotations, categories=[dict(id=1, name='a')]
    )
    found = [
        dict(image_id=i, category_id=1, bbox=xywh(box), score=float(score))
        for i, name in enumerate(names)
        for box, score in zip(*proposals[name])
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(found), 'bbox')
        evaluation.params.useCats = 0
        evaluation.params.maxDets = [1, 10, 100]
        evaluation.evaluate()
        evaluation.accumulate()
    recall = evaluation.eval['recall']  # (T, K, A, M)
    for m, n in enumerate((1, 10, 100)):
        assert result[f'ar@{n}'] == pytest.approx(recall[:, 0, 0, m].mean())
        assert result[f'recall@{n}'] == pytest.approx(recall[0, 0, 0, m])
    for a, area in enumerate(('small', 'medium', 'large'), start=1):
        assert result[f'ar@100 {area}'] == pytest.approx(recall[:, 0, a, 2].mean())
        assert result[f'objects {area}'] > 5


def test_evaluate__corloc_and_counts_by_hand():
    truths = {
        'hit': Truth(np.array([[0, 0, 10, 10.0], [50, 50, 60, 60]]), np.array([100.0, 100])),
        'second': Truth(np.array([[0, 0, 10, 10.0]]), np.array([100.0])),
        'none': Truth(np.array([[0, 0, 10, 10.0]]), np.array([2000.0])),
        'empty': Truth(np.zeros((0, 4)), np.zeros(0)),
    }
    proposals = {
        'hit': (np.array([[90, 90, 99, 99], [0, 0, 10, 5.0]]), np.array([0.1, 0.9])),  # IoU 0.5 exactly counts
        'second': (np.array([[90, 90, 99, 99], [0, 0, 10, 10.0]]), np.array([0.9, 0.1])),
        'empty': (np.array([[0, 0, 5, 5.0]]), np.ones(1)),
    }
    result = evaluate(proposals, truths)
    assert result['corloc'] == pytest.approx(1 / 3) and result['images'] == 3 and result['objects'] == 4
    assert result['recall@1'] == 1 / 4 and result['recall@3'] == 2 / 4
    assert result['recall@100 small'] == 2 / 3 and result['recall@100 medium'] == 0
    assert result['recall@100 large'] is None
    assert result['boxes'] == pytest.approx(4 / 3)
    with pytest.raises(ValueError, match='nothing to measure'):
        evaluate({}, {'empty': truths['empty']})


def test_match__one_box_finds_one_object():
    iou = np.array([[0.9, 0.8], [0.9, 0.6]])
    assert match(iou, 0.5).tolist() == [True, True]
    assert match(iou[:1], 0.5).tolist() == [True, False]
    assert match(iou, 0.7).tolist() == [True, False]
    assert match(iou[:1], 0.5, np.array([True, False])).tolist() == [False, True]


def test_random_boxes__have_the_proposals_sizes_and_stay_inside():
    sizes = {'a': (200, 100), 'b': (50, 400)}
    proposals = {'a': (np.array([[0, 0, 100, 10.0], [0, 0, 20, 50]]), np.ones(2)), 'b': (np.zeros((0, 4)), np.ones(0))}
    drawn = random_boxes(proposals, sizes, seed=3, count=400)
    again = random_boxes(proposals, sizes, seed=3, count=400)
    for name, size in sizes.items():
        boxes, _ = drawn[name]
        np.testing.assert_array_equal(boxes, again[name][0])
        assert (boxes >= 0).all() and (boxes <= [*size, *size]).all()
        shares = (boxes[:, 2:] - boxes[:, :2]) / size
        kinds = np.isclose(shares, [0.5, 0.1]).all(1), np.isclose(shares, [0.1, 0.5]).all(1)
        assert (kinds[0] | kinds[1]).all() and 150 < kinds[0].sum() < 250
        assert abs(((boxes[:, 0] / size[0]) / (1 - shares[:, 0])).mean() - 0.5) < 0.06  # uniform places
    assert [len(boxes) for boxes, _ in random_boxes(proposals, sizes).values()] == [2, 0]
    with pytest.raises(ValueError, match='No proposals'):
        random_boxes({}, sizes)


def test_centre_box__covers_its_share():
    boxes, scores = centre_box({'a': (200, 100)})['a']
    assert np.prod(boxes[0, 2:] - boxes[0, :2]) == pytest.approx(0.5 * 200 * 100) and len(scores) == 1
    np.testing.assert_allclose((boxes[0, :2] + boxes[0, 2:]) / 2, [100, 50])
    np.testing.assert_allclose(centre_box({'a': (200, 100)}, 1.0)['a'][0], [[0, 0, 200, 100]])
