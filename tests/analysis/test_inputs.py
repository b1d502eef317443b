"""Models from (config, checkpoint) and image sets."""

import numpy as np
import pytest
import torch
from PIL import Image

from mixedae.analysis import load_images, load_model, normalise


def test_load_model__weights_and_kind(run, mae_run):
    for model, config, checkpoint in (run, mae_run):
        loaded = load_model(config, checkpoint)
        assert type(loaded) is type(model) and not loaded.training
        for key, value in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], value)


def test_load_model__weights_of_another_model(run, mae_run):
    with pytest.raises(ValueError, match=r'does not belong to .*unknown \(first: (encoder.segment_embed|projector)'):
        load_model(mae_run[1], run[2])
    with pytest.raises(ValueError, match='missing'):
        load_model(run[1], mae_run[2])


def test_load_model__bad_files(run, tmp_path):
    with pytest.raises(FileNotFoundError, match='does not exist'):
        load_model(run[1], tmp_path / 'none.pth')
    with pytest.raises(FileNotFoundError, match='does not exist'):
        load_model(tmp_path / 'none.py', run[2])
    other = tmp_path / 'backbone.py'
    other.write_text("model = dict(type='mixedae.MixedAEViT', arch='tiny')\n")
    with pytest.raises(ValueError, match='not a pre-training model'):
        load_model(other, run[2])


def test_load_images__folder_gives_the_centre(tmp_path):
    picture = np.zeros((30, 60, 3), np.uint8)
    picture[:, 30:] = 200  # left half black, right half grey: the centre shows half of each
    picture[:, :12] = picture[:, 48:] = 255  # outside the centred square
    Image.fromarray(picture).save(tmp_path / 'one.png')
    images = load_images((16, 16), folder=tmp_path, count=5)
    assert images.pixels.shape == (1, 3, 16, 16) and images.pixels.dtype == torch.uint8 and images.boxes is None
    assert images.names == ['one.png']
    assert (images.pixels[..., :7] < 10).all() and (images.pixels[..., 9:] > 190).all()
    assert images.pixels.max() < 230


def test_load_images__choice_follows_the_seed(photos):
    first, again, other = (load_images((16, 24), folder=photos, count=9, group_size=4, seed=s) for s in (0, 0, 1))
    assert len(first.names) == 8  # whole groups
    assert first.names == again.names and torch.equal(first.pixels, again.pixels)
    assert first.names != other.names


def test_load_images__crops_with_boxes(crop_index):
    images = load_images((16, 24), crop_index=crop_index, count=8, group_size=4, seed=0)
    assert images.pixels.shape == (8, 3, 16, 24) and images.boxes.shape == (8, 4)
    assert (images.boxes >= 0).all() and (images.boxes <= 1).all()
    assert (images.boxes[:, 2:] > images.boxes[:, :2]).all()
    centre = (images.boxes[:, :2] + images.boxes[:, 2:]) / 2
    assert (centre - 0.5).abs().max() < 0.35  # the object is central
    for group in range(2):
        assert len(set(images.names[4 * group : 4 * group + 4])) == 4  # different scenes


def test_load_images__bad_arguments(photos, tmp_path):
    with pytest.raises(ValueError, match='either'):
        load_images(16)
    with pytest.raises(ValueError, match='not one group'):
        load_images(16, folder=photos, count=3, group_size=4)
    with pytest.raises(FileNotFoundError, match='does not exist'):
        load_images(16, folder=tmp_path / 'none')


def test_normalise__as_in_training(run):
    model = run[0]
    pixels = torch.randint(0, 256, (2, 3, 16, 24), dtype=torch.uint8)
    mean, std = torch.tensor([120.0, 115.0, 105.0]), torch.tensor([58.0, 57.0, 56.0])
    torch.testing.assert_close(normalise(model, pixels), (pixels.float() - mean[:, None, None]) / std[:, None, None])
