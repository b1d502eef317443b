"""Checks of a config before a run starts: bad input gets one sentence now, not an error or nonsense hours later."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS as MMENGINE_DATASETS

from mixedae.checkpoints.facts import ONE_FILE
from mixedae.engine.configs import walk
from mixedae.engine.data_checks import check_coco
from mixedae.engine.label_checks import check_segmentation
from mixedae.engine.schedule_checks import check_schedule

PHASES = ('train', 'val', 'test')
HEADS = ('bbox_head', 'mask_head', 'decode_head', 'auxiliary_head')


def preflight(cfg: Config, phases: Sequence[str] = ('train', 'val')) -> list[str]:
    """Checks the config of a pre-training, detection or segmentation run.

    - the schedule of the learning rate is as long as the run (:mod:`mixedae.engine.schedule_checks`);
    - mmdet or mmseg and mmcv's compiled ops import, where the config needs them;
    - checkpoints that it names exist;
    - the batch of a mixing model is made of whole groups;
    - data folders and annotation files are there and whole (:mod:`mixedae.engine.data_checks`);
    - as many classes in the heads as in the data.

    Args:
        cfg: the config as it will be run.
        phases: which dataloaders to look at, of ``PHASES``; the schedule with 'train'.

    Returns:
        Warnings, one line each: what may be meant, but mostly is not.

    Raises:
        ValueError, FileNotFoundError, ImportError: with one sentence for the user.
    """
    scope = cfg.get('default_scope') or 'mmengine'
    if scope in ('mmdet', 'mmseg'):
        check_stack(scope)
    warnings = check_schedule(cfg) if 'train' in phases else []
    check_checkpoints(cfg)
    check_batch(cfg)
    warnings += check_layer_decay(cfg)
    check_one_class(cfg.get('model') or {})
    seen = []
    for phase in phases:
        loader = cfg.get(f'{phase}_dataloader')
        if not loader:
            continue
        for dataset in leaf_datasets(loader['dataset']):
            if dataset in seen:
                continue
            seen.append(dataset)
            try:
                warnings += [f'{phase} data: {warning}' for warning in check_dataset(dataset, cfg, scope, phase)]
            except (ValueError, OSError, RuntimeError) as error:
                kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
                raise kind(f'{phase} data: {error}') from None
    return warnings


def check_stack(scope: str) -> None:
    """mmcv's compiled ops and mmdet / mmseg."""
    try:
        importlib.import_module('mmcv.ops')
    except (ImportError, OSError) as error:
        raise ImportError(
            f"mmcv's compiled ops are missing ({error}); detection and segmentation need them, pre-training does not: "
            'run `make env` to build them, `python tools/doctor.py` shows the state.'
        ) from None
    try:
        importlib.import_module(f'{scope}.models')
    except (ImportError, AssertionError) as error:
        raise ImportError(
            f'{scope} does not import ({str(error).strip().splitlines()[0]}): run `make env` to install versions that '
            'fit together, `python tools/doctor.py` shows the state.'
        ) from None


def check_checkpoints(cfg: Config) -> None:
    """Files named by ``init_cfg`` and ``load_from``."""
    named = [value for value in (cfg.get('load_from'),) if value]
    for node in walk(cfg.get('model') or {}):
        init_cfg = node.get('init_cfg')
        for entry in init_cfg if isinstance(init_cfg, list) else [init_cfg]:
            if isinstance(entry, dict) and entry.get('type') == 'Pretrained':
                named.append(entry.get('checkpoint') or '')
    for name in named:
        path = Path(name).expanduser()
        in_folder = any((path / file).is_file() for file in ONE_FILE)  # a folder of Hugging Face
        if '://' not in name and not path.is_file() and not in_folder:
            raise FileNotFoundError(
                f"The checkpoint '{name}' does not exist: give its path in init_cfg.checkpoint or load_from "
                '(a work_dirs folder keeps checkpoints as iter_*.pth or epoch_*.pth), or leave it out to start from '
                'scratch.'
            )


