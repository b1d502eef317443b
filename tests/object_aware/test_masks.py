"""Masks as COCO writes them: what is read is what pycocotools paints, and what is malformed is refused before that."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from object_aware.masks import decode_counts, encode_counts, encode_segmentation, paint

SQUARE = [2.0, 3, 8, 3, 8, 9, 2, 9]  # 6 x 6 pixels


def coco_counts(mask):
    return coco.encode(np.asfortranarray(mask, dtype=np.uint8))['counts']


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(1, 50), st.integers(1, 50), st.floats(0, 1))
def test_decode__every_mask_comes_back(seed, height, width, density):
    mask = np.random.default_rng(seed).random((height, width)) < density
    counts = coco_counts(mask)
    lengths = decode_counts(counts)
    assert lengths.sum() == height * width
    assert encode_counts(lengths) == counts
    assert lengths[1::2].sum() == mask.sum()
    np.testing.assert_array_equal(paint(counts, height, width), mask)
    rle = dict(size=[height, width], counts=lengths.tolist())
    expected = counts if mask.any() else b''
    assert encode_segmentation(rle, height, width) == expected
    assert encode_segmentation(dict(rle, counts=counts), height, width) == expected
    assert encode_segmentation(dict(rle, counts=counts.decode()), height, width) == expected


def test_encode_segmentation__polygons_are_their_union():
    one = paint(encode_segmentation([SQUARE], 12, 16), 12, 16)
    assert one.sum() == 36 and one[3:9, 2:8].all()
    other = [10.0, 3, 14, 3, 14, 9, 10, 9]
    both = paint(encode_segmentation([SQUARE, other, SQUARE], 12, 16), 12, 16)
    assert both.sum() == 36 + 24 and both[3:9, 10:14].all()
    overhanging = paint(encode_segmentation([[-4.0, 3, 8, 3, 8, 20, -4, 20]], 12, 16), 12, 16)
    assert overhanging.sum() == 8 * 9


def test_encode_segmentation__nothing_painted_is_no_mask():
    assert encode_segmentation([[2.1, 2.1, 2.2, 2.1, 2.2, 2.2]], 12, 16) == b''
    assert encode_segmentation(dict(size=[12, 16], counts=[192]), 12, 16) == b''
    assert paint(b'', 12, 16) is None


@pytest.mark.parametrize(
    ('segmentation', 'sentence'),
    [
        (None, 'must be a list of polygons or an RLE'),
        ([], 'has no polygon'),
        ([1.0, 2, 3, 4], 'must be a list of numbers'),
        ([[2.0, 3, 8, 3, 8]], r'odd number of coordinates \(5\)'),
        ([[2.0, 3, 8, 3]], 'has 2 points'),
        ([[]], 'has 0 points'),
        ([[2.0, 3, 8, 3, float('nan'), 9]], 'NaN or infinite'),
        ([[2.0, 3, 8, 3, float('inf'), 9]], 'NaN or infinite'),
        ([[2.0, 3, 8, 3, 1e9, 9]], 'reaches far outside its image of 16x12'),
        ([[2.0, 3, 8, 3, 10**400, 9]], 'not a number'),
        ([[2.0, 3, 8, 3, 'x', 9]], 'not a number'),
        ([[2.0, 3, 8, 3, None, 9]], 'NaN|not a number'),
        ([[[2.0, 3], [8, 3], [8, 9]]], 'not a number'),
        (dict(counts=[192]), 'needs both size and counts'),
        (dict(size=[16, 12], counts=[192]), r'has the size \[16, 12\]'),
        (dict(size=None, counts=[192]), 'needs both'),
        (dict(size=['a'], counts=[192]), 'has the size'),
        (dict(size=[12, 16], counts=[100, 50]), 'add up to 150, but its image has 16x12'),
        (dict(size=[12, 16], counts=[200, -8]), 'negative'),
        (dict(size=[12, 16], counts=[10**30]), 'whole numbers'),
        (dict(size=[12, 16], counts=[2**40]), 'impossibly large'),
        (dict(size=[12, 16], counts=[96.5, 95.5]), 'whole numbers'),
        (dict(size=[12, 16], counts=[[192]]), 'whole numbers'),
        (dict(size=[12, 16], counts='\u00e9'), 'characters'),
        (dict(size=[12, 16], counts='~~~'), 'characters'),
        (dict(size=[12, 16], counts=''), 'add up to 0'),
        (dict(size=[12, 16], counts='P'), 'cut short'),
        (dict(size=[12, 16], counts='o' * 40 + '0'), 'impossibly large'),
        (dict(size=[12, 16], counts='05'), 'add up to 5'),
    ],
)
def test_encode_segmentation__malformed_is_one_sentence(segmentation, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        encode_segmentation(segmentation, 12, 16)
    assert '\n' not in str(caught.value)


def test_encode_segmentation__impossible_scene():
    with pytest.raises(ValueError, match='cannot have masks'):
        encode_segmentation([SQUARE], 2**20, 2**20)
    with pytest.raises(ValueError, match='cannot have masks'):
        encode_segmentation([SQUARE], 0, 4)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(max_size=12))
def test_decode_counts__any_bytes_decode_or_are_refused(data):
    try:
        lengths = decode_counts(data)
    except ValueError:
        return
    assert len(lengths) <= len(data)
