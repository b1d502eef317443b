"""Bad image files of a run: where they are listed, and a line about them at the end of its log."""

from __future__ import annotations

import os

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mixedae.registry import HOOKS

_DATASETS = ('ObjectCropDataset', 'ShardedCropDataset', 'ImageDataset')


def place_quarantine(cfg: Config) -> None:
    """Let our datasets list bad image files in ``<work_dir>/quarantine.jsonl`` unless the config names another file.

    To be called before datasets are built, so that loader workers know the file.
    """
    loader = cfg.get('train_dataloader') or {}
    dataset = loader.get('dataset') or {}
    while isinstance(dataset, dict) and 'dataset' in dataset:  # wrappers
        dataset = dataset['dataset']
    kind = dataset.get('type') if isinstance(dataset, dict) else None
    scope, _, name = (kind if isinstance(kind, str) else getattr(kind, '__name__', '')).rpartition('.')
    if scope in ('', 'mixedae') and name in _DATASETS and dataset.get('quarantine_file') is None:
        dataset['quarantine_file'] = os.path.join(cfg.work_dir, 'quarantine.jsonl')


@HOOKS.register_module()
class QuarantineHook(Hook):
    """Says at the end of a run how many samples were replaced because of how many bad image files."""

    priority = 'VERY_LOW'

    def after_train(self, runner: Runner) -> None:
        dataset = runner.train_dataloader.dataset
        while not hasattr(dataset, 'quarantine') and hasattr(dataset, 'dataset'):  # wrappers
            dataset = dataset.dataset
        quarantine = getattr(dataset, 'quarantine', None)
        summary = quarantine.summary() if quarantine is not None else ''
        if summary:
            runner.logger.warning(summary)
