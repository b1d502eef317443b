"""Whole images: windows, determinism, lists, and bad input."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from mixedae.registry import DATASETS
from object_aware import ImageDataset
from object_aware.images import random_resized_window


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name in ('b/2.jpg', 'b/10.png', 'a/1.JPEG', '3.webp', 'b/notes.txt'):
        path = tmp_path / 'images' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith('txt'):
            path.touch()
        else:
            Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(path)
    return tmp_path / 'images'


def test_image_dataset__all_images_in_sorted_order(folder):
    dataset = ImageDataset(folder, size=32)
    assert [name.decode() for name in dataset.names] == ['3.webp', 'a/1.JPEG', 'b/10.png', 'b/2.jpg']
    np.testing.assert_array_equal(dataset.scene_ids, range(4))
    sample = dataset[(2, 5)]
    assert sample['inputs'].shape == (3, 32, 32) and sample['inputs'].dtype == torch.uint8
    assert sample['data_samples']['scene'] == 2 and sample['data_samples']['object'] == -1
    window = sample['data_samples']['window']
    assert window.dtype == torch.float32
    with Image.open(dataset.path(2)) as image:
        oracle = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC, box=window.tolist(), reducing_gap=2.0))
    pixels = sample['inputs'].permute(1, 2, 0).numpy()
    assert np.array_equal(pixels, oracle) or np.array_equal(pixels, oracle[:, ::-1])
    dataset.preflight()


def test_image_dataset__a_sample_depends_on_seed_epoch_and_index_alone(folder):
    first, second = ImageDataset(folder, size=16, seed=3), ImageDataset(folder, size=16, seed=3)
    assert torch.equal(first[(1, 4)]['inputs'], second[(1, 4)]['inputs'])
    assert torch.equal(first[1]['inputs'], first[(1, 0)]['inputs'])
    assert not torch.equal(first[(1, 4)]['inputs'], first[(1, 5)]['inputs'])
    assert not torch.equal(first[(1, 4)]['inputs'], ImageDataset(folder, size=16, seed=4)[(1, 4)]['inputs'])


def test_image_dataset__list_file(folder, tmp_path):
    (tmp_path / 'list.txt').write_text('b/2.jpg\n\na/1.JPEG\n')
    dataset = DATASETS.build(
        dict(type='mixedae.ImageDataset', root=str(folder), list_file=str(tmp_path / 'list.txt'), size=8)
    )
    assert [name.decode() for name in dataset.names] == ['b/2.jpg', 'a/1.JPEG']


def test_random_resized_window__ranges():
    rng = np.random.default_rng(0)
    windows = np.array([random_resized_window((200, 100), (0.2, 1.0), (3 / 4, 4 / 3), rng) for _ in range(3000)])
    assert windows.dtype == np.float32 and windows.min() >= 0
    assert windows[:, 2].max() <= 200 and windows[:, 3].max() <= 100
    side = windows[:, 2:] - windows[:, :2]
    share, aspect = np.prod(side, axis=1) / 20000, side[:, 0] / side[:, 1]
    assert share.min() == pytest.approx(0.2, abs=0.01) and share.max() > 0.6  # 4/3 x 1 is 2/3 of this image
    assert aspect.min() >= 0.75 - 1e-5 and aspect.max() <= 4 / 3 + 1e-5

    square = np.array([random_resized_window((100, 100), (0.2, 0.5), (3 / 4, 4 / 3), rng) for _ in range(2000)])
    side = square[:, 2:] - square[:, :2]
    share, aspect = np.prod(side, axis=1) / 10000, side[:, 0] / side[:, 1]
    assert np.median(np.log(aspect)) == pytest.approx(0, abs=0.03)  # log-uniform
    assert np.median(share) == pytest.approx(0.35, abs=0.02)  # uniform


def test_random_resized_window__an_image_too_long_gives_the_largest_centred_window():
    window = random_resized_window((1000, 10), (0.2, 1.0), (3 / 4, 4 / 3), np.random.default_rng(0))
    np.testing.assert_allclose(window, [500 - 20 / 3, 0, 500 + 20 / 3, 10], rtol=1e-5)
    assert math.isclose(float(window[2] - window[0]), 40 / 3, rel_tol=1e-4)


def test_image_dataset__bad_input(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r'Image folder .*none does not exist'):
        ImageDataset(tmp_path / 'none')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(ValueError, match='holds no image'):
        ImageDataset(tmp_path / 'empty')
    with pytest.raises(FileNotFoundError, match=r'List of images .*no\.txt does not exist'):
        ImageDataset(folder, tmp_path / 'no.txt')
    (tmp_path / 'list.txt').write_text('\n')
    with pytest.raises(ValueError, match='is empty'):
        ImageDataset(folder, tmp_path / 'list.txt')
    (tmp_path / 'list.txt').write_text('a/1.JPEG\nx.jpg\n')
    with pytest.raises(FileNotFoundError, match=r'1 of 2 images of .* are not in .*images \(x\.jpg\)'):
        ImageDataset(folder, tmp_path / 'list.txt')
    with pytest.raises(ValueError, match='scale must be a range'):
        ImageDataset(folder, scale=(0, 1))
    (folder / 'a' / '1.JPEG').write_bytes(b'\xff\xd8broken')
    with pytest.raises(ValueError, match=r'1 of 4 images cannot be used; the first: Image .*1\.JPEG does not decode'):
        ImageDataset(folder).preflight()
