"""Draws docs/images/pretext.png, the way of four crops through the pretext task, on the embedded demo data.

python docs/images/make_pretext.py CHECKPOINT

CHECKPOINT: a pre-training with mmcfg/demo/mixedae_vit-tiny-p16_crops-128.py; the figure of the docs is that of
`make demo` with BUDGET=full on photographs, so the model has never seen drawn scenes.
"""

import sys
import tempfile
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mixedae.analysis import load_model, normalise
from mixedae.visualization import grid, mask_colours, to_image
from object_aware import ObjectCropDataset, build_crop_index, read_scenes
from object_aware.synthetic import write_demo_data

HERE = Path(__file__).resolve().parent
CONFIG = HERE.parents[1] / 'mmcfg' / 'demo' / 'mixedae_vit-tiny-p16_crops-128.py'
CROPS = (3, 12, 27, 40)  # four objects of four scenes, picked for the eye
HIDDEN = np.uint8(225)  # grey of a patch that is not in the mix


def main(checkpoint: str) -> None:
    model = load_model(CONFIG, checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        write_demo_data(folder, num_train=24, num_val=1, size=(288, 216))
        detection = Path(folder) / 'det'
        scenes = read_scenes([(detection / 'annotations' / 'train.json', detection / 'images')])
        build_crop_index(scenes, model.encoder.img_size).save(Path(folder) / 'crops.safetensors')
        dataset = ObjectCropDataset(Path(folder) / 'crops.safetensors', flip_prob=0.0)
        crops = torch.stack([dataset[number]['inputs'] for number in CROPS])
    result = model.reconstruct(normalise(model, crops), torch.Generator().manual_seed(0))
    mean, std = (getattr(model.data_preprocessor, name).flatten().tolist() for name in ('mean', 'std'))
    mask, patch = result['mask'][0].numpy(), model.encoder.patch_size
    owner = mask.reshape(model.encoder.grid).repeat(patch, axis=0).repeat(patch, axis=1)[..., None]
    sources = [crop.numpy().transpose(1, 2, 0) for crop in crops]
    own = [np.where(owner == image, source, HIDDEN) for image, source in enumerate(sources)]
    decoded = [to_image(image.numpy(), mean, std) for image in result['predicted']]
    middle = [
        mask_colours(mask, model.encoder.grid, patch),
        to_image(result['mixed'][0].numpy(), mean, std),
        None,
        None,
    ]
    figure = grid(
        [list(row) for row in zip(sources, middle, own, decoded)],
        column_titles=['four crops', 'mask, and mix', 'unmixed', 'decoded'],
        cell=1.5,
    )
    figure.patch.set(facecolor='white', alpha=1.0)
    drawing = BytesIO()
    figure.savefig(drawing, dpi=110)
    Image.open(drawing).convert('RGB').quantize(200).save(HERE / 'pretext.png', optimize=True)


if __name__ == '__main__':
    main(*sys.argv[1:])
