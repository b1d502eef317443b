"""Verdicts on a pre-training run: reconstruction, contrastive loss, TopK accuracy, frozen features."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from mixedae.analysis.contrastive_bounds import contrastive_floor, contrastive_uniform
from tools.report_parts.judging import (
    FEW,
    Verdict,
    accuracy_layers,
    embed_dim,
    group_size_of,
    num_patches,
    own_key_mark,
    part,
    standard_error,
    tail,
    too_early,
)
from tools.report_parts.run import Run

# Share of the gap between uniform value and floor that was left at the lowest point: with segment embedding 0.0002, and
# 0.48 with segment_embed=False.
GAP_WITH_SEGMENTS, GAP_WITHOUT = 0.0002, 0.48
# RankMe of the mean of patches over 2,000 whole images (Imagenette): 7.8 as configured, 12.6 with segment_embed=False.
RANKS = '8 and 13 of 192'


def pretraining_verdicts(run: Run) -> Iterator[Verdict]:
    """All of this file's."""
    yield from _reconstruction(run)
    yield from _contrastive(run)
    yield from _accuracy(run)
    yield from _features(run)


def _reconstruction(run: Run) -> Iterator[Verdict]:
    values = run.values('loss_recon') / (run.model.get('reconstruction_weight') or 1)
    if len(values) < FEW:
        if len(values):
            yield too_early('reconstruction loss', len(values))
        return
    start, middle, end = part(values, 0), part(values, 0.5), part(values, 1)
    if not np.isfinite([start, middle, end]).all():
        return
    told = f'It went from {start:.3f} to {end:.3f}'
    if not run.model.get('norm_pix', True):
        kind = 'good' if end < start else 'bad'
        yield kind, f'The reconstruction loss {"fell" if end < start else "did not fall"}', f'{told}.'
        return
    source = (
        'Targets have variance 1 in each patch, so a decoder that knows nothing but their mean has 1.0 (theory); '
        'our runs end at 0.61.'
    )
    if end >= 1.0:
        yield 'bad', 'The decoder reconstructs nothing', f'{told}. {source} Look at the learning rate and its warm-up.'
    elif end > start:
        yield 'bad', 'The reconstruction loss rose', f'{told}. {source} Look at the learning rate.'
    elif end > middle:
        yield 'even', 'The reconstruction loss falls no longer', f'{told}, and was {middle:.3f} halfway. {source}'
    else:
        yield 'good', 'The reconstruction loss falls', f'{told}. {source}'


def lower_bound(run: Run) -> float | None:
    """Floor of the contrastive loss at the config's settings; None where it is not known."""
    length = num_patches(run)
    if length is None or not run.is_mixing or run.model.get('positives', 'separate') != 'separate':
        return None
    return contrastive_floor(length, group_size_of(run), run.model.get('temperature', 0.25))


def _contrastive(run: Run) -> Iterator[Verdict]:
    values, steps = run.values('contrastive'), run.scalars.get('contrastive', ((), ()))[0]
    if not len(values) or not np.isfinite(values).all():
        return
    low = lower_bound(run)
    if low is None:
        yield 'note', 'Contrastive loss', f'{values[-1]:.3f} at the end; its bounds are not known for these settings.'
        return
    high = contrastive_uniform(num_patches(run))
    left = (values - low) / (high - low)
    bounds = f'Floor {low:.3f}, uniform value {high:.3f} (theory, L = {num_patches(run)}, g = {group_size_of(run)})'
    end = part(values, 1)
    if values.min() < low - 1e-2:
        yield (
            'bad',
            'The contrastive loss is below its floor',
            f'{values.min():.3f}. {bounds}. That cannot be: the log is not of this config.',
        )
        return
    near = np.flatnonzero(left < GAP_WITHOUT / 5)
    if run.model.get('segment_embed', True) and len(near):
        step = int(steps[near[0]])
        yield (
            'even',
            'The contrastive loss is read off the segment embedding',
            f'It reached {end:.3f}, from iteration {step:,} on within a tenth of its range from the floor. {bounds}. '
            'The segment embedding names the image of every patch, so this needs no recognition, and TopK accuracy is '
            f'partly read off it too (docs/method.md). In our runs {GAP_WITH_SEGMENTS:.2%} of the range was left with, '
            f'{GAP_WITHOUT:.0%} without segment embedding; a run with segment_embed=False shows what is recognised.',
        )
    elif end > high - 0.02 * (high - low):
        yield (
            'bad' if len(values) >= FEW and run.done >= 0.25 * (run.total or run.done) else 'note',
            'The contrastive loss stands at its uniform value',
            f'{end:.3f}. {bounds}. Patches do not tell images apart (yet).',
        )
    else:
        yield 'good', 'The contrastive loss is between its bounds', f'{end:.3f}. {bounds}.'


