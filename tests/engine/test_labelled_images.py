"""Lists of labelled images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mixedae.engine.classification import LabelledImages


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / 'some folder').mkdir()
    for name, level in (('some folder/a.png', 10), ('b.png', 200)):
        Image.fromarray(np.full((40, 40, 3), level, dtype=np.uint8)).save(tmp_path / name)
    return tmp_path


def test_labelled_images__list_in_its_order(root: Path) -> None:
    (root / 'list.txt').write_text('b.png 2\n\nsome folder/a.png 0\nb.png 2\n')
    data = LabelledImages(root, size=32, train=False, list_file=root / 'list.txt')
    assert [int(data[i]['data_samples']['label']) for i in range(len(data))] == [2, 0, 2]
    assert [round(float(data[i]['inputs'].mean())) for i in range(3)] == [200, 10, 200]
    assert data.classes == ['0', '1', '2']


def test_labelled_images__bad_lists_are_named(root: Path) -> None:
    for text, sentence in (('b.png\n', r'line 1: "b\.png" is not `path label`'), ('\n', 'is empty')):
        (root / 'list.txt').write_text(text)
        with pytest.raises(ValueError, match=sentence):
            LabelledImages(root, list_file=root / 'list.txt')
    with pytest.raises(FileNotFoundError, match=r'none\.txt does not exist'):
        LabelledImages(root, list_file=root / 'none.txt')
