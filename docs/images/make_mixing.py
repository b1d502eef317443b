"""Draws docs/images/mixing.png, the picture of the README, from the embedded demo data.

python docs/images/make_mixing.py
"""

import tempfile
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mixedae.functional import draw_mixing_mask, mix, patchify, unpatchify
from mixedae.visualization import draw_windows, grid, mask_colours
from mixedae.visualization.draw import SOURCE_COLOURS
from object_aware import ObjectCropDataset, build_crop_index, read_scenes
from object_aware.synthetic import write_demo_data

HERE = Path(__file__).resolve().parent
SIZE, PATCH = 128, 16
CROPS = (3, 12, 27, 40)  # four objects of four scenes, picked for the eye


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_demo_data(folder, num_train=24, num_val=1, size=(288, 216))
        detection = Path(folder) / 'det'
        scenes = read_scenes([(detection / 'annotations' / 'train.json', detection / 'images')])
        build_crop_index(scenes, SIZE).save(Path(folder) / 'crops.safetensors')
        dataset = ObjectCropDataset(Path(folder) / 'crops.safetensors', flip_prob=0.0)
        samples = [dataset[number] for number in CROPS]
        assert len({sample['data_samples']['scene'] for sample in samples}) == 4
        framed = []
        for sample, colour in zip(samples, SOURCE_COLOURS):
            scene = np.asarray(Image.open(dataset.path(sample['data_samples']['scene'])))
            framed.append(draw_windows(scene, sample['data_samples']['window'].numpy(), colours=[colour], width=5))
    crops = torch.stack([sample['inputs'] for sample in samples])
    side = SIZE // PATCH
    mask = draw_mixing_mask(1, side**2, 4, generator=torch.Generator().manual_seed(0))
    mixed = unpatchify(mix(patchify(crops, PATCH)[None], mask), PATCH, (side, side))[0]
    pictures = [crop.numpy().transpose(1, 2, 0) for crop in crops]
    figure = grid(
        [
            [*framed, mask_colours(mask[0].numpy(), (side, side), PATCH)],
            [*pictures, mixed.numpy().transpose(1, 2, 0)],
        ],
        column_titles=['scene 1', 'scene 2', 'scene 3', 'scene 4', 'mask and mix'],
        cell=1.6,
    )
    figure.patch.set(facecolor='white', alpha=1.0)
    drawing = BytesIO()
    figure.savefig(drawing, dpi=110)
    # 200 colours are enough for drawn scenes and make a third of the file.
    Image.open(drawing).convert('RGB').quantize(200).save(HERE / 'mixing.png', optimize=True)


if __name__ == '__main__':
    main()
