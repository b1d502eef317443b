#!/usr/bin/env python
"""Memory that a training step of a detection or segmentation config needs, counted on the CPU before a GPU is rented.

    python tools/analysis/step_memory.py mmcfg/coco/*bf16*.py

Builds the model, runs one forward and backward pass on random images with the batch, size, autocast and checkpointing
of the config, and follows every allocation: the peak of what is alive at one time, with weights, gradients and AdamW's
two moments. Kernels, cuDNN's workspace, the allocator's rounding and the CUDA context come on top, so a GPU needs more.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # so that a checkout works without being installed
    sys.path.insert(0, str(ROOT))

OBJECTS = 10  # COCO has 7.3 an image


def build_model(cfg: Any) -> Any:
    """The config's model in training mode.

    Raises:
        ValueError: the config is neither mmdet's nor mmseg's.
    """
    from mmengine.registry import MODELS, DefaultScope

    scope = cfg.get('default_scope')
    if scope not in ('mmdet', 'mmseg'):
        raise ValueError(f'{cfg.filename} is no detection or segmentation config: its default_scope is {scope}.')
    importlib.import_module(f'{scope}.utils').register_all_modules(init_default_scope=False)
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(cfg.model)
    return model.train()


def image_size(cfg: Any, size: tuple[int, int] | None) -> tuple[int, int]:
    """(height, width) of a training image: the option's, or the one that the preprocessor pads to.

    Raises:
        ValueError: the config's images have no one size.
    """
    if size:
        return size
    preprocessor = cfg.model.data_preprocessor
    if preprocessor.get('size'):
        return tuple(preprocessor.size)
    if preprocessor.get('pad_size_divisor', 1) >= 256:
        return (preprocessor.pad_size_divisor,) * 2
    raise ValueError(f'{cfg.filename} trains on images of several sizes: say which by --size HEIGHT WIDTH.')


def detection_batch(batch: int, size: tuple[int, int], classes: int, generator: Any) -> dict[str, list]:
    """Random images with random boxes and rectangular masks, as mmdet's loader gives them."""
    import numpy as np
    import torch
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    height, width = size
    scale = torch.tensor([width, height, width, height])
    samples = []
    for index in range(batch):
        corner, extent = torch.rand(OBJECTS, 2, generator=generator), torch.rand(OBJECTS, 2, generator=generator)
        low, high = corner * 0.6, corner * 0.6 + 0.1 + extent * 0.3
        boxes = torch.cat([low, high], 1) * scale
        masks = np.zeros((OBJECTS, height, width), np.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist()):
            mask[y1:y2, x1:x2] = 1
        sample = DetDataSample(
            metainfo=dict(img_shape=size, ori_shape=size, pad_shape=size, scale_factor=(1.0, 1.0), img_id=index)
        )
        labels = torch.randint(0, classes, (OBJECTS,), generator=generator)
        sample.gt_instances = InstanceData(bboxes=boxes, labels=labels, masks=BitmapMasks(masks, height, width))
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4))
        samples.append(sample)
    return dict(inputs=random_images(batch, size, generator), data_samples=samples)


def segmentation_batch(batch: int, size: tuple[int, int], classes: int, generator: Any) -> dict[str, list]:
    """Random images with random label maps, as mmseg's loader gives them."""
    import torch
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    samples = []
    for _ in range(batch):
        sample = SegDataSample(metainfo=dict(img_shape=size, ori_shape=size, pad_shape=size))
        sample.gt_sem_seg = PixelData(data=torch.randint(0, classes, (1, *size), generator=generator))
        samples.append(sample)
    return dict(inputs=random_images(batch, size, generator), data_samples=samples)


def random_images(batch: int, size: tuple[int, int], generator: Any) -> list:
    """`batch` times uint8 ``(3, H, W)``."""
    import torch

    return [torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8) for _ in range(batch)]


def peak_bytes(work: Callable[[], Any]) -> int:
    """The most bytes of tensors alive at one time during `work`, over those alive before it."""
    import torch

    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True, acc_events=True) as profiler:
        work()
    changes = sorted(
        (event.start_ns(), event.nbytes())
        for event in profiler.profiler.kineto_results.events()
        if event.name() == '[memory]'
    )
    alive = peak = 0
    for _, change in changes:
        alive += change
        peak = max(peak, alive)
    return peak


def measure(path: str, options: dict | None, size: tuple[int, int] | None, batch: int | None) -> dict[str, float]:
    """Bytes of weights, gradients, AdamW's moments and the step's peak over these."""
    import torch

    import mixedae  # noqa: F401  (registers the models)
    from mixedae.engine.configs import read_config

    cfg = read_config(path, options)
    model = build_model(cfg)
    height, width = image_size(cfg, size)
    batch = batch or cfg.train_dataloader.batch_size
    generator = torch.Generator().manual_seed(0)
    if cfg.default_scope == 'mmdet':
        head = getattr(model, 'bbox_head', None) or model.roi_head.bbox_head
        classes = (head[0] if isinstance(head, torch.nn.ModuleList) else head).num_classes
        data = detection_batch(batch, (height, width), classes, generator)
    else:
        data = segmentation_batch(batch, (height, width), model.decode_head.num_classes, generator)
    wrapper = cfg.optim_wrapper
    half = getattr(torch, wrapper.get('dtype') or 'float16') if 'Amp' in str(wrapper.type) else None

    def step() -> None:
        # float16 on a GPU has the size of bfloat16, which more of the CPU's kernels know
        with torch.autocast('cpu', torch.bfloat16, enabled=half is not None):
            losses = model(**model.data_preprocessor(data, True), mode='loss')
            loss, _ = model.parse_losses(losses)
        loss.backward()

    trained = [p for p in model.parameters() if p.requires_grad]
    for p in trained:
        p.grad = torch.zeros_like(p)  # as from the second step on: backward adds to them
    weights = sum(t.nbytes for t in [*model.parameters(), *model.buffers()])
    gradients = sum(p.nbytes for p in trained)
    activations = peak_bytes(step)
    parts = dict(weights=weights, gradients=gradients, moments=2 * gradients, activations=activations)
    return dict(parts, total=sum(parts.values()), batch=batch, height=height, width=width)


def main(arguments: Sequence[str] | None = None) -> int:
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='+', help='detection or segmentation configs')
    parser.add_argument(
        '--size', nargs=2, type=int, metavar=('HEIGHT', 'WIDTH'), help="images (default: the config's crops)"
    )
    parser.add_argument('--batch', type=int, help="images of a step (default: the config's)")
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='key=value changes to the config')
    args = parser.parse_args(arguments)
    try:
        for path in args.configs:
            found = measure(path, args.cfg_options, tuple(args.size) if args.size else None, args.batch)
            print(f'{Path(path).stem}: {found["batch"]} images of {found["height"]} x {found["width"]}')
            for part in ('weights', 'gradients', 'moments', 'activations', 'total'):
                print(f'  {part:12s} {found[part] / 2**30:6.2f} GiB')
    except (OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
