"""The pictures of the report: windows, mixes, detections and segmentations, as rows of uint8 images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image

from mixedae.checkpoints import read_checkpoint
from mixedae.registry import MODELS
from mixedae.visualization import colour_labels, draw_objects, draw_windows, fit, mask_colours, palette, to_image
from object_aware import GroupSampler, ObjectCropDataset

Row = tuple[str, list[np.ndarray | None]]

SIDE = 320  # longer side of a scene in the report, pixels
SCORE = 0.3  # detections below it are not drawn,
SUREST = 3  # but this many of each image are, so that a weak detector shows what it does
HIDDEN = np.uint8(205)  # grey of a patch that is not in the mix


def spaced(count: int, total: int) -> list[int]:
    """`count` positions evenly spaced in 0..total-1 (all of them if there are fewer)."""
    count = min(count, total)
    return [i * total // count for i in range(count)]


def window_rows(index_file: Path, crop: int, seed: int, count: int, crops_per_scene: int = 4) -> list[Row]:
    """Scenes with their windows, and the crops that pre-training would get from them in its first epoch."""
    dataset = ObjectCropDataset(index_file, size=crop, seed=seed, flip_prob=0.0)
    by_scene: dict[int, list[int]] = {}
    for number, scene in enumerate(dataset.scene_ids.tolist()):
        by_scene.setdefault(scene, []).append(number)
    # Scenes with several objects show what the windows are for.
    most = max(len(numbers) for numbers in by_scene.values())
    rich = [scene for scene, numbers in by_scene.items() if len(numbers) >= min(3, most)]
    rows: list[Row] = []
    for i in spaced(count, len(rich)):
        numbers = by_scene[rich[i]][:crops_per_scene]
        samples = [dataset[number] for number in numbers]
        windows = np.stack([sample['data_samples']['window'].numpy() for sample in samples])
        boxes = np.stack([dataset.index.boxes[sample['data_samples']['object']] for sample in samples])
        scene = np.asarray(Image.open(dataset.path(rich[i])).convert('RGB'))
        picture = fit(scene, SIDE)
        scale = picture.shape[1] / scene.shape[1]
        colours = palette(len(numbers))
        crops = [framed(s['inputs'].numpy().transpose(1, 2, 0), c) for s, c in zip(samples, colours, strict=True)]
        empty: list[np.ndarray | None] = [None] * (crops_per_scene - len(crops))
        rows.append(('', [draw_windows(picture, windows * scale, boxes * scale, colours, width=3), *crops, *empty]))
    return rows


def framed(image: np.ndarray, colour: tuple[int, int, int], width: int = 3) -> np.ndarray:
    """The image with a border of a colour over its outermost pixels."""
    out = np.array(image)
    out[:width], out[-width:], out[:, :width], out[:, -width:] = (colour,) * 4
    return out


def mix_rows(config: Path, checkpoint: Path, groups: int = 2) -> list[Row]:
    """Groups with mask, mix and reconstruction; the first groups of an epoch that training does not reach."""
    cfg = Config.fromfile(config)
    init_default_scope('mixedae')
    model = MODELS.build(cfg.model)
    model.load_state_dict(read_checkpoint(checkpoint), strict=True)
    model.eval()
    loader = cfg.train_dataloader
    settings = {key: value for key, value in loader.dataset.items() if key != 'type'}
    dataset = ObjectCropDataset(**settings)
    sampler = GroupSampler(dataset, group_size=model.group_size, seed=loader.sampler.seed)
    sampler.set_epoch(10**6)
    keys = list(sampler)[: groups * model.group_size]
    inputs = torch.stack([dataset[key]['inputs'] for key in keys])
    images = model.data_preprocessor({'inputs': inputs})['inputs']
    result = model.reconstruct(images, torch.Generator().manual_seed(0))
    mean, std = (cfg.model.data_preprocessor[key] for key in ('mean', 'std'))
    grid, patch = model.encoder.grid, model.encoder.patch_size
    rows: list[Row] = []
    for g in range(len(keys) // model.group_size):
        members = range(g * model.group_size, (g + 1) * model.group_size)
        mask = result['mask'][g].numpy()
        sources = [inputs[i].numpy().transpose(1, 2, 0) for i in members]
        owner = mask.reshape(grid).repeat(patch, axis=0).repeat(patch, axis=1)[..., None]
        shown = [np.where(owner == k, source, HIDDEN) for k, source in enumerate(sources)]
        decoded = [to_image(result['predicted'][i].numpy(), mean, std) for i in members]
        mixed = to_image(result['mixed'][g].numpy(), mean, std)
        rows += [
            ('source', [*sources, mask_colours(mask, grid, patch)]),
            ('in the mix', [*shown, mixed]),
            ('decoded', [*decoded, None]),
        ]
    return rows


Shown = tuple[np.ndarray, np.ndarray, np.ndarray, set[int]]  # image, truth, prediction, classes that either shows


def transfer_rows(task: str, runs: dict[str, tuple[Path, Path]], count: int) -> tuple[list[Row], list[int]]:
    """Image, truth, and what each run predicts; `runs` is start -> (config, checkpoint), all on the same val images.

    Returns:
        the rows, and the classes that can be seen in them.
    """
    predict = {'detection': _detections, 'segmentation': _segmentations}[task]
    columns = [list(predict(config, checkpoint, count)) for config, checkpoint in runs.values()]
    rows: list[Row] = []
    seen: set[int] = set()
    for cells in zip(*columns, strict=True):
        image, truth = cells[0][:2]
        rows.append(('', [image, truth, *[cell[2] for cell in cells]]))
        seen.update(*(cell[3] for cell in cells))
    return rows, sorted(seen)


def _detections(config: Path, checkpoint: Path, count: int) -> Iterator[Shown]:
    cfg, model, dataset = _load(config, checkpoint, 'mmdet')
    names = list(cfg.test_dataloader.dataset.metainfo.classes)
    for i in spaced(count, len(dataset)):
        sample, result = _predict(model, dataset, i)
        image = np.asarray(Image.open(sample.img_path).convert('RGB'))
        picture = fit(image, SIDE)
        scale = picture.shape[1] / image.shape[1]
        truth, found = sample.gt_instances, result.pred_instances
        order = found.scores.argsort(descending=True)
        found = found[order[: max(SUREST, int((found.scores >= SCORE).sum()))]]
        yield (
            picture,
            draw_objects(
                picture, _array(truth.bboxes) * scale, truth.labels.tolist(), names,
                masks=_resize_masks(truth.masks.masks, picture),
            ),
            draw_objects(
                picture, _array(found.bboxes) * scale, found.labels.tolist(), names, scores=found.scores.tolist(),
                masks=_resize_masks(found.masks.cpu().numpy(), picture),
            ),
            {*truth.labels.tolist(), *found.labels.tolist()},
        )  # fmt: skip


def _segmentations(config: Path, checkpoint: Path, count: int) -> Iterator[Shown]:
    cfg, model, dataset = _load(config, checkpoint, 'mmseg')
    classes = len(cfg.test_dataloader.dataset.metainfo.classes)
    for i in spaced(count, len(dataset)):
        sample, result = _predict(model, dataset, i)
        image = np.asarray(Image.open(sample.img_path).convert('RGB'))
        truth = sample.gt_sem_seg.data[0].numpy()
        found = result.pred_sem_seg.data[0].cpu().numpy()
        seen = {*np.unique(truth).tolist(), *np.unique(found).tolist()} - {255}
        pictures = (image, colour_labels(truth, classes, image), colour_labels(found, classes, image))
        yield (*(fit(picture, SIDE) for picture in pictures), seen)


def _load(config: Path, checkpoint: Path, scope: str) -> tuple[Config, torch.nn.Module, Any]:
    """Config, trained model in evaluation mode, and the test dataset, built in the scope of mmdet or mmseg."""
    import importlib

    cfg = Config.fromfile(config)
    cfg.model.backbone.pop('init_cfg', None)
    importlib.import_module(f'{scope}.utils').register_all_modules(init_default_scope=False)
    init_default_scope(scope)
    registry = importlib.import_module(f'{scope}.registry')
    model = registry.MODELS.build(cfg.model)
    model.load_state_dict(read_checkpoint(checkpoint), strict=True)
    model.eval()
    dataset = registry.DATASETS.build(cfg.test_dataloader.dataset)
    return cfg, model, dataset


@torch.no_grad()
def _predict(model: torch.nn.Module, dataset: Any, index: int) -> tuple[Any, Any]:
    """The data sample with the truth, in pixels of the image file, and the prediction."""
    data = dataset[index]
    truth = data['data_samples'].clone()
    result = model.test_step({'inputs': [data['inputs']], 'data_samples': [data['data_samples']]})[0]
    return truth, result


def _array(boxes: Any) -> np.ndarray:
    """Boxes as (n, 4) numbers, whether they are mmdet's box type or a tensor."""
    return getattr(boxes, 'tensor', boxes).cpu().numpy()


def _resize_masks(masks: np.ndarray, picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    resized = [
        np.asarray(Image.fromarray(np.asarray(mask, dtype=np.uint8) * 255).resize((width, height))) > 127
        for mask in masks
    ]
    return np.array(resized, dtype=bool).reshape(-1, height, width)
