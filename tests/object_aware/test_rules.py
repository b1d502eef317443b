"""Measures of a window against counting the cells of a raster, and the rules themselves."""

import math

import numpy as np
import pytest

from object_aware.rules import WindowRules, mask_area, measure_window, union_area, violations


def raster(box, size):
    """Cells of a (size, size) raster that an integer box covers."""
    cells = np.zeros((size, size), dtype=bool)
    x1, y1, x2, y2 = (int(c) for c in box)
    cells[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)] = True
    return cells


def random_boxes(rng, count, size):
    corners = np.sort(rng.integers(0, size + 1, (count * 3, 2, 2)), axis=1).reshape(-1, 4)
    boxes = corners[(corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])]
    return boxes[:count].astype(float)


def test_measure_window__equals_counting_raster_cells():
    rng = np.random.default_rng(0)
    size = 40
    checked = 0
    for _ in range(900):
        boxes = random_boxes(rng, int(rng.integers(2, 9)), size)
        window, target, others = boxes[0], boxes[1], boxes[2:]
        in_window, in_target = raster(window, size), raster(target, size)
        seen = np.count_nonzero(in_window & in_target)
        if not seen:
            continue
        checked += 1
        in_others = np.zeros((size, size), dtype=bool)
        for other in others:
            in_others |= raster(other, size)
        measure = measure_window(window, target, others)
        assert measure.inside == pytest.approx(seen / in_target.sum(), abs=1e-12)
        assert measure.fill == pytest.approx(seen / in_window.sum(), abs=1e-12)
        assert measure.others == pytest.approx(np.count_nonzero(in_others & in_window) / seen, abs=1e-12)
        ys, xs = np.nonzero(in_target)
        wys, wxs = np.nonzero(in_window)
        dx = abs(xs.mean() - wxs.mean()) / (np.ptp(wxs) + 1)
        dy = abs(ys.mean() - wys.mean()) / (np.ptp(wys) + 1)
        assert measure.offset == pytest.approx(max(dx, dy), abs=1e-12)
    assert checked > 200


def test_measure_window__others_inside_the_targets_own_box_count():
    measure = measure_window([0, 0, 10, 10], [0, 0, 10, 10], [[2, 2, 7, 6]])
    assert measure == (1.0, 0.0, 1.0, pytest.approx(0.2))


def test_measure_window__target_outside():
    assert measure_window([0, 0, 4, 4], [6, 6, 8, 8], [[0, 0, 1, 1]])[0] == 0.0
    assert math.isinf(measure_window([0, 0, 4, 4], [6, 6, 8, 8], [[0, 0, 1, 1]]).others)
    assert measure_window([0, 0, 4, 4], [6, 6, 8, 8], []).others == 0.0


def test_union_area__equals_raster():
    rng = np.random.default_rng(1)
    for _ in range(200):
        boxes = random_boxes(rng, int(rng.integers(1, 12)), 30)
        cells = np.zeros((30, 30), dtype=bool)
        for box in boxes:
            cells |= raster(box, 30)
        assert union_area(boxes) == pytest.approx(cells.sum(), abs=1e-9)
    assert union_area(np.zeros((0, 4))) == 0.0
    assert union_area(np.array([[5.0, 5, 5, 9], [3, 3, 1, 1]])) == 0.0


def random_mask(rng, size):
    """Pixels with holes and in several parts."""
    mask = np.zeros((size, size), dtype=bool)
    for x1, y1, x2, y2 in random_boxes(rng, 3, size).astype(int):
        mask[y1:y2, x1:x2] ^= True
    return mask


def fine(cells, factor):
    return np.repeat(np.repeat(cells, factor, axis=0), factor, axis=1)


