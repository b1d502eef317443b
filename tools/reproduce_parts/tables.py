"""results.json as Markdown: measures, costs and claims. A cell without a run is "-"; nothing is estimated."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tools.reproduce_parts.claims import FAILS, HOLDS, OPEN, Judgement, by_seed, judge_all, overall, variance
from tools.reproduce_parts.variants import ORDER, VARIANTS
from tools.stage_parts.commands import clock

MEASURES = {
    'camvid_miou': 'CamVid mIoU, fine-tuned',
    'ade_miou': 'ADE20K mIoU, fine-tuned',
    'super12_box': '12 classes, box AP',
    'super12_box50': '12 classes, box AP50',
    'super12_mask': '12 classes, mask AP',
    'super12_mask50': '12 classes, mask AP50',
    'person_box': 'persons, box AP',
    'person_box50': 'persons, box AP50',
    'dense_camvid': 'CamVid mIoU, frozen',
    'dense_ade': 'ADE20K mIoU, frozen',
    'linear_mean': 'linear probe',
    'knn_mean': 'kNN',
    'linear_cls': 'linear probe, [CLS]',
    'knn_cls': 'kNN, [CLS]',
    'dense_topk_camvid': 'CamVid mIoU, frozen, TopK attention',
    'dense_topk_ade': 'ADE20K mIoU, frozen, TopK attention',
    'topk_mean': 'TopK accuracy, all layers',
    'topk_last': 'TopK accuracy, last layer',
    'topk_content_mean': 'all layers, segments left out',
    'topk_content_last': 'last layer, segments left out',
}
TRANSFER = tuple(name for name in MEASURES if not name.startswith(('topk', 'dense_topk', 'linear_cls', 'knn_cls')))
LOOKING_IN = tuple(name for name in MEASURES if name not in TRANSFER)
NONE = '-'


def cell(values: Sequence[float], digits: int = 1) -> str:
    """`41.2 ± 0.8 (3)`: mean, sample standard deviation, number of seeds; one seed has no deviation."""
    if not values:
        return NONE
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f'{mean:.{digits}f} (1)'
    return f'{mean:.{digits}f} ± {math.sqrt(variance(values)):.{digits}f} ({len(values)})'


def digits_of(runs: Sequence[Mapping], measure: str) -> int:
    """Decimals of a measure: two where all its values are below ten, so that small ones can be told apart."""
    return 2 if all(run['metrics'].get(measure, 0.0) < 10 for run in runs) else 1


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ['---'] * len(head), *rows]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def measure_table(runs: Sequence[Mapping], measures: Sequence[str]) -> str:
    """One row for each variant that was run, one column for each measure that any run has."""
    shown = [name for name in measures if any(name in run['metrics'] for run in runs)]
    rows = [
        [
            VARIANTS[variant].title,
            *(cell(list(by_seed(runs, variant, name).values()), digits_of(runs, name)) for name in shown),
        ]
        for variant in present(runs)
    ]
    return table(['pre-training', *(MEASURES[name] for name in shown)], rows)


def cost_table(runs: Sequence[Mapping]) -> str:
    """What each pre-training saw, computed and took."""
    rows = []
    for variant in present(runs):
        mine = [run for run in runs if run['variant'] == variant]
        if not VARIANTS[variant].trained:
            continue
        first, seconds = mine[0], [run['pretrain_seconds'] for run in mine]
        processor = [run['pretrain_cpu_seconds'] for run in mine if run.get('pretrain_cpu_seconds')]
        rows.append(
            [
                VARIANTS[variant].title,
                VARIANTS[variant].windows,
                f'{first["iterations"]:,} x {first["batch"]}',
                f'{first["images"]:,}',
                f'{first["operations_per_image"] / 1e6:.1f}',
                f'{first["operations"] / 1e12:.2f}',
                f'{clock(sum(seconds) / len(seconds))} ({len(seconds)})',
                f'{clock(sum(processor) / len(processor))} ({len(processor)})' if processor else NONE,
            ]
        )
    head = [
        'pre-training', 'windows', 'iterations x images', 'images seen', 'million multiply-adds an image',
        'in all, 10^12', 'wall time (seeds)', 'processor time (seeds)',
    ]  # fmt: skip
    return table(head, rows)


def claim_table(runs: Sequence[Mapping]) -> str:
    """Each claim with its verdict, and the difference on each measure."""
    rows = []
    for claim, judgements in judge_all(runs):
        details = '; '.join(describe(j, digits_of(runs, j.measure)) for j in judgements) or NONE
        verdict = overall(judgements) if judgements else 'not run'
        pair = f'{VARIANTS[claim.better].title} - {VARIANTS[claim.worse].title}'
        rows.append([claim.text, claim.source, f'**{verdict}**', pair, details])
    return table(['claim', 'whose', 'at this scale', 'difference of', 'by measure'], rows)


def describe(judgement: Judgement, digits: int = 1) -> str:
    """`CamVid mIoU, frozen +1.2 (pooled sd 0.4, 3 seeds): holds`."""
    spread = '' if math.isnan(judgement.deviation) else f'pooled sd {judgement.deviation:.{digits}f}, '
    seeds = f'{judgement.seeds} seed{"s" if judgement.seeds > 1 else ""}'
    return f'{MEASURES[judgement.measure]} {judgement.difference:+.{digits}f} ({spread}{seeds}): {judgement.verdict}'


def present(runs: Sequence[Mapping]) -> list[str]:
    """Variants with a run, in their order."""
    found = {run['variant'] for run in runs}
    return [variant for variant in ORDER if variant in found]


def machine(results: Mapping[str, Any]) -> str:
    """One sentence about hardware, versions and commits."""
    runs = results['runs']
    devices = sorted({run['hardware'] for run in runs})
    made = [commit for run in runs for commit in (run['commit'], *run.get('commits', {}).values()) if commit]
    commits = sorted({commit[:8] + commit[40:] for commit in made})
    versions = ', '.join(f'{name} {version}' for name, version in results['versions'].items())
    return f'{"; ".join(devices)}. {versions}. Commits of the stages: {", ".join(commits) or NONE} (+: with changes).'


def page(results: Mapping[str, Any]) -> str:
    """All tables, as they stand in results.md and in docs/results.md."""
    runs = results['runs']
    if not runs:
        return 'No pre-training is finished yet.\n'
    seeds = sorted({run['seed'] for run in runs})
    per_seed = ', '.join(f'seed {seed}: {sum(run["seed"] == seed for run in runs)}' for seed in seeds)
    latest = max(run['finished'] for run in runs)
    parts = [
        f'Budget `{results["budget"]}`. Finished pre-trainings: {len(runs)} ({per_seed}); the last one {latest}. '
        'Cells are mean ± sample standard deviation over seeds (number of seeds), in per cent; "-": not run.',
        '### Transfer',
        measure_table(runs, TRANSFER),
        '### Looking in',
        measure_table(runs, LOOKING_IN),
        '### Cost of pre-training',
        cost_table(runs),
        '### Claims',
        f'Verdicts: *{HOLDS}*, *{FAILS}*, *{OPEN}*, by the rule above.',
        claim_table(runs),
        '### Made with',
        machine(results),
    ]
    return '\n\n'.join(parts) + '\n'
