"""The claims of the paper and of this project, and whether the finished runs bear them out.

The rule, for a claim "A above B" on one measure, over the seeds that both have (three at least):

    holds            A is above B for every seed, and on average by more than the pooled standard deviation
    does not hold    the same the other way round
    not decided      anything else, fewer seeds among it

The pooled standard deviation is the root of the mean variance of A and B over these seeds. With three seeds and no
difference at all a measure reads "holds" in 9.6 % of cases and "does not hold" in as many (normal scores, 200,000 draws
of NumPy's generator, seed 0).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tools.reproduce_parts.variants import VARIANTS

SEEDS = 3
HOLDS, FAILS, OPEN = 'holds', 'does not hold', 'not decided'

DENSE = ('camvid_miou', 'ade_miou', 'super12_box', 'super12_mask', 'person_box', 'dense_camvid', 'dense_ade')
CLASSES = ('linear_mean', 'knn_mean')
TOPK = ('topk_mean', 'topk_last')


@dataclass(frozen=True)
class Claim:
    """`better` above `worse` on each of `measures`; `source` says whose claim it is."""

    text: str
    better: str
    worse: str
    measures: tuple[str, ...] = DENSE
    source: str = 'paper'


CLAIMS = (
    Claim('MixedAE is better than MAE', 'mixedae', 'mae'),
    Claim('MAE is better than naive mixing', 'mae', 'naive'),
    Claim('Naive mixing is better than no pre-training', 'naive', 'scratch'),
    Claim('MixedAE is better than naive mixing', 'mixedae', 'naive'),
    Claim('The attention is not enough: both parts are better', 'mixedae', 'attention'),
    Claim('The contrastive loss is not enough: both parts are better', 'mixedae', 'contrastive'),
    Claim('Attention alone is worse than naive mixing', 'naive', 'attention'),
    Claim('MixedAE is better than MAE in classification', 'mixedae', 'mae', CLASSES),
    Claim('With the contrastive loss TopK accuracy is higher', 'mixedae', 'attention', TOPK),
    Claim('TopK accuracy is higher than under naive mixing', 'mixedae', 'naive', TOPK),
    Claim('Object crops are better than whole scenes', 'mixedae', 'scenes', source='this project'),
    Claim('Object crops are better than random crops', 'mixedae', 'moved', source='this project'),
    Claim(
        'The segment embedding helps', 'mixedae', 'no_segment', (*DENSE, *CLASSES), source='open choice of the method'
    ),
    Claim(
        'Compose mode is a better use of compute than full mode', 'mixedae', 'full', (*DENSE, *CLASSES),
        source='open choice of the method',
    ),
    Claim('K = 0.25 L is better than 0.5 L', 'mixedae', 'wide', (*DENSE, *CLASSES)),
    Claim(
        '[CLS] in the decoder helps', 'mixedae', 'no_cls', (*DENSE, *CLASSES), source='open choice of the method'
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Judgement:
    """A claim on one measure: seeds, mean of the differences per seed, pooled standard deviation, verdict."""

    measure: str
    seeds: int
    difference: float
    deviation: float
    verdict: str


def judge(better: Mapping[int, float], worse: Mapping[int, float], measure: str = '') -> Judgement | None:
    """Apply the rule to two variants' values by seed; None if no seed has both."""
    seeds = sorted(better.keys() & worse.keys())
    if not seeds:
        return None
    first, second = [better[s] for s in seeds], [worse[s] for s in seeds]
    differences = [a - b for a, b in zip(first, second)]
    mean = sum(differences) / len(seeds)
    deviation = pooled_deviation(first, second)
    verdict = OPEN
    if len(seeds) >= SEEDS and abs(mean) > deviation:
        if min(differences) > 0:
            verdict = HOLDS
        elif max(differences) < 0:
            verdict = FAILS
    return Judgement(measure, len(seeds), mean, deviation, verdict)


def pooled_deviation(first: Sequence[float], second: Sequence[float]) -> float:
    """Root of the mean of two sample variances; nan for a single value."""
    return math.sqrt((variance(first) + variance(second)) / 2)


def variance(values: Sequence[float]) -> float:
    """Sample variance (n - 1); nan for a single value."""
    if len(values) < 2:
        return math.nan
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values) / (len(values) - 1)


def by_seed(runs: Sequence[Mapping], variant: str, measure: str) -> dict[int, float]:
    """Seed -> value of the runs that have it."""
    return {
        run['seed']: run['metrics'][measure]
        for run in runs
        if run['variant'] == variant and run['metrics'].get(measure) is not None
    }


def judge_all(runs: Sequence[Mapping]) -> list[tuple[Claim, list[Judgement]]]:
    """Every claim with its measures that have a seed in common."""
    assert all({claim.better, claim.worse} <= VARIANTS.keys() for claim in CLAIMS)
    found = []
    for claim in CLAIMS:
        judged = [
            judge(by_seed(runs, claim.better, measure), by_seed(runs, claim.worse, measure), measure)
            for measure in claim.measures
        ]
        found.append((claim, [judgement for judgement in judged if judgement is not None]))
    return found


def overall(judgements: Sequence[Judgement]) -> str:
    """One verdict for all measures: more than half of them say so, and none the opposite."""
    verdicts = [judgement.verdict for judgement in judgements]
    for verdict, opposite in ((HOLDS, FAILS), (FAILS, HOLDS)):
        if 2 * verdicts.count(verdict) > len(verdicts) and opposite not in verdicts:
            return verdict
    return OPEN