def _accuracy(run: Run) -> Iterator[Verdict]:
    layers = accuracy_layers(run)
    if not run.is_mixing or not layers:
        return
    chance, alone = 1 / group_size_of(run), own_key_mark(run)
    ends = [tail(run.values(name)) for name in layers]
    last, best = ends[-1], max(ends, key=np.mean)
    mean, spread = float(np.mean(last)), standard_error(last)
    numbers = (
        f'Last layer {mean:.1%}, mean of all layers {np.mean([e.mean() for e in ends]):.1%}, best layer '
        f'{best.mean():.1%}; chance is {chance:.0%}, and a patch that finds nothing but itself has {alone:.1%} '
        '(theory).'
    )
    paper = ' The paper shows 70-80 % with the contrastive loss and under 40 % in the last layer without it; '
    known = (
        'our runs end at 39 % in the last layer with it (54 % in the mean of all), 27 % (38 %) with '
        'segment_embed=False, 29 % (35 %) without it.'
    )
    if len(run.values(layers[-1])) < 3:
        yield too_early('TopK accuracy', len(run.values(layers[-1])))
    elif mean - 2 * spread > alone:
        yield 'good', 'Patches find the patches of their own image', numbers + paper + known
    elif best.mean() - 2 * standard_error(best) > alone:
        yield 'even', 'Patches find their own image, but not in the last layer', numbers + paper + known
    else:
        early = run.done < 0.25 * (run.total or run.done)
        yield (
            'note' if early or not run.model.get('contrastive_weight', 0.1) else 'bad',
            'Patches do not find the patches of their own image',
            f'{numbers} Two standard errors of the last tenth of the measurements are {2 * spread:.1%}.{paper}{known}',
        )


def _features(run: Run) -> Iterator[Verdict]:
    """RankMe, kNN and linear probe, beside those of the untrained encoder of the same run."""
    steps, ranks = run.scalars.get('probe/rankme', (np.zeros(0), np.zeros(0)))
    learned = ranks[steps > 0]
    if len(learned):
        now, peak = float(learned[-1]), float(learned.max())
        told = f'RankMe is {now:.1f}' + (f', {ranks[0]:.1f} of the untrained encoder' if steps[0] == 0 else '')
        bounds = (
            f'It lies between 1 (collapsed) and the width {embed_dim(run) or "D"} of the encoder (theory); our runs '
            f'end at {RANKS}.'
        )
        if now < 2:
            reason = 'Below 2 the features of all images lie along one direction.'
            yield 'bad', 'The features have collapsed', f'{told}. {reason} {bounds}'
        elif now < 0.5 * peak:
            reason = f'It was {peak:.1f} at its best since: half of the dimensions in use are gone.'
            yield 'even', 'The features lose dimensions', f'{told}. {reason} {bounds}'
        else:
            yield 'good', 'The features have not collapsed', f'{told}. {bounds}'
    for name, title in (('probe/knn', 'kNN'), ('probe/linear', 'linear probe')):
        values = run.values(name)
        if not len(values):
            continue
        now = float(values[-1])
        if run.probed is None:
            yield 'note', f'Frozen features ({title})', f'{now:.1%}; of how many images and classes, no log says.'
            continue
        images, classes = run.probed
        error = math.sqrt(max(now * (1 - now), 1e-9) / images)
        base, start, whose = 1 / classes, 'chance', 'at chance'
        if run.scalars[name][0][0] == 0 and len(values) > 1:
            base, start, whose = float(values[0]), 'at the start', 'of the untrained encoder'
        told = (
            f'{now:.1%} of {images:,} images, {classes} classes: chance is {1 / classes:.1%}; {base:.1%} {whose}, '
            f'one standard error {error:.1%} (binomial).'
        )
        if now - 2 * error > base:
            yield 'good', f'Frozen features are better than {start} ({title})', told
        elif now + 2 * error < base:
            yield 'bad', f'Frozen features are worse than {start} ({title})', told
        else:
            yield 'even', f'Frozen features are no better than {start} ({title})', told
