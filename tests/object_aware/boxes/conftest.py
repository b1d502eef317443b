"""A tiny ViT as a checkpoint, and scenes with one bright square each."""

import numpy as np
import pytest
import torch
from PIL import Image

from mixedae.models import MixedAEViT

SQUARES = [(16, 16, 48, 40), (8, 24, 40, 56), (24, 0, 56, 24), (0, 8, 32, 40), (32, 32, 64, 56)]


@pytest.fixture(scope='session')
def checkpoint(tmp_path_factory):
    """A ViT of width 48, 2 blocks, 3 heads, patches of 8, for images of 64, whose keys tell colours apart."""
    torch.manual_seed(0)
    model = MixedAEViT(dict(embed_dim=48, depth=2, num_heads=3), img_size=64, patch_size=8, out_indices=(1,))
    with torch.no_grad():
        model.pos_embed.mul_(0.02)
        for block in model.blocks:
            block.attn.proj.weight.zero_()
            block.mlp.fc2.weight.zero_()
    file = tmp_path_factory.mktemp('vit') / 'vit.pth'
    torch.save(dict(state_dict={f'encoder.{name}': value for name, value in model.state_dict().items()}), file)
    return file


@pytest.fixture
def square_boxes():
    """x1, y1, x2, y2 of the square in each image of ``squares``; they lie on patches of 8."""
    return SQUARES


@pytest.fixture
def squares(tmp_path):
    """Folder of five noisy images of 64 x 64 with one square each; see ``square_boxes``."""
    folder = tmp_path / 'squares'
    folder.mkdir()
    rng = np.random.default_rng(0)
    for k, (x1, y1, x2, y2) in enumerate(SQUARES):
        pixels = np.full((64, 64, 3), [30, 60, 160], dtype=np.float64)
        pixels[y1:y2, x1:x2] = [220, 180, 40]
        noisy = np.clip(pixels + rng.normal(0, 4, pixels.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f'{k}.png')
    return folder