def check_layer_decay(cfg: Config) -> list[str]:
    """Pre-trained weights want lower rates in the first blocks: the templates set them together with ``checkpoint``."""
    optim = cfg.get('optim_wrapper') or {}
    rate = (optim.get('paramwise_cfg') or {}).get('layer_decay_rate')
    init_cfg = ((cfg.get('model') or {}).get('backbone') or {}).get('init_cfg') or {}
    if 'LayerDecay' not in str(optim.get('constructor')) or rate != 1.0 or 'checkpoint' not in init_cfg:
        return []
    return [
        f'The backbone starts from {init_cfg["checkpoint"]} with the full learning rate in every block '
        '(layer_decay_rate=1.0), as is right for random weights: set `checkpoint` in the template, or '
        '`--cfg-options optim_wrapper.paramwise_cfg.layer_decay_rate=0.8`.'
    ]


def check_batch(cfg: Config) -> None:
    """A mixing model takes batches of whole groups, in groups as the sampler forms them."""
    model, loader = cfg.get('model') or {}, cfg.get('train_dataloader')
    if not loader or str(model.get('type')) not in ('mixedae.MixedAE', 'MixedAE'):
        return
    group_size = round(1 / model.get('mixing_ratio', 0.25))
    batch_size = loader.get('batch_size', 1)
    if batch_size % group_size:
        low = batch_size // group_size * group_size
        choice = f'{low} or {low + group_size}' if low else f'{group_size}'
        raise ValueError(
            f'train_dataloader.batch_size is {batch_size}, which is not a multiple of the group size {group_size} '
            f'(mixing_ratio {model.get("mixing_ratio", 0.25)}): make it {choice}.'
        )
    sampler = loader.get('sampler') or {}
    if 'GroupSampler' in str(sampler.get('type')) and sampler.get('group_size', 4) != group_size:
        raise ValueError(
            f'train_dataloader.sampler.group_size is {sampler.get("group_size", 4)}, but the model mixes groups of '
            f'{group_size} (mixing_ratio {model.get("mixing_ratio", 0.25)}): make them the same.'
        )


def check_dataset(dataset: dict, cfg: Config, scope: str, phase: str) -> list[str]:
    """One dataset: asked itself if it has ``preflight()``, else checked by its kind (COCO file, image folders).

    Returns:
        Warnings.
    """
    with MMENGINE_DATASETS.switch_scope_and_registry(scope) as registry:
        cls = registry.get(dataset['type']) if isinstance(dataset['type'], str) else dataset['type']
        if cls is None:
            raise ValueError(f"There is no dataset '{dataset['type']}': is its package in custom_imports?")
    if hasattr(cls, 'preflight'):
        built = cls(**{key: value for key, value in dataset.items() if key != 'type'})
        built.preflight(**_progress(cls.preflight))
        check_sampler(built, cfg[f'{phase}_dataloader'])
        return []
    root = dataset.get('data_root') or ''
    prefix = dataset.get('data_prefix') or {}
    if '://' in root or dataset.get('backend_args'):
        return []  # not on a local disk: MMEngine's file backends find out
    kinds = {base.__name__ for base in cls.__mro__}
    classes = (dataset.get('metainfo') or {}).get('classes') or getattr(cls, 'METAINFO', {}).get('classes')
    warnings = []
    if 'CocoDataset' in kinds and not any('LVIS' in kind for kind in kinds):  # LVIS names its images in another way
        check_coco(
            _join(root, dataset.get('ann_file', '')),
            _join(root, prefix.get('img', '')),
            classes,
            need_annotations=phase == 'train',
            loads_masks=loads_masks(dataset),
            compares_masks=compares_masks(cfg.get(f'{phase}_evaluator')),
        )
    elif 'BaseSegDataset' in kinds and not dataset.get('ann_file'):
        if classes is None:
            raise ValueError(
                f'{dataset["type"]} does not know its classes: set metainfo=dict(classes=(...)) of train, val and test '
                'dataset to the names of the labels, in order.'
            )
        defaults = _defaults(cls)
        renamed = list(classes) != list(getattr(cls, 'METAINFO', {}).get('classes') or classes)
        warnings = check_segmentation(
            _join(root, prefix.get('img_path', '')),
            _join(root, prefix['seg_map_path']) if prefix.get('seg_map_path') else None,
            None if renamed else len(classes),  # a subset of built-in classes: labels are mapped by name
            image_suffix=dataset.get('img_suffix', defaults.get('img_suffix', '.jpg')),
            label_suffix=dataset.get('seg_map_suffix', defaults.get('seg_map_suffix', '.png')),
            reduce_zero_label=dataset.get('reduce_zero_label', defaults.get('reduce_zero_label', False)),
            ignore_index=dataset.get('ignore_index', defaults.get('ignore_index', 255)),
            classes=classes,
            need_labels=phase == 'train',
        )
    else:
        return []
    if classes is not None:
        check_num_classes(cfg.get('model') or {}, len(classes))
    return warnings


