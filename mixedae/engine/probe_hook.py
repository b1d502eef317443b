"""``mixedae.ProbeHook``: how good the frozen features are, while pre-training goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.runner import Runner
from torch import Tensor

from mixedae.engine.classification import LabelledImages
from mixedae.engine.side_hook import SideHook
from mixedae.models.pretrainer import Pretrainer
from mixedae.registry import DATASETS, HOOKS

MEASURES = {'knn': 'kNN', 'linear': 'linear probe', 'rankme': 'RankMe'}


@HOOKS.register_module()
class ProbeHook(SideHook):
    """Measures the encoder's frozen features of whole images: kNN and linear probe on labelled ones, RankMe on crops.

    The values go to the log and to every visualisation backend as ``probe/knn``, ``probe/linear`` (shares, 0..1) and
    ``probe/rankme``. Without labelled images RankMe alone is measured, on images of the training data. Images are read
    once and kept as uint8 (1,000 of 224 px take 150 MB). Rank 0 works, the others wait; see
    :class:`mixedae.engine.side_hook.SideHook` for what else the hook leaves alone.

    Args:
        train: labelled images that kNN and linear probe learn from: a folder of class folders, or the config of a
            dataset that gives ``dict(inputs=(3, H, W) in 0..255, data_samples=dict(label=int))``; None: RankMe alone.
        val: labelled images that are judged, as ``train``; None: a third of each class of ``train``.
        interval: epochs or iterations between two measurements.
        by_epoch: count epochs; False counts iterations.
        at_start: measure the untrained encoder too, as something to compare with.
        measures: which ones, of ``knn``, ``linear``, ``rankme``.
        max_train: images of ``train`` at most, evenly spaced over its order.
        max_val: the same of ``val``.
        max_crops: images of the training data for RankMe.
        feature: ``'mean'`` of the patch tokens or ``'cls'``, after the final LayerNorm.
        global_attention: attention as after transfer; False: TopK attention as in pre-training.
        batch_size: images at a time.
    """

    def __init__(
        self,
        train: str | dict | None = None,
        val: str | dict | None = None,
        interval: int = 1,
        by_epoch: bool = True,
        at_start: bool = True,
        measures: Sequence[str] = tuple(MEASURES),
        max_train: int = 2000,
        max_val: int = 1000,
        max_crops: int = 1000,
        feature: str = 'mean',
        global_attention: bool = True,
        batch_size: int = 64,
    ) -> None:
        super().__init__(interval, by_epoch, at_start)
        unknown = [name for name in measures if name not in MEASURES]
        if unknown or not measures:
            raise ValueError(f'measures of ProbeHook are {", ".join(MEASURES)}, not {unknown or "none"}.')
        if feature not in ('mean', 'cls'):
            raise ValueError(f"feature of ProbeHook is 'mean' or 'cls', not '{feature}'.")
        if val is not None and train is None:
            raise ValueError('ProbeHook has labelled images to judge (val) but none to learn from: set train.')
        self.measures = tuple(name for name in MEASURES if name in measures)
        if train is None:
            self.measures = tuple(name for name in self.measures if name == 'rankme')
            if not self.measures:
                raise ValueError('ProbeHook has nothing to do: kNN and linear probe need labelled images, set train.')
        self.train, self.val = train, val
        self.max_train, self.max_val, self.max_crops = max_train, max_val, max_crops
        self.feature = feature
        self.global_attention = global_attention
        self.batch_size = batch_size
        if self.wants_labels:
            list(self._datasets(size=224))  # a folder that is missing is found now, not after the first epoch
        self._labelled: tuple[Tensor, ...] | None = None
        self._crops: Tensor | None = None

    @property
    def wants_labels(self) -> bool:
        return self.measures != ('rankme',)

    def look(self, runner: Runner, model: Pretrainer, step: int) -> None:
        # here, not above: analysis reads configs and data by the engine's own means
        from mixedae.analysis import knn_accuracy, linear_probe, rankme

        scalars: dict[str, float] = {}
        if self.wants_labels:
            if self._labelled is None:
                self._labelled = self._read_labelled(model.encoder.img_size)
            pixels, labels, val_pixels, val_labels = self._labelled
            data = (self._features(model, pixels), labels, self._features(model, val_pixels), val_labels)
            if 'knn' in self.measures:
                scalars['probe/knn'] = knn_accuracy(*data)
            if 'linear' in self.measures:
                device = next(model.parameters()).device  # solving is the dearest part where there are many classes
                scalars['probe/linear'] = linear_probe(*(part.to(device) for part in data)).accuracy
        if 'rankme' in self.measures:
            if self._crops is None:
                self._crops = training_images(runner.train_dataloader.dataset, self.max_crops)
            scalars['probe/rankme'] = rankme(self._features(model, self._crops))
        runner.visualizer.add_scalars(scalars, step=step, file_path=None)
        runner.logger.info(f'Probe at iteration {step}: {self._sentence(scalars, model.encoder.embed_dim)}')

    def _sentence(self, scalars: dict[str, float], dim: int) -> str:
        parts = []
        for name, title in MEASURES.items():
            value = scalars.get(f'probe/{name}')
            if value is None:
                continue
            of = f'{value:.1f} of {min(dim, len(self._crops))}' if name == 'rankme' else f'{100 * value:.1f} %'
            parts.append(f'{title} {of}')
        if self._labelled is not None:
            parts.append(f'{len(self._labelled[3])} images of {int(self._labelled[1].max()) + 1} classes')
        return ', '.join(parts)

    def _features(self, model: Pretrainer, pixels: Tensor) -> Tensor:
        from mixedae.analysis import frozen_features

        batches = (dict(inputs=pixels[i : i + self.batch_size]) for i in range(0, len(pixels), self.batch_size))
        found = frozen_features(model, batches, global_attention=self.global_attention, kinds=(self.feature,))
        return found.features[self.feature]

    def _datasets(self, size: int | tuple[int, int]) -> Iterator[Any]:
        """The labelled datasets, one or two; classes of a val folder are numbered as those of the train folder."""
        classes = None
        for data in (self.train, self.val):
            if isinstance(data, str):
                built = LabelledImages(data, size=size, train=False, classes=classes)
                classes = built.classes
            else:
                built = DATASETS.build(data) if data is not None else None
            if built is not None:
                yield built

    def _read_labelled(self, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """Pixels and labels to learn from, pixels and labels to judge."""
        from mixedae.analysis.linear_probe import held_out_mask

        limits = (self.max_train, self.max_val)
        parts = [read_labelled(dataset, limit, size) for dataset, limit in zip(self._datasets(size), limits)]
        if len(parts) == 1:
            (pixels, labels) = parts[0]
            held_out = held_out_mask(labels, 1 / 3, seed=0)
            parts = [(pixels[~held_out], labels[~held_out]), (pixels[held_out], labels[held_out])]
        return (*parts[0], *parts[1])


def read_labelled(dataset: Any, limit: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """uint8 images ``(N, 3, H, W)`` and labels ``(N,)``, at most ``limit``, evenly spaced over the dataset's order."""
    from mixedae.analysis import spaced

    samples = [dataset[i] for i in spaced(limit, len(dataset))]
    wrong = next((s['inputs'].shape for s in samples if tuple(s['inputs'].shape[-2:]) != size), None)
    if wrong is not None:
        raise ValueError(f'a labelled image has {tuple(wrong[-2:])} px, the model takes {size}: set its size.')
    pixels = torch.stack([as_bytes(sample['inputs']) for sample in samples])
    return pixels, torch.tensor([int(sample['data_samples']['label']) for sample in samples])


