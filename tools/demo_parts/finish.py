"""The last stage: collect the figures, draw the pictures, write metrics.json and report.html."""

from __future__ import annotations

import json
from pathlib import Path

from mixedae.visualization import read_scalars
from tools.demo_parts import pictures
from tools.demo_parts.facts import pretrain_figures
from tools.demo_parts.plan import STARTS, Plan
from tools.demo_parts.report import build_report
from tools.stage_parts import facts


def finish(plan: Plan, records: dict[str, dict], commands: list[str]) -> Path:
    """Write both files from what the stages left; returns the path of the report.

    Args:
        records: stage name -> {seconds, iterations}.
        commands: all command lines, for the page.
    """
    runs = ['pretrain', *[f'{task}_{start}' for task in plan.tasks() for start in STARTS]]
    scalars = {run: read_scalars(plan.work_dir / run) for run in runs}
    metrics = collect(plan, records, scalars)
    (plan.work_dir / 'metrics.json').write_text(json.dumps(metrics, indent=2) + '\n', encoding='utf-8')

    budget, configs = plan.budget, plan.work_dir / 'configs'
    seen: dict[str, list[int]] = {}
    drawn = {
        'windows': pictures.window_rows(plan.index_file, budget.crop, plan.seed, budget.pictures),
        'mixes': pictures.mix_rows(configs / 'pretrain.py', plan.pretrain_checkpoint),
    }
    for task in plan.tasks():
        iterations = getattr(budget, task).iterations
        trained = {
            start: (configs / f'{task}_{start}.py', plan.work_dir / f'{task}_{start}' / f'iter_{iterations}.pth')
            for start in STARTS
        }
        drawn[task], seen[task] = pictures.transfer_rows(task, trained, budget.pictures)
    return build_report(metrics, scalars, drawn, seen, commands, plan.work_dir / 'report.html')


def collect(plan: Plan, records: dict[str, dict], scalars: dict) -> dict:
    """The content of metrics.json. AP is 0..1 as COCO's tools give it; mIoU, mAcc and aAcc are per cent as mmseg's."""
    budget = plan.budget
    metrics = {
        'config': {
            'budget': plan.budget_name,
            'model': f'MixedAE, {model_name(budget)}/16 on {budget.crop} px crops, compose mode, groups of 4',
            'pretrain_batch': budget.pretrain_batch,
            'detection_batch': budget.detection.batch,
            'segmentation_batch': budget.segmentation.batch,
            'score_threshold': pictures.SCORE,
        },
        'data': data_figures(plan),
        'seed': plan.seed,
        'finished': facts.now(),
        'hardware': facts.hardware(plan.amp),
        'versions': facts.versions(),
        'stages': records,
        'pretrain': pretrain_figures(scalars['pretrain']),
    }
    for task in plan.tasks():
        metrics[task] = {
            start: facts.test_figures(plan.work_dir / f'{task}_{start}' / 'metrics.json') for start in STARTS
        }
    return metrics


def model_name(budget) -> str:
    """ViT-Ti, or the sizes of a ViT without a name."""
    if budget.arch == 'tiny':
        return 'ViT-Ti'
    return 'ViT ({embed_dim} wide, {depth} deep, {num_heads} heads)'.format(**budget.arch)


def data_figures(plan: Plan) -> dict:
    """Names and counts of what was used."""
    from object_aware.index import CropIndex

    index = CropIndex.load(plan.index_file)
    layout = plan.layout
    figures: dict = {
        'name': plan.data_name,
        'pretrain': {'scenes': len(set(index.target_scenes.tolist())), 'crops': len(index)},
    }
    if layout.detection:
        train, val = layout.detection.train.annotations, plan.detection_val().annotations
        figures['detection'] = {
            'train_images': len(json.loads(train.read_text(encoding='utf-8'))['images']),
            'val_images': len(json.loads(val.read_text(encoding='utf-8'))['images']),
            'classes': list(layout.detection.classes),
        }
    if layout.segmentation:
        part = layout.segmentation
        train_count, val_count = (
            len(list(f.rglob(f'*{part.image_suffix}'))) for f in (part.train_images, part.val_images)
        )
        figures['segmentation'] = {
            'train_images': train_count,
            'val_images': min(val_count, plan.budget.segmentation.val_images),
            'classes': list(part.classes),
        }
    return figures
