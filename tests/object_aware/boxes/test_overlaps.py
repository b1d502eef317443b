"""IoU, NMS and filters against slow loops and torchvision."""

import numpy as np
import pytest
import torch
import torchvision

from object_aware.boxes import box_iou, nms, select
from object_aware.boxes.overlaps import share_of_smaller


def random_boxes(rng, count, side=20):
    corner = rng.integers(0, side, (count, 2))
    return np.concatenate([corner, corner + rng.integers(1, side, (count, 2))], axis=1).astype(np.float64)


def slow_iou(a, b):
    cells = [
        {(x, y) for x in range(int(box[0]), int(box[2])) for y in range(int(box[1]), int(box[3]))} for box in (a, b)
    ]
    return len(cells[0] & cells[1]) / len(cells[0] | cells[1])


def test_box_iou__counts_pixels(rng):
    first, second = random_boxes(rng, 12), random_boxes(rng, 9)
    expected = [[slow_iou(a, b) for b in second] for a in first]
    np.testing.assert_allclose(box_iou(first, second), expected, rtol=1e-12)
    assert box_iou(np.zeros((1, 4)), np.zeros((1, 4))) == 0
    assert box_iou(np.zeros((0, 4)), second).shape == (0, 9)


@pytest.mark.parametrize('max_iou', [0.0, 0.3, 0.7, 1.0])
def test_nms__equals_torchvision(rng, max_iou):
    boxes, scores = random_boxes(rng, 200), rng.random(200)
    expected = torchvision.ops.nms(torch.from_numpy(boxes), torch.from_numpy(scores), max_iou)
    assert nms(boxes, scores, max_iou).tolist() == expected.tolist()
    assert nms(boxes, scores, max_iou, top_n=5).tolist() == expected.tolist()[:5]


def test_nms__of_equal_scores_the_first_stays():
    boxes = np.array([[0, 0, 4, 4], [0, 0, 4, 4], [9, 9, 12, 12.0]])
    assert nms(boxes, np.ones(3), 0.5).tolist() == [0, 2]


def test_nms__over_the_smaller_box_leaves_no_part_beside_its_whole(rng):
    boxes = np.array([[0, 0, 100, 100], [10, 10, 30, 30], [90, 90, 110, 110], [200, 0, 220, 20.0]])
    np.testing.assert_allclose(share_of_smaller(boxes[:1], boxes)[0], [1, 1, 0.25, 0])
    scores = np.array([0.9, 0.8, 0.7, 0.6])
    assert nms(boxes, scores, 0.1).tolist() == [0, 1, 2, 3]  # the IoUs are small
    assert nms(boxes, scores, 0.1, over='smaller').tolist() == [0, 3]
    assert nms(boxes, scores[::-1], 0.3, over='smaller').tolist() == [3, 2, 1]
    many, scores = random_boxes(rng, 100), rng.random(100)
    kept = many[nms(many, scores, 0.2, over='smaller')]
    assert (share_of_smaller(kept, kept) - np.eye(len(kept))).max() <= 0.2


def test_select__is_threshold_then_nms_then_top_n_for_each_image(rng):
    boxes, scores, image_of = random_boxes(rng, 300), rng.random(300).round(2), rng.integers(0, 7, 300)
    rows, counts = select(boxes, scores, image_of, score_threshold=0.3, nms_iou=0.4, top_n=6)
    expected, removed, beyond = [], 0, 0
    for image in range(7):
        group = [k for k in range(300) if image_of[k] == image and scores[k] >= 0.3]
        stay = [group[k] for k in nms(boxes[group], scores[group], 0.4)]
        removed, beyond = removed + len(group) - len(stay), beyond + max(0, len(stay) - 6)
        expected += stay[:6]
    assert rows.tolist() == expected
    below = int((scores < 0.3).sum())
    assert counts == {'below the score threshold': below, 'removed by NMS': removed, 'beyond the top N': beyond}
    assert len(rows) + sum(counts.values()) == 300


def test_select__without_filters_keeps_all_and_of_none_gives_none():
    boxes, image_of = np.array([[0, 0, 1, 1.0], [0, 0, 1, 1], [2, 2, 3, 3]]), np.array([1, 0, 1])
    rows, counts = select(boxes, np.array([0.1, 0.5, 0.9]), image_of)
    assert rows.tolist() == [1, 2, 0] and not any(counts.values())
    rows, counts = select(boxes, np.zeros(3), image_of, score_threshold=0.5)
    assert rows.tolist() == [] and counts['below the score threshold'] == 3
