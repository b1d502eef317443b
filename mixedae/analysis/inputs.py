"""What the analyses start from: a pre-trained model from (config, checkpoint) and a set of images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mixedae.checkpoints import CheckpointError, read_checkpoint
from mixedae.engine.configs import read_config
from mixedae.models.pretrainer import Pretrainer
from mixedae.registry import MODELS
from object_aware import GroupSampler, ImageDataset, ObjectCropDataset


class ImageSet(NamedTuple):
    """Images of one size.

    Attributes:
        pixels: ``(N, 3, H, W)`` uint8 RGB.
        names: N file names.
        boxes: ``(N, 4)`` float32, the object's box as x1, y1, x2, y2 in shares of the crop's width and height (0..1);
            None for whole images.
    """

    pixels: Tensor
    names: list[str]
    boxes: Tensor | None = None


def load_model(config: str | os.PathLike, checkpoint: str | os.PathLike) -> Pretrainer:
    """Builds the pretext task of a config and loads a checkpoint's weights into it.

    Args:
        config: config of the run, for example the one that MMEngine wrote into the work directory.
        checkpoint: a ``.pth`` file of that run; read without running code from it.

    Returns:
        The model in eval mode, on CPU.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the config is not of a pre-training run, or the weights are not of its model.
    """
    settings = read_config(str(config)).model.to_dict()
    settings.pop('init_cfg', None)
    model = MODELS.build(settings)
    if not isinstance(model, Pretrainer):
        raise ValueError(f'{config} builds a {type(model).__name__}, not a pre-training model (MixedAE or MAE).')
    weights = read_checkpoint(checkpoint)
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError:
        own = model.state_dict()
        missing = [key for key in own if key not in weights]
        foreign = [key for key in weights if key not in own]
        other = [key for key in own if key in weights and own[key].shape != weights[key].shape]
        found = [
            f'{len(keys)} weights are {word} (first: {keys[0]})'
            for keys, word in ((missing, 'missing'), (foreign, 'unknown'), (other, 'of another shape'))
            if keys
        ]
        raise CheckpointError(
            f'{checkpoint} does not belong to {config}: {", ".join(found)}. Give the config that the run left in its '
            'work directory.'
        ) from None
    return model.eval()


def load_images(
    size: int | tuple[int, int],
    *,
    folder: str | os.PathLike | None = None,
    crop_index: str | os.PathLike | None = None,
    image_root: str | os.PathLike | None = None,
    count: int = 256,
    group_size: int = 1,
    seed: int = 0,
) -> ImageSet:
    """Reads whole images of a folder (largest centred window) or object crops of a crop index.

    Which ones is decided by ``seed`` alone. Crops come in the order of the group sampler: each ``group_size``
    consecutive ones are of different scenes.

    Args:
        size: (height, width) or one number for both.
        folder: folder of images, searched with its subfolders.
        crop_index: file of tools/build_crops.py; give one of the two.
        image_root: replaces the folder of the index's images when the data moved.
        count: how many at most; rounded down to whole groups.
        group_size: g.
        seed: of the choice and of the crops' windows.

    Raises:
        FileNotFoundError: folder, index or images are missing.
        ValueError: there are fewer images than one group.
    """
    if (folder is None) == (crop_index is None):
        raise ValueError('Give either a folder of images or a crop index.')
    if crop_index is not None:
        dataset = ObjectCropDataset(crop_index, size=size, seed=seed, flip_prob=0.0, image_root=image_root)
        sampler = GroupSampler(dataset, group_size=group_size, seed=seed)
        keys = [key for key, _ in zip(sampler, range(count))]
    else:
        height, width = (size, size) if isinstance(size, int) else size
        aspect = width / height
        # A window of the whole area fits only an image of that very aspect: others get the largest centred window.
        dataset = ImageDataset(folder, size=size, flip_prob=0.0, scale=(1.0, 1.0), ratio=(aspect, aspect))
        order = np.random.default_rng(seed).permutation(len(dataset))
        keys = [(int(index), 0) for index in order[:count]]
    keys = keys[: len(keys) // group_size * group_size]
    if not keys:
        where = crop_index if folder is None else folder
        raise ValueError(f'{where} and count={count} give fewer than {group_size} images, not one group.')
    samples = [dataset[key] for key in keys]
    pixels = torch.stack([sample['inputs'] for sample in samples])
    if folder is not None:
        return ImageSet(pixels, [Path(dataset.path(index)).name for index, _ in keys])
    names, boxes = [], []
    for sample in samples:
        data = sample['data_samples']
        names.append(Path(dataset.path(data['scene'])).name)
        x1, y1, x2, y2 = data['window'].tolist()
        box = torch.tensor(dataset.index.boxes[data['object']]).float()
        box = (box - torch.tensor([x1, y1, x1, y1])) / torch.tensor([x2 - x1, y2 - y1, x2 - x1, y2 - y1])
        boxes.append(box.clamp(0, 1))
    return ImageSet(pixels, names, torch.stack(boxes))


def normalise(model: Pretrainer, pixels: Tensor) -> Tensor:
    """uint8 images ``(B, 3, H, W)`` as the model saw images in training: float, on the model's device."""
    device = next(model.parameters()).device
    batch = model.data_preprocessor({'inputs': pixels.to(device)}, False)['inputs']
    return batch.float() if not batch.is_floating_point() else batch
