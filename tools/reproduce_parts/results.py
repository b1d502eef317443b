"""What the finished stages found, one row for each variant and seed: the content of results.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.reproduce_parts.budgets import TASKS
from tools.reproduce_parts.running import Journey, read_json, write_json
from tools.reproduce_parts.variants import VARIANTS
from tools.stage_parts.facts import test_figures

BEGIN, END = '<!-- results: written by tools/reproduce.py -->', '<!-- end of the results -->'
_JOIN = ' and '  # between two versions that stages were made with

if TYPE_CHECKING:
    from tools.reproduce_parts.plan import Plan


def summarise(plan: Plan, journey: Journey, budget: str) -> Path:
    """Write results.json and results.md; returns the path of the second."""
    from tools.reproduce_parts.tables import page

    results = collect(plan, journey, budget)
    write_json(plan.work_dir / 'results.json', results)
    path = plan.work_dir / 'results.md'
    path.write_text(page(results), encoding='utf-8')
    return path


def publish(results: dict[str, Any], docs: Path) -> Path:
    """Put the results into docs/results.md (between its two markers), its figure and raw figures beside it.

    What the page has from other work folders stays (:func:`merge`).

    Raises:
        ValueError: the page has no markers, or holds results of other settings.
    """
    from mixedae.analysis.figures import save_figure
    from tools.reproduce_parts.figures import transfer_figure
    from tools.reproduce_parts.tables import page

    path = docs / 'results.md'
    text = path.read_text(encoding='utf-8')
    if BEGIN not in text or END not in text:
        raise ValueError(f'{path} lacks the lines {BEGIN} and {END}, between which the results go.')
    raw = docs / 'images' / 'results.json'
    results = merge(read_json(raw), results, raw)
    shown = page(results)
    figure = transfer_figure(results['runs'])
    if figure is not None:
        save_figure(figure, docs / 'images' / 'results.png')
        shown += '\n![Each run as a dot, the mean of each variant as a tick](images/results.png)\n'
    head, tail = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    path.write_text(f'{head}\n\n{shown}\n{tail}', encoding='utf-8')
    write_json(raw, results)
    return path


def merge(published: dict[str, Any] | None, results: dict[str, Any], source: Path) -> dict[str, Any]:
    """The results, and what was published that they lack: other runs, and other measures of the very same run.

    A run is the same if variant, seed and fingerprint are. Of a measure that both have the new value is taken. Variants
    that this version does not know are left out.

    Args:
        published: content of `source`; None if there is none.
        results: as :func:`collect` makes them.
        source: for the message.

    Raises:
        ValueError: the two differ in settings that a published figure depends on, so that they do not belong into one
            table.
    """
    if published is None:
        return results
    measured = {task for row in published['runs'] for task in row['seconds']}
    may_change = {'tasks', *TASKS} - measured  # settings of what the page has no figures of
    both = {**published['settings'], **results['settings']}
    unlike = [name for name in both if published['settings'].get(name) != results['settings'].get(name)]
    if published['budget'] != results['budget'] or not may_change.issuperset(unlike):
        raise ValueError(
            f'{source} holds results of budget {published["budget"]} with other settings: take another folder for '
            f'--publish, or move {source.name} away to begin anew.'
        )
    rows = {(row['variant'], row['seed']): row for row in published['runs']}
    for row in results['runs']:
        old = rows.get((row['variant'], row['seed']))
        if old is not None and old['fingerprint'] == row['fingerprint']:
            parts = ('metrics', 'seconds', 'commits')
            row = {**row, **{name: {**old.get(name, {}), **row[name]} for name in parts}}
        rows[row['variant'], row['seed']] = row
    places = {name: place for place, name in enumerate(VARIANTS)}
    rows = {key: row for key, row in rows.items() if key[0] in places}
    order = sorted(rows, key=lambda key: (key[1], places[key[0]]))
    names = [*published['versions'], *(name for name in results['versions'] if name not in published['versions'])]
    versions = {
        name: _JOIN.join(
            sorted({v for part in (published, results) for v in part['versions'].get(name, '').split(_JOIN)} - {''})
        )
        for name in names
    }
    return {**results, 'versions': versions, 'runs': [rows[key] for key in order]}


def collect(plan: Plan, journey: Journey, budget: str) -> dict[str, Any]:
    """Rows of finished pre-trainings with the metrics of their finished evaluations; nothing is filled in."""
    lengths = plan.lengths
    stages = {stage.name: stage for stage in journey.stages}
    rows, versions = [], {}  # versions: name -> all that stages were made with
    for seed in plan.seeds:
        for variant in plan.variants:
            record = journey.record(stages[f'pretrain_{variant}_s{seed}'])
            if record is None:
                continue
            for name, version in record['versions'].items():
                versions.setdefault(name, set()).add(version)
            row = {
                'variant': variant,
                'title': VARIANTS[variant].title,
                'windows': VARIANTS[variant].windows if VARIANTS[variant].trained else '',
                'seed': seed,
                **lengths[variant],
                'pretrain_seconds': record['seconds'] if VARIANTS[variant].trained else 0.0,
                'pretrain_cpu_seconds': record.get('cpu_seconds'),
                'finished': record['finished'],
                'hardware': record['hardware'],
                'commit': record['commit'],
                'fingerprint': record['fingerprint'],
                'metrics': {},
                'seconds': {},
                'commits': {},
            }
            for task in plan.tasks:
                stage = stages.get(f'{task}_{variant}_s{seed}')
                done = journey.record(stage) if stage else None
                if done:
                    row['metrics'].update(read_metrics(task, plan.result(task, variant, seed)))
                    row['seconds'][task] = done['seconds']
                    row['commits'][task] = done['commit']
            rows.append(row)
    return {
        'budget': budget,
        'settings': json.loads(json.dumps(vars(plan.budget), default=vars)),
        'versions': {name: _JOIN.join(sorted(found)) for name, found in versions.items()},
        'runs': rows,
    }


def read_metrics(task: str, path: Path) -> dict[str, float]:
    """The figures of an evaluation under the names of the tables, all in per cent."""
    content = read_json(path) or {}
    if task == 'probe':
        return {name: 100 * value for name, value in content.items()}
    if task in ('dense', 'dense_topk'):
        return {f'{task}_{name}': value for name, value in content.items()}
    if task == 'topk':
        found = {}
        for name, key in (('model', 'topk'), ('model, segments left out', 'topk_content')):
            if name in content['models']:
                layers = [100 * layer['topk_acc'] for layer in content['models'][name]['layers']]
                found.update({f'{key}_last': layers[-1], f'{key}_mean': sum(layers) / len(layers)})
        return found
    if task in ('super12', 'person'):
        return {f'{task}_{name}': 100 * value for name, value in content.items()}
    return {f'{task}_miou': test_figures(path)['mIoU']}
