"""The page of a run, from what read_run found; nothing on it is from anywhere else."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from mixedae.visualization import Page, curves, encode_image, to_svg
from mixedae.visualization.curves import Curve
from tools.report_parts.health import data_share, summary, verdicts
from tools.report_parts.judging import OURS, accuracy_layers, group_size_of, main_metrics, num_patches
from tools.report_parts.pretraining import lower_bound
from tools.report_parts.run import STAMP, Run, Start

SHOWN_SHEETS = 3  # of each kind of picture: first, middle, last
SHOWN_WARNINGS = 30


def build_page(run: Run, out: Path) -> Path:
    """Writes the page."""
    page = Page(f'Run {run.folder.resolve().name}', subtitle(run))
    found = verdicts(run)
    page.section('health', 'Health', summary(found))
    page.verdicts(found)
    if run.is_pretraining:
        page.text(f'"Our runs": {OURS}. "Theory": what follows from the definition.', 'lead')
    page.style('.verdicts + .lead { margin-top: 18px; }')
    _curves(page, run)
    _pictures(page, run)
    _incidents(page, run)
    _record(page, run)
    return page.write(out)


def subtitle(run: Run) -> str:
    """What runs, how far it is, and when it last said something."""
    model = str(run.model.get('type', 'a run without a config')).rpartition('.')[2]
    last = run.last
    if run.finished:
        state = f'finished after {run.total:,} iterations'
    else:
        of = f' of {run.total:,}' if run.total else ''
        state = f'at iteration {run.done:,}{of}, last line of the log {last.last_line:%Y-%m-%d %H:%M:%S}'
        state += f', then {last.time_left} left' if last.time_left else ''
    restarts = len([start for start in run.starts if start.steps])
    times = f', {restarts} starts' if restarts > 1 else ''
    return f'{model}, {state}{times}. Page written {datetime.datetime.now():%Y-%m-%d %H:%M:%S}.'


def _curves(page: Page, run: Run) -> None:
    page.section('curves', 'Curves')
    figures: list[tuple[str, str]] = []

    def add(names: dict[str, str], title: str, caption: str, **options: object) -> None:
        series = {label: finite(run.scalars[name]) for name, label in names.items() if name in run.scalars}
        series = {label: curve for label, curve in series.items() if len(curve[0])}
        if series:
            points = max(len(curve[0]) for curve in series.values())
            window = options.pop('smooth_window', max(1, points // 40))
            svg = to_svg(curves(series, smooth_window=window, **options), title)
            figures.append((svg, f'{caption} {_ends(series)}'))

    if run.is_pretraining:
        add({'loss_recon': 'loss'}, 'reconstruction loss', 'Reconstruction loss.')
        floor = lower_bound(run)
        reference = None if floor is None else (floor, 'floor')
        told = 'Homologous contrastive loss before its weight.'
        add({'contrastive': 'loss'}, 'contrastive loss', told, reference=reference)
        layers = accuracy_layers(run)
        if layers and run.is_mixing:
            shown = [layers[round(i * (len(layers) - 1) / 3)] for i in range(4)] if len(layers) > 4 else layers
            names = {name: f'layer {int(name[-2:]) + 1}' for name in dict.fromkeys(shown)}
            chance = (1 / group_size_of(run), 'chance')
            add(
                names, 'TopK accuracy', 'TopK accuracy: share of the kept keys of a patch that are of its own image.',
                percent=True, reference=chance, smooth_window=1,
            )  # fmt: skip
            figures.append(_by_layer(run, layers, chance[0]))
        probes = {'probe/knn': 'kNN', 'probe/linear': 'linear probe'}
        chance = (1 / run.probed[1], 'chance') if run.probed else None
        add(probes, 'probes', 'Accuracy on frozen features.', percent=True, reference=chance, smooth_window=1)
        add({'probe/rankme': 'RankMe'}, 'RankMe', 'RankMe: effective rank of the features.', smooth_window=1)
    else:
        add({'loss': 'loss'}, 'loss', 'Training loss, the sum.')
        parts = [name for name in run.scalars if 'loss' in name and name != 'loss' and not name.startswith('val')]
        add({name: name for name in parts[:6]}, 'loss parts', 'Its parts.')
        for name in main_metrics(run):
            by_epoch = bool(((run.config or {}).get('train_cfg') or {}).get('max_epochs'))
            add(
                {name: name},
                name,
                f'{name} of the validation.',
                smooth_window=1,
                xlabel='epoch' if by_epoch else 'iteration',
            )
    add({'lr': 'rate'}, 'learning rate', 'Learning rate.', smooth_window=1)
    add({'grad_norm': 'norm'}, 'gradient norm', 'Norm of the gradients before clipping.')
    if 'images_per_s' in run.scalars:
        add({'images_per_s': 'images/s'}, 'throughput', 'Images per second, of all processes.')
    else:
        add({'time': 'a step', 'data_time': 'of it waiting'}, 'time', 'Seconds for a step, and waiting for data.')
    page.figures(figures)


def finite(curve: Curve) -> Curve:
    """The points that can be drawn."""
    steps, values = curve
    good = np.isfinite(values)
    return steps[good], values[good]


def _ends(series: dict[str, Curve]) -> str:
    """First and last value of each line, in words, for those who do not see the chart."""
    if len(series) > 2:
        return ''
    told = [f'{name} {values[0]:.4g} to {values[-1]:.4g}' for name, (_, values) in series.items()]
    return f'First to last: {", ".join(told)}.'


def _by_layer(run: Run, layers: Sequence[str], chance: float) -> tuple[str, str]:
    values = np.stack([run.values(name) for name in layers], axis=1)  # (measurements, depth)
    steps = run.scalars[layers[0]][0]
    numbers = np.arange(1, len(layers) + 1)
    picks = dict.fromkeys((0, len(steps) // 2, len(steps) - 1))
    lines = {f'iteration {int(steps[i]):,}': (numbers, values[i]) for i in picks}
    figure = curves(lines, xlabel='layer', percent=True, reference=(chance, ''))
    return to_svg(figure, 'TopK accuracy by layer'), 'TopK accuracy by layer, at the start, halfway and now.'


def _pictures(page: Page, run: Run) -> None:
    if not run.pictures:
        return
    page.section('pictures', 'Pictures', 'The same images each time, from the local visualisation backend.')
    for name, files in sorted(run.pictures.items())[:12]:
        chosen = dict.fromkeys((len(files) - 1, len(files) // 2, 0))  # the newest first
        for i in list(chosen)[:SHOWN_SHEETS]:
            step, file = files[i]
            image = np.asarray(Image.open(file).convert('RGB'))
            caption = escape(f'{name}, iteration {step:,}')
            page.raw(
                f'<figure class="sheet"><div class="scroll"><img src="{encode_image(image)}" alt="{caption}: '
                f'{_alt(run, name)}" width="{image.shape[1]}" height="{image.shape[0]}" loading="lazy"></div>'
                f'<figcaption>{caption}</figcaption></figure>'
            )
    page.style(
        '.sheet { max-width: none; margin: 14px 0; } .sheet img { width: auto; max-width: none; height: auto; } '
        '@media print { .sheet img { max-width: 100%; } }'
    )


def _alt(run: Run, name: str) -> str:
    if name != 'pretraining':
        return 'drawn during the run'
    if run.is_mixing:
        return (
            'one row for each image: source, mixing mask, mix, its part of the mix, reconstruction, attention of [CLS] '
            'and of one patch'
        )
    return 'one row for each image: source, visible part, reconstruction, attention of [CLS] and of one patch'


def _incidents(page: Page, run: Run) -> None:
    warnings = [(start.name, line) for start in run.starts for line in start.warnings]
    if not (warnings or run.quarantined or run.captures):
        return
    page.section('incidents', 'Warnings and incidents')
    if warnings:
        lines = [f'{name}  {line}' for name, line in warnings[-SHOWN_WARNINGS:]]
        more = len(warnings) - len(lines)
        page.code('\n'.join(lines), f'{len(warnings)} warnings of the log{f", the last {len(lines)}" if more else ""}')
    if run.quarantined:
        page.code('\n'.join(run.quarantined[:200]), f'quarantine.jsonl, {len(run.quarantined)} bad image files')
    if run.captures:
        page.code('\n'.join(run.captures), f'captures/, {len(run.captures)} steps that were left out')


def _record(page: Page, run: Run) -> None:
    page.section('record', 'What was run')
    page.facts(_facts(run))
    page.table(
        ['start', 'iterations', 'last line', 'host', 'from'],
        [_start_row(start) for start in run.starts],
    )
    if run.checkpoints:
        rows = [[name, f'{size / 2**20:,.1f} MiB', f'{time:%Y-%m-%d %H:%M:%S}'] for name, size, time in run.checkpoints]
        page.table(['checkpoint', 'size', 'written'], rows)
    environment = run.environment
    if environment:
        text = json.dumps(environment, indent=2, ensure_ascii=False)
        page.code(text, 'Environment of the last start that wrote one (environment.json)')
    else:
        page.text('The run left no environment.json: only mixedae.SafeRunner writes one.')
    if run.config is not None:
        page.code(run.config.pretty_text, 'The whole config')


def _facts(run: Run) -> dict[str, object]:
    facts: dict[str, object] = {'folder': run.folder}
    if run.config is not None:
        model, loader = run.model, run.config.get('train_dataloader') or {}
        encoder = model.get('encoder') or model.get('backbone') or {}
        facts['model'] = ', '.join(
            str(part)
            for part in (
                str(model.get('type')).rpartition('.')[2],
                encoder.get('arch'),
                _pixels(encoder.get('img_size')),
            )
            if part
        )
        if run.is_mixing:
            facts['mixing'] = (
                f'{model.get("mode", "compose")}, g = {group_size_of(run)}, L = {num_patches(run)}, TopK ratio '
                f'{model.get("topk_ratio", 0.25)}, contrastive weight {model.get("contrastive_weight", 0.1)}, segment '
                f'embedding {"on" if model.get("segment_embed", True) else "off"}'
            )
        dataset = loader.get('dataset') or {}
        source = next((dataset[key] for key in ('index_file', 'root', 'ann_file', 'data_root') if dataset.get(key)), '')
        facts['data'] = f'{dataset.get("type", "")} {source}'.strip()
        facts['batch'] = loader.get('batch_size', '')
        optimizer = (run.config.get('optim_wrapper') or {}).get('optimizer') or {}
        facts['optimiser'] = ', '.join(f'{key} {value}' for key, value in optimizer.items())
    times = run.values('time')
    if len(times):
        facts['time of a step'] = f'{np.median(times):.3f} s (median of the logged means)'
    share = data_share(run)
    if share is not None:
        facts['waiting for data'] = f'{share:.1%}'
    facts['time'] = str(datetime.timedelta(seconds=round(sum(_lasted(start) for start in run.starts))))
    environment = run.environment
    for key, name in (('devices', 'devices'), ('world_size', 'processes'), ('seed', 'seed')):
        if environment.get(key) is not None:
            value = environment[key]
            facts[name] = ', '.join(value) if isinstance(value, list) else value
    git = environment.get('git') or {}
    if git.get('commit'):
        facts['code'] = git['commit'][:12] + (
            f' with {len(git["changed"])} changed files' if git.get('changed') else ''
        )
    return facts


def _lasted(start: Start) -> float:
    """Seconds from a start to the last line of its log."""
    try:
        began = datetime.datetime.strptime(start.name, STAMP)
    except ValueError:
        return 0.0
    return max(0.0, (start.last_line - began).total_seconds())


def _start_row(start: Start) -> list[object]:
    steps = f'{start.steps[0]:,} to {start.steps[1]:,}' if start.steps else 'none logged'
    resumed = start.environment.get('resumed_from')
    return [
        start.name,
        steps,
        f'{start.last_line:%Y-%m-%d %H:%M:%S}',
        start.environment.get('host', ''),
        Path(resumed).name if resumed else 'the beginning' if start.environment else '',
    ]


def _pixels(size: object) -> str:
    if isinstance(size, int):
        return f'{size} px'
    return ' x '.join(map(str, size)) + ' px' if size else ''