def loads_masks(dataset: dict) -> bool:
    """Whether the pipeline of a COCO dataset loads masks."""
    return any('LoadAnnotations' in str(step.get('type')) and step.get('with_mask') for step in walk(dataset))


def compares_masks(evaluator: Any) -> bool:
    """Whether an evaluator of validation or testing compares masks."""
    return any('segm' in (entry.get('metric') or ()) for entry in walk(evaluator))


def check_sampler(dataset: Any, loader: dict) -> None:
    """Our group sampler says at once if the data cannot be grouped, or if a batch would cut a group."""
    sampler = dict(loader.get('sampler') or {})
    if 'GroupSampler' in str(sampler.pop('type', '')):
        from object_aware import GroupSampler

        GroupSampler(dataset, **sampler, rank=0, world_size=1).check_batch_size(loader.get('batch_size', 1))


def check_num_classes(model: dict, num_classes: int) -> None:
    """Every head that classifies has as many classes as the data."""
    for path, head in _named_heads(model, 'model'):
        if 'num_classes' in head and head['num_classes'] != num_classes:
            raise ValueError(
                f'{path}.num_classes is {head["num_classes"]}, but the dataset has {num_classes} classes '
                f'(metainfo.classes): make them the same.'
            )


def check_one_class(model: dict) -> None:
    """A softmax over one class is 1 and its loss 0, whatever the weights are."""
    for path, head in _named_heads(model, 'model'):
        name = 'out_channels' if head.get('out_channels') else 'num_classes'
        if not path.rpartition('.')[2].startswith(('decode_head', 'auxiliary_head')) or head.get(name) != 1:
            continue
        losses = head.get('loss_decode', {} if 'loss_cls' in head else dict(type='CrossEntropyLoss'))
        losses = losses if isinstance(losses, (list, tuple)) else [losses]
        if all('CrossEntropy' in str(loss.get('type')) and not loss.get('use_sigmoid') for loss in losses):
            raise ValueError(
                f'{path}.{name} is 1, and the loss of a softmax over one class is 0 whatever the weights are: '
                "one class needs a background class, e.g. metainfo=dict(classes=('background', 'crack')), "
                'num_classes=2 and label maps of 0 and 1 with reduce_zero_label=False.'
            )


def leaf_datasets(dataset: Any) -> Iterator[dict]:
    """Datasets inside wrappers (``RepeatDataset``, ``ConcatDataset``, ...)."""
    if isinstance(dataset, list):
        for entry in dataset:
            yield from leaf_datasets(entry)
    elif isinstance(dataset, dict):
        inner = dataset.get('dataset') or dataset.get('datasets')
        if inner:
            yield from leaf_datasets(inner)
        else:
            yield dataset


def _named_heads(node: Any, path: str) -> Iterator[tuple[str, dict]]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key in HEADS:
                many = isinstance(value, (list, tuple))
                for i, head in enumerate(value if many else [value]):
                    if isinstance(head, dict):
                        yield f'{path}.{key}[{i}]' if many else f'{path}.{key}', head
            else:
                yield from _named_heads(value, f'{path}.{key}')


def _defaults(cls: type) -> dict[str, Any]:
    """Default arguments of a class along its bases; the most derived one counts."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if '__init__' in vars(base) and base is not object:
            parameters = inspect.signature(base.__init__).parameters.values()
            found.update({p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty})
    return found


def _join(root: str, path: str) -> str:
    return path if os.path.isabs(path) or not root else os.path.join(root, path)


def _progress(method: Any) -> dict[str, Any]:
    """A progress line for datasets that report one, where a person is looking."""
    if 'progress' not in inspect.signature(method).parameters or not sys.stderr.isatty():
        return {}
    from object_aware.progress import Progress

    return {'progress': Progress('image headers')}
