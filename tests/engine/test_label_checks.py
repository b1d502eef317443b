"""Folders of images and label maps before a run: each problem has its sentence, good input passes."""

import numpy as np
import pytest
from PIL import Image

from mixedae.engine import label_checks
from mixedae.engine.label_checks import check_segmentation


def write_image(path, size=(12, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', size, (90, 120, 30)).save(path)


def write_map(path, *values, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.array([values], dtype=np.uint8))
    (image.convert(mode) if mode else image).save(path)


@pytest.fixture
def segmentation(tmp_path):
    for name in ('a', 'sub/b'):
        write_image(tmp_path / 'images' / f'{name}.jpg')
        path = tmp_path / 'labels' / f'{name}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.array([[0, 1], [2, 3]], dtype=np.uint8)).save(path)
    return tmp_path / 'images', tmp_path / 'labels'


def test_check_segmentation__good(segmentation):
    check_segmentation(*segmentation, 3, reduce_zero_label=True)
    check_segmentation(*segmentation, 4)
    check_segmentation(*segmentation, 3, ignore_index=3)
    check_segmentation(*segmentation, None)
    check_segmentation(segmentation[0], None, 2)


@pytest.mark.parametrize(
    'num_classes, options, sentence',
    [
        (
            2,
            dict(reduce_zero_label=True),
            r'holds the value 3, but the config has 2 classes, so labels are 1\.\.2, 0 is unl',
        ),
        (3, {}, r'holds the value 3, but the config has 3 classes, so labels are 0\.\.2: set metainfo\.classes'),
        (4, dict(image_suffix='.png'), r'has no \*\.png files: set data_prefix\.img_path'),
        (4, dict(label_suffix='_l.png'), r'2 images of .*images have no label map in .*labels, e\.g\. a_l\.png'),
    ],
)
def test_check_segmentation__bad(segmentation, num_classes, options, sentence):
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        check_segmentation(*segmentation, num_classes, **options)


def test_check_segmentation__broken_files(segmentation):
    images, labels = segmentation
    with pytest.raises(FileNotFoundError, match=r'The label map folder .*none does not exist'):
        check_segmentation(images, labels / 'none', 4)
    write_image(labels / 'a.png')
    with pytest.raises(ValueError, match=r'The label map .*a\.png has mode RGB, not one value for each pixel'):
        check_segmentation(images, labels, 4)
    (labels / 'a.png').write_bytes(b'x')
    with pytest.raises(ValueError, match=r'a\.png does not decode'):
        check_segmentation(images, labels, 4)
    (labels / 'a.png').unlink()
    with pytest.raises(FileNotFoundError, match=r'1 of 2 images of .* have no label map'):
        check_segmentation(images, labels, 4)


@pytest.fixture
def masks(tmp_path):
    """Three images and a function that writes a label map for each: of the values given for it."""
    for name in 'abc':
        write_image(tmp_path / 'images' / f'{name}.jpg')

    def write(*maps, **more):
        for name, values in zip('abc', maps, strict=True):
            write_map(tmp_path / 'labels' / f'{name}.png', *values, **more)
        return tmp_path / 'images', tmp_path / 'labels'

    return write


@pytest.mark.parametrize('mode', [None, 'P', 'I;16'])
def test_check_segmentation__maps_without_any_label(masks, mode):
    folders = masks((0, 255), (0, 0), (255, 0), mode=mode)
    sentence = (
        r'^None of the 3 label maps of .*labels that were looked at has a pixel of any class: they hold 0 and 255, and '
        r'labels are 1\.\.2, 0 is unlabelled \(reduce_zero_label\)\. .* a binary mask of 0 and 255 goes in as 0 and 1'
    )
    with pytest.raises(ValueError, match=sentence):
        check_segmentation(*folders, 2, reduce_zero_label=True)
    with pytest.raises(ValueError, match='they hold 255, and'):
        check_segmentation(*masks((255,), (255,), (255,)), 2)


def test_check_segmentation__maps_without_any_label_where_none_is_needed(masks):
    """Public test sets whose labels are all withheld."""
    (warning,) = check_segmentation(*masks((255,), (255,), (255,)), 2, need_labels=False)
    assert warning.startswith('None of the 3 label maps of ')


def test_check_segmentation__looks_on_until_a_class_is_found(masks, monkeypatch):
    """A rare class, in none of the maps that are drawn first."""
    monkeypatch.setattr(label_checks, 'SAMPLED_LABEL_MAPS', 1)
    for place in range(3):
        maps = [(0, 255)] * 3
        maps[place] = (0, 1)
        assert check_segmentation(*masks(*maps), 1, reduce_zero_label=True) == []
    with pytest.raises(ValueError, match=r'^None of the 3 label maps'):
        check_segmentation(*masks((0, 255), (0,), (0,)), 1, reduce_zero_label=True)


def test_check_segmentation__classes_that_do_not_occur(masks):
    folders = masks((0, 255), (0, 0), (255, 0))
    (warning,) = check_segmentation(*folders, 2, classes=('background', 'crack'))
    assert warning.startswith('1 of 2 classes occur in none of the 3 label maps of ')
    assert warning.endswith('that were looked at: crack (labels are 0..1; 255 counts as unlabelled).')
    (warning,) = check_segmentation(*masks((1,), (1,), (0,)), 3, reduce_zero_label=True)
    assert '2 of 3 classes' in warning and ': 2, 3 (labels are 1..3, 0 is unlabelled' in warning
    assert check_segmentation(*masks((1,), (2,), (3,)), 3, reduce_zero_label=True) == []


def test_check_segmentation__binary_mask_as_the_template_says(masks):
    folders = masks((0, 1), (0, 0), (1, 1))
    assert check_segmentation(*folders, 2, classes=('background', 'crack')) == []
    assert check_segmentation(*masks((0, 255), (0, 0), (255, 255), mode='1'), 2) == []  # one bit: Pillow gives 0 and 1


def test_check_segmentation__a_sample_of_many(masks, monkeypatch):
    """What a sample does not show is told only where it is large for the number of classes, with its size."""
    monkeypatch.setattr(label_checks, 'SAMPLED_LABEL_MAPS', 2)
    folders = masks((0,), (0,), (0,))
    assert check_segmentation(*folders, 2) == []
    monkeypatch.setattr(label_checks, 'MAPS_FOR_A_CLASS', 1)
    (warning,) = check_segmentation(*folders, 2)
    assert 'in none of the 2 label maps (of 3) of ' in warning


def test_check_segmentation__images_of_other_suffixes(masks):
    images, labels = masks((0,), (1,), (0,))
    for name in ('d.png', 'deep/e.JPG', 'f.JPG', '.hidden.jpg', 'notes.txt'):
        (images / name).parent.mkdir(exist_ok=True)
        (images / name).write_bytes(b'')
    (warning,) = check_segmentation(images, labels, 2, label_suffix='.png')
    assert warning == (
        f'2 images of {images} are left out, since their names do not end in .jpg (2 *.JPG): save them as .jpg, or set '
        'img_suffix if it is wrong.'
    )
    for name in 'abc':
        write_map(labels / f'{name}_l.png', 0, 1)
    (warning,) = check_segmentation(images, labels, 2, label_suffix='_l.png')
    assert warning.startswith(f'3 images of {images} are left out') and '(2 *.JPG, 1 *.png)' in warning
    with pytest.raises(
        FileNotFoundError, match=r'has no \*\.bmp files: .* or img_suffix \(it has 2 \*\.JPG, 3 \*\.jpg'
    ):
        check_segmentation(images, labels, 2, image_suffix='.bmp')