def test_measure_window__masks_equal_counting_cells_of_a_finer_raster():
    rng = np.random.default_rng(3)
    size, factor = 24, 4  # windows and boxes end on quarters of a pixel
    checked = 0
    for _ in range(400):
        quarters = random_boxes(rng, 6, size * factor)
        if len(quarters) < 4:
            continue
        window, target, others = quarters[0], quarters[1], quarters[2:]
        masks = [random_mask(rng, size) if rng.random() < 0.6 else None for _ in range(len(others) + 1)]
        cells = [
            fine(mask, factor) if mask is not None and mask.any() else raster(box, size * factor)
            for mask, box in zip(masks, [target, *others])
        ]
        in_window = raster(window, size * factor)
        seen = np.count_nonzero(cells[0] & in_window)
        if not seen:
            continue
        checked += 1
        measure = measure_window(window / factor, target / factor, others / factor, masks)
        assert measure.inside == pytest.approx(seen / np.count_nonzero(cells[0]), abs=1e-9)
        assert measure.fill == pytest.approx(seen / np.count_nonzero(in_window), abs=1e-9)
        union = np.logical_or.reduce(cells[1:]) & in_window
        assert measure.others == pytest.approx(np.count_nonzero(union) / seen, abs=1e-9)
        by_box = measure_window(window / factor, target / factor, [])
        assert measure.offset == by_box.offset  # of the annotated box, whatever the mask
    assert checked > 200


def test_mask_area__of_a_fractional_window():
    mask = np.zeros((6, 8), dtype=bool)
    mask[2:4, 3:6] = True
    assert mask_area(mask) == 6
    assert mask_area(mask, np.array([3.25, 0, 8, 2.5])) == pytest.approx(2.75 * 0.5)
    assert mask_area(mask, np.array([6, 0, 8, 6])) == 0


def test_violations__by_box_do_not_look_at_masks():
    mask = np.zeros((100, 100), dtype=bool)
    mask[22:24, 22:24] = True  # fills far too little
    case = dict(window=[10, 10, 50, 50], target=[20, 20, 40, 40], others=[], scene_size=(100, 100), out_size=(40, 40))
    assert violations(**case, rules=WindowRules(measure='box'), masks=[mask]) == []
    assert violations(**case, rules=WindowRules(measure='mask'), masks=[mask]) == ['fill']
    assert violations(**case, rules=WindowRules(measure='mask'), masks=[None]) == []


def test_measure_window__one_mask_for_each_object():
    with pytest.raises(ValueError, match='1 masks were given for 2 objects'):
        measure_window([0, 0, 4, 4], [0, 0, 2, 2], [[1, 1, 2, 2]], [None])


BASE = dict(window=[10, 10, 50, 50], target=[20, 20, 40, 40], others=[], scene_size=(100, 100), out_size=(40, 40))


@pytest.mark.parametrize(
    ('changes', 'broken'),
    [
        ({}, []),
        (dict(window=[22.5, 10, 62.5, 50]), ['inside', 'offset']),
        (dict(window=[19, 10, 59, 50]), []),
        (dict(window=[19.9, 10, 60.3, 50], target=[20, 20, 39.9, 40]), ['offset']),
        (dict(window=[0, 0, 60, 60]), ['fill']),
        (dict(others=[[10, 10, 20, 22]]), ['others']),
        (dict(others=[[10, 10, 20, 21.9]]), []),
        (dict(out_size=(161, 161)), ['upsample']),
        (dict(out_size=(160, 160)), []),
        (dict(window=[12, 10, 41, 50]), ['aspect']),
        (dict(window=[10, 10, 50, 50], scene_size=(49, 100)), ['border']),
    ],
)
def test_violations__names_each_broken_rule(changes, broken):
    assert violations(**{**BASE, **changes}, rules=WindowRules()) == broken


def test_window_rules__as_dict_round_trip():
    rules = WindowRules(min_fill=0.2, aspect=(0.5, 2), measure='box', min_iou=0.6)
    assert WindowRules(**rules.as_dict()) == rules


@pytest.mark.parametrize(
    ('settings', 'sentence'),
    [
        (dict(min_inside=0), r'min_inside must be in \(0, 1\]'),
        (dict(max_offset=0.5), r'max_offset must be in \[0, 0.5\)'),
        (dict(min_fill=1), r'min_fill must be in \(0, 1\)'),
        (dict(max_others=-1), 'max_others must be at least 0'),
        (dict(max_upsample=0), 'max_upsample must be above 0'),
        (dict(aspect=(2, 1)), 'aspect must be a range'),
        (dict(min_fill=math.nan), 'min_fill must be a number'),
        (dict(measure='polygon'), "measure must be 'mask' or 'box'"),
        (dict(min_iou=1), r'min_iou must be in \[0, 1\)'),
    ],
)
def test_window_rules__refuse_bad_values(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        WindowRules(**settings)
