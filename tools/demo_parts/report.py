"""The page that a demo ends with: every figure on it comes from the content of metrics.json or from a run's scalars."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mixedae.visualization import Page, curves, encode_image, palette, to_svg
from mixedae.visualization.curves import Curve
from tools.demo_parts.verdicts import verdicts
from tools.stage_parts.commands import clock

Rows = Sequence[tuple[str, Sequence[np.ndarray | None]]]

DETECTION_COLUMNS = {'bbox_mAP': 'box AP', 'bbox_mAP_50': 'box AP50', 'segm_mAP': 'mask AP', 'segm_mAP_50': 'mask AP50'}
SEGMENTATION_COLUMNS = {'mIoU': 'mIoU', 'mAcc': 'mAcc', 'aAcc': 'pixel accuracy'}
STARTS = {'pretrained': 'pre-trained', 'scratch': 'from scratch'}


def build_report(
    metrics: dict,
    scalars: Mapping[str, Mapping[str, Curve]],
    pictures: Mapping[str, Rows],
    seen: Mapping[str, Sequence[int]],
    commands: Sequence[str],
    out: Path,
) -> Path:
    """Write the page.

    Args:
        metrics: the content of metrics.json.
        scalars: run name (pretrain, detection_pretrained, detection_scratch, ...) -> its scalars.
        pictures: `windows`, `mixes`, `detection`, `segmentation` -> rows of images.
        seen: `detection`, `segmentation` -> classes that their pictures show, for the legend.
        commands: the command lines of all stages.
    """
    page = Page('MixedAE demo', subtitle(metrics))
    page.section('result', 'Result')
    page.verdicts(verdicts(metrics))
    _transfer_tables(page, metrics)
    _pretraining(page, metrics, scalars['pretrain'], pictures)
    for task, lead in (
        ('detection', 'Mask R-CNN with a simple feature pyramid over the last block of the encoder.'),
        ('segmentation', 'UPerNet over four blocks of the encoder.'),
    ):
        if metrics.get(task):
            _transfer(page, task, lead, scalars, pictures.get(task, ()), seen.get(task, ()), metrics)
    _record(page, metrics, commands)
    return page.write(out)


def subtitle(metrics: dict) -> str:
    total = sum(stage['seconds'] for stage in metrics['stages'].values())
    return (
        f'Object-aware pre-training and its transfer, budget "{metrics["config"]["budget"]}", seed {metrics["seed"]}, '
        f'{clock(total)} on {metrics["hardware"]["device"]}.'
    )


def detection_rows(results: dict) -> list[list[str]]:
    """Rows of the AP table: values of metrics.json times 100, one decimal."""
    return [
        [STARTS[start], *(f'{100 * values[key]:.1f}' for key in DETECTION_COLUMNS if key in values)]
        for start, values in results.items()
    ]


def segmentation_rows(results: dict) -> list[list[str]]:
    """Rows of the mIoU table: values of metrics.json as they are (they are per cent), one decimal."""
    return [
        [STARTS[start], *(f'{values[key]:.1f}' for key in SEGMENTATION_COLUMNS if key in values)]
        for start, values in results.items()
    ]


def _transfer_tables(page: Page, metrics: dict) -> None:
    for task, columns, rows in (
        ('detection', DETECTION_COLUMNS, detection_rows),
        ('segmentation', SEGMENTATION_COLUMNS, segmentation_rows),
    ):
        results = metrics.get(task)
        if not results:
            continue
        names = [name for key, name in columns.items() if key in results['pretrained']]
        counts = metrics['data'][task]
        header = f'{task.capitalize()}, {counts["val_images"]} val images'
        page.table([header, *names], rows(results), mark_best=True)
    page.text(
        'All values in per cent. Both starts have the same configuration, iterations, data order and seed; one run '
        'each, so small gaps mean nothing.',
        'lead',
    )


def _pretraining(page: Page, metrics: dict, scalars: Mapping[str, Curve], pictures: Mapping[str, Rows]) -> None:
    data = metrics['data']['pretrain']
    lead = (
        f'{data["crops"]} single-centric-object crops of {data["scenes"]} scenes. Four crops of four scenes are mixed '
        'into one sequence; each patch has to find the patches of its own image, and all four images are reconstructed.'
    )
    page.section('pretraining', 'Pre-training', lead)
    window = max(1, len(scalars['loss'][0]) // 40)
    loss = {'reconstruction': scalars['loss_recon'], 'contrastive': scalars['contrastive']}
    page.figures([
        (to_svg(curves({'loss': loss['reconstruction']}, smooth_window=window), 'reconstruction loss'),
         'Reconstruction loss: squared error on the patches that are not in the mix, targets normalised per patch.'),
        (to_svg(curves({'loss': loss['contrastive']}, smooth_window=window), 'contrastive loss'),
         'Homologous contrastive loss, before its weight of 0.1. It cannot fall to zero: TopK accuracy says more.'),
        (to_svg(_accuracy_curve(scalars, metrics), 'TopK accuracy over time'),
         'TopK accuracy: share of the kept keys of a patch that come from its own image.'),
        (to_svg(_layer_curves(scalars, metrics), 'TopK accuracy by layer'),
         'TopK accuracy by layer, at the start, halfway and at the end. The first layer is global: it keeps every '
         'key, and its accuracy is that of the keys which it would keep.'),
    ])  # fmt: skip
    if pictures.get('windows'):
        page.text('Scenes, a window around one object each, and the crops of those windows:')
        rows = pictures['windows']
        page.pictures(['scene and windows', *[f'crop {i}' for i in range(1, len(rows[0][1]))]], _encode(rows))
    if pictures.get('mixes'):
        page.text('A group: its four crops, what of each is in the mix, and what the decoder makes of it. On the right '
                  'whose patch stands where, and the mix that the encoder sees.')  # fmt: skip
        rows = pictures['mixes']
        page.pictures([*[f'image {i}' for i in range(1, len(rows[0][1]))], 'all together'], _encode(rows), cell=110)


def _accuracy_curve(scalars: Mapping[str, Curve], metrics: dict):
    layers = _layers(scalars)
    steps, last = scalars[layers[-1]]
    mean = np.mean([scalars[name][1] for name in layers], axis=0)
    top = min(1.0, max(0.5, 1.1 * float(max(last.max(), mean.max()))))
    lines = {'last layer': (steps, last), 'mean of all': (steps, mean)}
    return curves(lines, percent=True, reference=(metrics['pretrain']['chance'], 'chance'), ylim=(0, top))


def _layer_curves(scalars: Mapping[str, Curve], metrics: dict):
    layers = _layers(scalars)
    values = np.stack([scalars[name][1] for name in layers], axis=1)  # (measurements, depth)
    steps = scalars[layers[0]][0]
    numbers = np.arange(1, len(layers) + 1)
    picks = {f'iteration {int(steps[i])}': values[i] for i in dict.fromkeys((0, len(steps) // 2, len(steps) - 1))}
    return curves(
        {name: (numbers, row) for name, row in picks.items()}, xlabel='layer', percent=True,
        reference=(metrics['pretrain']['chance'], ''), ylim=(0, min(1.0, max(0.5, 1.1 * float(values.max())))),
    )  # fmt: skip


def _layers(scalars: Mapping[str, Curve]) -> list[str]:
    return sorted(name for name in scalars if name.startswith('topk_acc/layer_'))


def _transfer(
    page: Page,
    task: str,
    lead: str,
    scalars: Mapping[str, Mapping[str, Curve]],
    rows: Rows,
    seen: Sequence[int],
    metrics: dict,
) -> None:
    counts = metrics['data'][task]
    page.section(
        task, task.capitalize(), f'{lead} {counts["train_images"]} training images, {len(counts["classes"])} classes.'
    )
    runs = {label: scalars[f'{task}_{start}']['loss'] for start, label in STARTS.items()}
    window = max(1, len(next(iter(runs.values()))[0]) // 20)
    page.figures([(to_svg(curves(runs, smooth_window=window), f'{task} loss'), 'Training loss of the two starts.')])
    if rows:
        page.text(
            f'Images of the val split, evenly spaced in the order of the file, not chosen.{_score_note(task, metrics)}'
        )
        page.pictures(['image', 'truth', 'pre-trained', 'from scratch'], _encode(rows), cell=170)
        names, colours = counts['classes'], palette(len(counts['classes']))
        page.legend([(names[i], colours[i]) for i in seen])


def _score_note(task: str, metrics: dict) -> str:
    if task != 'detection':
        return ''
    return (
        f' Detections with a score of {metrics["config"]["score_threshold"]} or more, and the three surest of an image '
        'where fewer reach it.'
    )


def _record(page: Page, metrics: dict, commands: Sequence[str]) -> None:
    page.section('record', 'What was run')
    data = metrics['data']
    facts: dict[str, object] = {
        'data': data['name'],
        'model': metrics['config']['model'],
        'budget': metrics['config']['budget'],
        'seed': metrics['seed'],
        'device': metrics['hardware']['device'],
        'CPU cores used': metrics['hardware']['cpu_cores'],
        'precision': metrics['hardware']['precision'],
        'finished': metrics['finished'],
        'versions': ', '.join(f'{name} {version}' for name, version in metrics['versions'].items()),
    }
    page.facts(facts)
    rows = [[name, stage['iterations'] or '', clock(stage['seconds'])] for name, stage in metrics['stages'].items()]
    page.table(['stage', 'iterations', 'time'], rows)
    page.code('\n'.join(commands), 'The commands, to run again by hand')
    page.code(json.dumps(metrics, indent=2), 'metrics.json')


def _encode(rows: Rows) -> list[tuple[str, list[str | None]]]:
    return [
        (title, [None if image is None else encode_image(image, photo=not _is_flat(image)) for image in images])
        for title, images in rows
    ]


def _is_flat(image: np.ndarray) -> bool:
    """Few colours: a mask or a label map, which PNG holds better."""
    return len(np.unique(image.reshape(-1, 3)[::7], axis=0)) <= 64
