#!/usr/bin/env python
"""Write the list of configs: model-index.yml and mmcfg/*/metafile.yml for OpenMIM and Papers with Code, docs/models.md.

    python tools/model_index.py

Everything in them is read from the configs but the paper's numbers and ours, which stand below. Run it again when a
config is added or changed; a test says so.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # so that a checkout works without being installed
    sys.path.insert(0, str(ROOT))

FOLDERS = ('pretrain', 'coco', 'ade20k', 'imagenet', 'photographs', 'demo', 'templates')
DATA = {'coco': 'COCO 2017', 'ade20k': 'ADE20K', 'imagenet': 'ImageNet-1k', 'in1k': 'ImageNet-1k'}
TASKS = {'coco': 'Object Detection, Instance Segmentation', 'ade20k': 'Semantic Segmentation'}
TASKS |= {'imagenet': 'Image Classification', 'pretrain': 'Self-Supervised Learning'}
TRAINED = 'by `make demo`, at the size of a demo: see README.md'
TRAINED_ONCE = 'by us, once, ViT-Ti/16 on small photographs with a CPU: see docs/transfer.md'
NOT_TRAINED = 'not by us: no results and no weights of ours'

PAPER = {'Title': 'Mixed Autoencoder for Self-supervised Visual Representation Learning'}
PAPER |= {'URL': 'https://arxiv.org/abs/2303.17152'}
BASE = 'mixedae_vit-base-p16_{}_8xb{}'
CLASSIFY = ('Image Classification', 'ImageNet-1k', 'fine-tuned for 100 epochs', 'Top 1 Accuracy')
SEGMENT = ('Semantic Segmentation', 'ADE20K', 'UPerNet, 160k iterations', 'mIoU')
GAINS = ('Object Detection', 'COCO 2017', 'Cascade Mask R-CNN 1x')
FULL_MODE = 'mixedae_vit-base-p16_full-dec2x256_8xb128-amp-coslr-300e_in1k'
# The paper's own numbers (ViT-B) by the pre-training they belong to: protocol, value, MAE's value where it gives one.
PAPER_RESULTS: dict[str, list[dict[str, Any]]] = {
    'mixedae_vit-base-p16_8xb512-amp-coslr-1600e_in1k': [
        dict(on=CLASSIFY, value=83.9, mae=83.6),
        dict(on=SEGMENT, value=49.8, mae=48.1),
        dict(on=(*GAINS, 'box AP over MAE'), value=0.9),
        dict(on=(*GAINS, 'mask AP over MAE'), value=0.7),
    ],
    'mixedae_vit-base-p16_8xb512-amp-coslr-800e_in1k': [
        dict(on=SEGMENT, value=48.7),
        dict(on=(*GAINS, 'box AP over MAE'), value=0.9),
        dict(on=(*GAINS, 'mask AP over MAE'), value=0.6),
    ],
    'mixedae_vit-base-p16_8xb512-amp-coslr-300e_in1k': [
        dict(on=(*GAINS, 'box AP over MAE'), value=0.6),
        dict(on=(*GAINS, 'mask AP over MAE'), value=0.5),
    ],
    FULL_MODE: [dict(on=CLASSIFY, value=83.7)],
}
SMALL = 'mixedae_vit-tiny-p16_{}'
BOXES, MASKS = 'Object Detection', 'Instance Segmentation'
# Ours, of mmcfg/photographs/, in per cent: seed, hardware and time are in the docstring of each config.
OUR_RESULTS: dict[str, list[tuple[str, str, dict[str, float]]]] = {
    SMALL.format('upernet_1xb8-800i_camvid-192x192'): [
        ('Semantic Segmentation', 'CamVid', {'mIoU': 32.6, 'mAcc': 43.4, 'aAcc': 75.5})
    ],
    SMALL.format('upernet_1xb8-1200i_ade20k-192x192'): [
        ('Semantic Segmentation', 'ADE20K validation set, 1600 + 400', {'mIoU': 2.2, 'mAcc': 3.8, 'aAcc': 44.9})
    ],
    SMALL.format('faster-rcnn_1xb8-800i_coco-person-224'): [
        (BOXES, 'COCO, persons, 2023 + 500', {'box AP': 1.5, 'box AP50': 6.1})
    ],
    SMALL.format('mask-rcnn_1xb4-1600i_coco-super12-320'): [
        (BOXES, 'COCO, 12 supercategories, 439 + 218', {'box AP': 0.3, 'box AP50': 1.1}),
        (MASKS, 'COCO, 12 supercategories, 439 + 218', {'mask AP': 0.2, 'mask AP50': 0.9}),
    ],
}
DOWNSTREAM = (
    'mixedae_vit-base-p16_finetune_8xb128-amp-coslr-100e_in1k',
    'mixedae_vit-base-p16_upernet_8xb2-amp-160k_ade20k-512x512',
    'mixedae_vit-base-p16_cascade-mask-rcnn_8xb2-amp-1x_coco',
)
TITLES = {
    'pretrain': 'Pre-training',
    'coco': 'COCO detection',
    'ade20k': 'ADE20K segmentation',
    'imagenet': 'ImageNet classification',
    'photographs': 'Small runs on photographs',
    'demo': 'The demo',
    'templates': 'Templates for your own data',
}
PAGE_HEAD = (
    '# Models\n\n'
    'Every config, what it trains, and what came of it. *Our results* are in per cent and of single runs; seed, data, '
    'hardware and time of each are in the docstring of its config. *Not trained*: not by us, there are no results and '
    "no weights.\n*The paper's*: numbers that the paper (ViT-B, arXiv 2303.17152) gives for a pre-training of this "
    "length, with MAE's in brackets where it gives them; they are none of ours. There are no weights to download: "
    '[Results](results.md) says what has been trained here, and how to repeat it.\n\n'
    'Written by `tools/model_index.py` from the configs, as `model-index.yml` and the metafiles are.'
)


def configs(folder: str) -> list[Path]:
    """The configs of a folder of mmcfg/, ablations among them."""
    return sorted((ROOT / 'mmcfg' / folder).rglob('*.py'))


def entry(path: Path) -> dict[str, Any]:
    """One model of a metafile, from its config; without what has to be counted (:func:`sizes`)."""
    from mixedae.engine.configs import read_config

    cfg = read_config(str(path))
    folder = path.relative_to(ROOT / 'mmcfg').parts[0]
    gpus = re.search(r'_(\d+)xb\d', path.stem)
    steps = cfg.optim_wrapper.get('accumulative_counts', 1)
    length = {'Epochs': 'max_epochs', 'Iterations': 'max_iters'}
    metadata = {
        **{name: cfg.train_cfg[key] for name, key in length.items() if key in cfg.train_cfg},
        'Batch Size': cfg.train_dataloader.batch_size * int(gpus[1] if gpus else 1) * steps,
        'Training Data': training_data(path, folder),
        'Trained': {'demo': TRAINED, 'photographs': TRAINED_ONCE}.get(folder, NOT_TRAINED),
    }
    paper = [paper_result(result) for result in PAPER_RESULTS.get(path.stem, ())]
    if paper:
        metadata['Numbers of the Paper'] = paper
    ours = [
        {'Task': task, 'Dataset': dataset, 'Metrics': metrics}
        for task, dataset, metrics in OUR_RESULTS.get(path.stem, ())
    ]
    model = {
        'Name': path.stem,
        'In Collection': 'MAE' if path.stem.startswith('mae_') else 'MixedAE',
        'Config': path.relative_to(ROOT).as_posix(),
        'Metadata': metadata,
        'Results': ours or None,
        'Weights': None,
    }
    if path.stem in PAPER_RESULTS:
        model['Downstream'] = list(DOWNSTREAM)
    return model


def training_data(path: Path, folder: str) -> str:
    """What a config trains on, in the words of Papers with Code."""
    if path.stem.endswith('coco-objects'):
        return 'COCO 2017, crops of single objects'
    if folder in ('demo', 'templates'):
        return 'your own'
    if path.stem in OUR_RESULTS:
        return OUR_RESULTS[path.stem][0][1]
    return DATA['in1k' if folder == 'pretrain' else folder]


def paper_result(result: dict[str, Any]) -> dict[str, Any]:
    """One of the paper's numbers in the layout of a metafile's results."""
    task, dataset, protocol, metric = result['on']
    found = {'Task': task, 'Dataset': dataset, 'Protocol': protocol, 'Metrics': {metric: result['value']}}
    if 'mae' in result:
        found['Metrics of MAE'] = {metric: result['mae']}
    return found


def sizes(path: Path) -> dict[str, int]:
    """Parameters of a config's model; of pre-training also the multiply-adds that `tools/get_flops.py` counts."""
    import torch
    from mmengine.registry import init_default_scope

    from mixedae.analysis import count_operations
    from mixedae.engine.configs import read_config
    from mixedae.registry import MODELS

    cfg = read_config(str(path))
    scope = cfg.get('default_scope', 'mixedae')
    init_default_scope(scope)
    with torch.device('meta'):  # shapes alone: takes no memory and next to no time
        model = MODELS.build(cfg.model)
    if scope == 'mixedae' and hasattr(model, 'decoder'):
        counted = count_operations(model)
        return {'Parameters': counted.parameters, 'FLOPs': round(counted.total)}
    return {'Parameters': sum(p.numel() for p in model.parameters())}


