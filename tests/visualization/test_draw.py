"""Drawing on images."""

import numpy as np
import pytest

from mixedae.visualization import (
    colour_labels,
    draw_objects,
    draw_windows,
    encode_image,
    fit,
    grid,
    mask_colours,
    palette,
    to_image,
)
from mixedae.visualization.draw import SOURCE_COLOURS


def test_mask_colours__each_patch_has_the_colour_of_its_image():
    mask = np.array([0, 1, 2, 3, 3, 2])
    picture = mask_colours(mask, (2, 3), patch_size=4)
    assert picture.shape == (8, 12, 3)
    for position, image in enumerate(mask):
        row, column = divmod(position, 3)
        cell = picture[4 * row : 4 * row + 4, 4 * column : 4 * column + 4].reshape(-1, 3)
        assert (cell == SOURCE_COLOURS[image]).all()


def test_mask_colours__wrong_grid():
    with pytest.raises(ValueError, match='does not fill a grid of 2 x 2'):
        mask_colours(np.zeros(6, dtype=int), (2, 2))


def test_to_image__undoes_normalisation():
    image = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    pixels = ((image - np.array(mean)) / np.array(std)).transpose(2, 0, 1)
    np.testing.assert_array_equal(to_image(pixels, mean, std), image)


def test_to_image__clips():
    assert to_image(np.full((3, 1, 1), 1e3), (0, 0, 0), (1, 1, 1)).max() == 255


def test_palette__distinct_and_stable():
    colours = palette(60)
    assert len(set(colours)) == 60
    assert palette(10) == colours[:10]


def test_fit__longer_side():
    assert fit(np.zeros((30, 60, 3), dtype=np.uint8), 120).shape == (60, 120, 3)


def test_draw_windows__pixels_on_the_frame_and_nowhere_else():
    scene = np.zeros((40, 50, 3), dtype=np.uint8)
    drawn = draw_windows(scene, np.array([[10, 5, 30, 25]]), colours=[(255, 0, 0)], width=1)
    painted = np.argwhere(drawn.any(axis=2))
    assert painted.min(axis=0).tolist() == [5, 10]
    assert painted.max(axis=0).tolist() == [25, 30]
    assert not drawn[6:25, 11:30].any()
    assert not scene.any()  # the scene itself stays


def test_draw_windows__window_over_the_border_is_cut():
    drawn = draw_windows(np.zeros((20, 20, 3), dtype=np.uint8), np.array([[-5, -5, 40, 40]]), colours=[(255, 0, 0)])
    assert drawn[0, 0, 0] == 255 and drawn[19, 19, 0] == 255


def test_draw_objects__mask_veil_in_the_class_colour():
    image = np.zeros((100, 100, 3), dtype=np.uint8)
    mask = np.zeros((1, 100, 100), dtype=bool)
    mask[0, 60:70, 60:70] = True
    drawn = draw_objects(image, np.array([[50, 50, 90, 90]]), [1], ['cat', 'dog'], scores=[0.9], masks=mask, alpha=0.5)
    np.testing.assert_array_equal(drawn[65, 65], np.rint(0.5 * np.array(palette(2)[1])))
    assert not drawn[20, 20].any()


def test_draw_objects__none():
    image = np.full((40, 40, 3), 7, dtype=np.uint8)
    np.testing.assert_array_equal(draw_objects(image, np.zeros((0, 4)), [], ['cat']), image)


def test_colour_labels__classes_and_ignored():
    labels = np.array([[0, 1], [255, 2]])
    image = np.full((2, 2, 3), 50, dtype=np.uint8)
    flat, over = colour_labels(labels, 3), colour_labels(labels, 3, image)
    assert tuple(flat[0, 1]) == palette(3)[1]
    np.testing.assert_array_equal(over[1, 0], [50, 50, 50])
    np.testing.assert_array_equal(over[0, 0], np.rint(0.4 * 50 + 0.6 * np.array(palette(3)[0])))


def test_colour_labels__label_without_class():
    with pytest.raises(ValueError, match='label 7 in a map of 3 classes'):
        colour_labels(np.array([[7]]), 3)


def test_grid__every_image_in_its_cell():
    images = [[np.full((4, 4, 3), 10 * r + c, dtype=np.uint8) for c in range(3)] for r in range(2)]
    images[1][2] = None
    figure = grid(images, column_titles=['a', 'b', 'c'], row_titles=['x', 'y'])
    shown = [axes.images[0].get_array()[0, 0, 0] if axes.images else None for axes in figure.axes]
    assert shown == [0, 1, 2, 10, 11, None]
    assert [axes.get_title() for axes in figure.axes[:3]] == ['a', 'b', 'c']


def test_grid__titles_must_fit():
    with pytest.raises(ValueError, match='2 column titles for 1 columns'):
        grid([[np.zeros((2, 2, 3), dtype=np.uint8)]], column_titles=['a', 'b'])


def test_encode_image__png_keeps_the_pixels():
    import base64
    import io

    from PIL import Image

    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    head, data = encode_image(image, photo=False).split(',')
    assert head == 'data:image/png;base64'
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), image)


def test_encode_image__wrong_type():
    with pytest.raises(ValueError, match='uint8'):
        encode_image(np.zeros((4, 4, 3)))