def training_images(dataset: Any, count: int, group_size: int = 1) -> Tensor:
    """uint8 images ``(N, 3, H, W)`` of the training data, evenly spaced; N is a multiple of ``group_size``.

    Where the dataset knows its scenes, they come from different ones as far as there are enough.
    """
    from mixedae.analysis import spaced
    from object_aware.device_scenes import WindowDataset

    if isinstance(dataset, WindowDataset):  # gives windows alone; the pixels in them are its dataset's
        dataset = dataset.dataset
    total = len(dataset)
    scenes = getattr(dataset, 'scene_ids', None)
    if scenes is None:
        chosen = spaced(count, total)
    else:
        first = np.sort(np.unique(np.asarray(scenes), return_index=True)[1]).tolist()
        chosen = [first[i] for i in spaced(count, len(first))] if len(first) >= count else spaced(count, total)
    chosen = chosen[: len(chosen) // group_size * group_size]
    if not chosen:
        raise ValueError(f'the training data has {total} images, not one group of {group_size}')
    return torch.stack([as_bytes(dataset[i]['inputs']) for i in chosen])


def as_bytes(pixels: Tensor) -> Tensor:
    """An image of 0..255 as uint8."""
    return pixels if pixels.dtype == torch.uint8 else pixels.round().clamp(0, 255).to(torch.uint8)