def collections() -> list[dict[str, Any]]:
    """The two methods that the configs belong to."""
    techniques = ['AdamW', 'Cosine Annealing', 'Mixed Precision']
    architecture = {'Architecture': ['Vision Transformer'], 'Training Techniques': techniques}
    return [
        {'Name': 'MixedAE', 'Metadata': architecture, 'Paper': PAPER, 'README': 'docs/method.md'},
        {
            'Name': 'MAE',
            'Metadata': architecture,
            'Paper': {
                'Title': 'Masked Autoencoders Are Scalable Vision Learners',
                'URL': 'https://arxiv.org/abs/2111.06377',
            },
            'README': 'docs/method.md',
        },
    ]


class Dumper(yaml.SafeDumper):
    """Writes out equal parts each time, instead of a reference to the first."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def write(path: Path, content: dict[str, Any]) -> None:
    head = '# Written by tools/model_index.py.\n'
    text = yaml.dump(content, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)
    path.write_text(head + text, encoding='utf-8')
    print(f'wrote {path.relative_to(ROOT)}')


def page(models: dict[str, list[dict[str, Any]]]) -> str:
    """docs/models.md: each folder's models as a table, our results and the paper's in columns of their own."""
    parts = [PAGE_HEAD]
    for folder, rows in models.items():
        parts += [f'## {TITLES[folder]}', f'In `mmcfg/{folder}/`.']
        lines = [
            "| config | weights, millions | length | batch | our results | the paper's (MAE) |",
            '|---|---|---|---|---|---|',
        ]
        for model in rows:
            metadata = model['Metadata']
            length = next(f'{metadata[key]:,} {key.lower()}' for key in ('Epochs', 'Iterations') if key in metadata)
            ours = [metrics(result['Metrics']) for result in model['Results'] or ()]
            paper = [paper_cell(result) for result in metadata.get('Numbers of the Paper', ())]
            cells = (
                f'`{model["Name"]}`',
                f'{metadata["Parameters"] / 1e6:.1f}',
                length,
                str(metadata['Batch Size']),
                '; '.join(ours) or ('demo' if metadata['Trained'] == TRAINED else 'not trained'),
                '; '.join(paper),
            )
            lines.append('| ' + ' | '.join(cells) + ' |')
        parts.append('\n'.join(lines))
    return '\n\n'.join(parts) + '\n'


def metrics(found: dict[str, float]) -> str:
    """`mIoU 32.6, mAcc 43.4`"""
    return ', '.join(f'{name} {value:g}' for name, value in found.items())


def paper_cell(result: dict[str, Any]) -> str:
    """`ImageNet-1k, fine-tuned for 100 epochs: Top 1 Accuracy 83.9 (83.6)`"""
    (mae,) = result.get('Metrics of MAE', {'': None}).values()
    beside = '' if mae is None else f' ({mae:g})'
    return f'{result["Dataset"]}, {result["Protocol"]}: {metrics(result["Metrics"])}{beside}'


def main(arguments: Sequence[str] | None = None) -> int:
    listed = {}
    for folder in FOLDERS:
        models = []
        for path in configs(folder):
            model = entry(path)
            model['Metadata'] = {**sizes(path), **model['Metadata']}
            models.append(model)
        listed[folder] = models
        first = {'Collections': collections()} if folder == FOLDERS[0] else {}
        write(ROOT / 'mmcfg' / folder / 'metafile.yml', {**first, 'Models': models})
    write(ROOT / 'model-index.yml', {'Import': [f'mmcfg/{folder}/metafile.yml' for folder in FOLDERS]})
    (ROOT / 'docs' / 'models.md').write_text(page(listed), encoding='utf-8')
    print('wrote docs/models.md')
    return 0


if __name__ == '__main__':
    sys.exit(main())
