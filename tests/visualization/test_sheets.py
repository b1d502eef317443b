"""Sheets of pictures."""

import numpy as np
import pytest

from mixedae.visualization import outline, sheet


def test_sheet__pictures_stand_where_they_belong():
    red, blue = (np.full((4, 8, 3), colour, dtype=np.uint8) for colour in ((200, 0, 0), (0, 0, 200)))
    out = sheet([[red, None], [None, blue]], cell=16)
    assert out.shape == (4 + 2 * 12, 4 + 2 * 20, 3)  # twice as large, gaps of 4
    assert (out[4:12, 4:20] == (200, 0, 0)).all()
    assert (out[4:12, 20:] == 255).all()
    assert (out[16:24, 24:40] == (0, 0, 200)).all()
    assert (out[:4] == 255).all()


def test_sheet__titles_take_room_on_top():
    picture = np.zeros((8, 8, 3), dtype=np.uint8)
    plain, titled = sheet([[picture]], cell=64), sheet([[picture]], ['two\nlines'], cell=64)
    assert titled.shape[0] - plain.shape[0] == 30
    assert (titled[:30].min(axis=(1, 2)) < 128).any()


def test_sheet__what_does_not_fit_is_refused():
    picture = np.zeros((8, 8, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match='rows of one length'):
        sheet([[picture], [picture, picture]])
    with pytest.raises(ValueError, match='of one shape'):
        sheet([[picture, picture[:4]]])
    with pytest.raises(ValueError, match='2 column titles for 1'):
        sheet([[picture]], ['a', 'b'])


def test_outline__frames_one_patch():
    out = outline(np.zeros((8, 12, 3), dtype=np.uint8), [4], (2, 3), (9, 9, 9))
    expected = np.zeros((4, 4), dtype=bool)
    expected[[0, -1]], expected[:, [0, -1]] = True, True
    assert ((out[4:, 4:8] == 9).all(-1) == expected).all()
    assert out.sum() == 9 * 3 * 12
