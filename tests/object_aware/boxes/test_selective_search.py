"""Grouping against a slow loop, and planted regions found."""

import numpy as np
import pytest

pytest.importorskip('skimage')

from object_aware.boxes import box_iou
from object_aware.boxes.reading import Picture
from object_aware.boxes.regions import describe, to_colour_space
from object_aware.boxes.selective_search import ALL, SearchProposer, group


def blocks(rng, side=48, cell=8):
    labels = np.arange((side // cell) ** 2).reshape(side // cell, -1).repeat(cell, 0).repeat(cell, 1)
    return labels, rng.random((side, side, 3))


def slow_group(regions, similarities):
    """All pairs of neighbours looked at again in every step."""
    count, area = len(regions), regions.sizes.sum()
    boxes, sizes = list(regions.boxes), list(regions.sizes)
    tables = {'colour': list(regions.colours), 'texture': list(regions.textures)}
    touching = {tuple(pair) for pair in regions.neighbours.tolist()}
    alive, parents = set(range(count)), []

    def similarity(a, b):
        low, high = np.minimum(boxes[a][:2], boxes[b][:2]), np.maximum(boxes[a][2:], boxes[b][2:])
        parts = {name: np.minimum(table[a], table[b]).sum() for name, table in tables.items()}
        parts['size'] = 1 - (sizes[a] + sizes[b]) / area
        parts['fill'] = 1 - (np.prod(high - low) - sizes[a] - sizes[b]) / area
        return sum(parts[name] for name in similarities)

    while len(alive) > 1:
        a, b = max(sorted(touching), key=lambda pair: similarity(*pair))
        new = len(boxes)
        parents.append((a, b))
        boxes.append(np.concatenate([np.minimum(boxes[a][:2], boxes[b][:2]), np.maximum(boxes[a][2:], boxes[b][2:])]))
        for table in tables.values():
            table.append((sizes[a] * table[a] + sizes[b] * table[b]) / (sizes[a] + sizes[b]))
        sizes.append(sizes[a] + sizes[b])
        alive = (alive - {a, b}) | {new}
        renamed = {tuple(sorted(new if end in (a, b) else end for end in pair)) for pair in touching}
        touching = {pair for pair in renamed if pair[0] != pair[1]}
    return np.array(parents), np.array(boxes)


@pytest.mark.parametrize('similarities', [ALL, ('texture', 'size', 'fill'), ('colour',)])
def test_group__equals_a_slow_loop(rng, similarities):
    labels, channels = blocks(rng)
    regions = describe(labels, channels)
    hierarchy = group(regions, similarities)
    parents, boxes = slow_group(regions, similarities)
    assert np.sort(hierarchy.parents, axis=1).tolist() == np.sort(parents, axis=1).tolist()
    np.testing.assert_array_equal(hierarchy.boxes, boxes)
    assert hierarchy.sizes[-1] == labels.size and hierarchy.boxes[-1].tolist() == [0, 0, 48, 48]


def test_group__of_one_region_is_that_region():
    hierarchy = group(describe(np.zeros((4, 6), dtype=np.int64), np.zeros((4, 6, 3))))
    assert hierarchy.boxes.tolist() == [[0, 0, 6, 4]] and len(hierarchy.parents) == 0


def test_describe__sizes_boxes_histograms_and_neighbours():
    labels = np.zeros((4, 6), dtype=np.int64)
    labels[1:3, 2:5], labels[3, 5] = 1, 2
    channels = np.zeros((4, 6, 3))
    channels[labels == 1] = [1.0, 0.5, 0.0]
    regions = describe(labels, channels)
    assert regions.sizes.tolist() == [17, 6, 1]
    assert regions.boxes.tolist() == [[0, 0, 6, 4], [2, 1, 5, 3], [5, 3, 6, 4]]
    assert regions.neighbours.tolist() == [[0, 1], [0, 2]]
    expected = np.zeros(75)
    expected[[24, 25 + 12, 50]] = 1 / 3
    np.testing.assert_allclose(regions.colours[1], expected)
    np.testing.assert_allclose(regions.textures.sum(1), 1)
    assert (np.abs(regions.textures[1] - regions.textures[2])).sum() > 0.1


@pytest.mark.parametrize('space', ['rgb', 'hsv', 'lab'])
def test_to_colour_space__stays_in_0_to_1(rng, space):
    values = to_colour_space(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8), space)
    assert values.min() >= 0 and values.max() <= 1 and values.std() > 0.05


@pytest.mark.parametrize('mode', ['single', 'fast'])
def test_search_proposer__finds_planted_regions(rng, mode):
    pixels = np.full((120, 160, 3), 60, dtype=np.float64)
    planted = np.array([[20, 30, 70, 80], [100, 40, 140, 110.0]])
    for (x1, y1, x2, y2), colour in zip(planted.astype(int), ([200, 40, 40], [40, 60, 220])):
        pixels[y1:y2, x1:x2] = colour
    pixels = np.clip(pixels + rng.normal(0, 3, pixels.shape), 0, 255).astype(np.uint8)
    (found,) = SearchProposer(mode)([Picture(pixels, (320, 240))])  # boxes come back in the file's pixels
    assert (box_iou(planted * 2, found.boxes).max(axis=1) > 0.85).all()
    assert (np.diff(found.scores) <= 0).all() and found.scores.max() <= 1 and found.masks is None
    again = SearchProposer(mode)([Picture(pixels, (320, 240))] * 2)
    for other in again:
        np.testing.assert_array_equal(other.boxes, found.boxes)
    assert len(SearchProposer(mode, top_n=3)([Picture(pixels, (320, 240))])[0]) == 3
    overlap = box_iou(found.boxes, found.boxes) - np.eye(len(found))
    assert overlap.max() <= 0.8


def test_search_proposer__wrong_mode():
    with pytest.raises(ValueError, match='single, fast'):
        SearchProposer('slow')
