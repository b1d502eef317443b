"""Tiny pre-training runs on disk: a config, a checkpoint, a log, and a folder of images."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mixedae.models import MAE, MixedAE

CONFIG = """
model = dict(
    type='mixedae.{kind}',
    data_preprocessor=dict(type='mmengine.ImgDataPreprocessor', mean=[120., 115., 105.], std=[58., 57., 56.]),
    encoder=dict(arch=dict(embed_dim=16, depth=3, num_heads=2), img_size=(16, 24), patch_size=4),
    decoder=dict(embed_dim=8, depth=1, num_heads=2),
)
"""


def build(kind):
    data_preprocessor = dict(type='mmengine.ImgDataPreprocessor', mean=[120.0, 115.0, 105.0], std=[58.0, 57.0, 56.0])
    cls = dict(MixedAE=MixedAE, MAE=MAE)[kind]
    encoder = dict(arch=dict(embed_dim=16, depth=3, num_heads=2), img_size=(16, 24), patch_size=4)
    decoder = dict(embed_dim=8, depth=1, num_heads=2)
    return cls(encoder=encoder, decoder=decoder, data_preprocessor=data_preprocessor).eval()


def write_run(folder: Path, kind: str, seed: int, log: bool = True):
    """(model, config path, checkpoint path) of a run with random weights."""
    folder.mkdir(parents=True)
    (folder / 'config.py').write_text(CONFIG.format(kind=kind))
    torch.manual_seed(seed)
    model = build(kind)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    torch.save(dict(state_dict=model.state_dict(), meta=dict(iter=4)), folder / 'iter_4.pth')
    if log:
        vis_data = folder / '20260101_000000' / 'vis_data'
        vis_data.mkdir(parents=True)
        lines = []
        for step in (1, 2, 3, 4):
            lines.append(dict(loss=1.0 / step, step=step))
            lines.append({f'topk_acc/layer_{i:02d}': 0.25 + 0.01 * step * i for i in range(3)} | dict(step=step))
        (vis_data / 'scalars.json').write_text('\n'.join(json.dumps(line) for line in lines) + '\n')
    return model, str(folder / 'config.py'), str(folder / 'iter_4.pth')


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / 'mixed', 'MixedAE', 0)


@pytest.fixture
def mae_run(tmp_path):
    return write_run(tmp_path / 'mae', 'MAE', 1, log=False)


@pytest.fixture
def photos(tmp_path, rng):
    """Ten images of 40 x 30 px in two folders."""
    folder = tmp_path / 'photos'
    for i in range(10):
        path = folder / ('a' if i < 5 else 'b') / f'{i}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, size=(30, 40, 3), dtype=np.uint8)).save(path)
    return folder


@pytest.fixture
def crop_index(tmp_path, rng):
    """A crop index of eight scenes with two objects each, for crops of 16 x 24 px."""
    from object_aware import build_crop_index, read_scenes

    folder = tmp_path / 'scenes'
    folder.mkdir()
    images, annotations = [], []
    for i in range(8):
        Image.fromarray(rng.integers(0, 256, size=(90, 160, 3), dtype=np.uint8)).save(folder / f'{i}.png')
        images.append(dict(id=i, file_name=f'{i}.png', width=160, height=90))
        for j, box in enumerate(([10, 20, 45, 40], [100, 30, 40, 35])):
            annotations.append(dict(id=2 * i + j, image_id=i, category_id=1, bbox=box, area=box[2] * box[3], iscrowd=0))
    categories = [dict(id=1, name='thing')]
    scenes = tmp_path / 'scenes.json'
    scenes.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    build_crop_index(read_scenes([(scenes, folder)]), (16, 24)).save(tmp_path / 'crops.safetensors')
    return tmp_path / 'crops.safetensors'
