"""Small scenes on disk, and the real pack where there is one."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def write_coco(tmp_path):
    """Function that writes images and a COCO file: ``write_coco([(name, (w, h), [boxes xywh])]) -> (json, folder)``."""

    def write(scenes, name='train', folder='images', **changes):
        images, annotations = [], []
        (tmp_path / folder).mkdir(exist_ok=True)
        rng = np.random.default_rng(0)
        for k, (file, (width, height), boxes) in enumerate(scenes):
            path = tmp_path / folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(path)
            images.append(dict(id=k + 10, file_name=file, width=width, height=height))
            for box in boxes:
                fields = dict(id=len(annotations) + 1, image_id=k + 10, category_id=7, bbox=box, iscrowd=0)
                annotations.append(fields)
        content = dict(images=images, annotations=annotations, categories=[dict(id=7, name='thing')])
        content.update(changes)
        file = tmp_path / f'{name}.json'
        file.write_text(json.dumps(content))
        return file, tmp_path / folder

    return write


@pytest.fixture
def coco_scenes(write_coco):
    """Eight scenes with three objects each, far enough apart to be cropped."""
    boxes = [[20, 20, 40, 40], [120, 30, 50, 40], [60, 110, 60, 50]]
    return write_coco([(f's{k}.png', (200, 180), boxes) for k in range(8)])


@pytest.fixture(scope='session')
def pack():
    """The folder of real photographs; tests that need it are skipped where it is missing."""
    default = Path(__file__).resolve().parents[2].parent / 'shared' / 'pack'
    folder = Path(os.environ.get('MIXEDAE_PACK', default))
    if not (folder / 'det' / 'annotations').is_dir():
        pytest.skip('no pack of real photographs (MIXEDAE_PACK)')
    return folder
