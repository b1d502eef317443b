"""Is the run well? Each verdict compares the log with a range, and says where the range comes from.

Ranges come from theory (stated with the function that computes it) or from runs of ours, measured: `OURS`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tools.report_parts.judging import FEW, Verdict, count, main_metrics, part, too_early
from tools.report_parts.pretraining import pretraining_verdicts
from tools.report_parts.run import Run

# Of the three runs of OURS and of two fine-tuning runs (Mask R-CNN, UPerNet): largest logged gradient norm after the
# first tenth of the run over the median of all was 2.42, 1.56, 1.39; 1.73, 1.18.
GRADIENT_PEAK = 2.5
# ThroughputHook's own bound, which it gives its warning at.
DATA_BOUND = 0.15


def verdicts(run: Run) -> list[Verdict]:
    """All that can be said about a run, the worst first."""
    found = [*_common(run)]
    if run.is_pretraining:
        found += pretraining_verdicts(run)
    else:
        found += [*_falling(run), *_metrics(run)]
    found += [*_gradient(run), *_data(run)]
    order = ('bad', 'even', 'good', 'note')
    return sorted(found, key=lambda verdict: order.index(verdict[0]))


def summary(found: list[Verdict]) -> str:
    """One line above the verdicts."""
    bad = sum(kind == 'bad' for kind, _, _ in found)
    even = sum(kind == 'even' for kind, _, _ in found)
    if bad:
        return f'{count(bad, "thing")} wrong with this run.'
    if even:
        return f'Nothing is broken; {count(even, "point")} to look at.'
    return 'All that was measured is in its known-good range.'


def _common(run: Run) -> Iterator[Verdict]:
    losses = {name: values for name, (_, values) in run.scalars.items() if 'loss' in name}
    broken = [name for name, values in losses.items() if not np.isfinite(values).all()]
    if broken:
        first = min(int(run.scalars[name][0][~np.isfinite(losses[name])][0]) for name in broken)
        yield (
            'bad',
            'The loss was not finite',
            f'{", ".join(broken)} held inf or nan, first at iteration {first:,}. Lower the learning rate, lengthen the '
            'warm-up, or train in bf16 instead of fp16. (A finite loss is the definition of a run that goes on.)',
        )
    elif losses:
        points = max(len(values) for values in losses.values())
        yield 'good', 'All losses are finite', f'{", ".join(losses)}: no inf or nan at {points:,} points of the log.'
    if run.captures:
        yield (
            'even',
            f'{count(len(run.captures), "step")} left out because they were not finite',
            f'They are kept in captures/ ({", ".join(run.captures[:3])}{" ..." if len(run.captures) > 3 else ""}) and '
            'can be done again with tools/replay.py. In a sound run there are none, but for overflows in fp16.',
        )
    if run.quarantined:
        yield (
            'even',
            f'{count(len(run.quarantined), "bad image file")}',
            'They were replaced by other samples; quarantine.jsonl lists them. In sound data there are none.',
        )


def _falling(run: Run) -> Iterator[Verdict]:
    values = run.values('loss')
    if len(values) < FEW:
        if len(values):
            yield too_early('loss', len(values))
        return
    start, middle, end = part(values, 0), part(values, 0.5), part(values, 1)
    if not np.isfinite([start, middle, end]).all():
        return
    told = f'From {start:.3f} to {end:.3f} (means of the first and the last tenth of the log).'
    if end >= start:
        yield 'bad', 'The loss did not fall', f'{told} Look at the learning rate.'
    elif end > middle:
        yield 'even', 'The loss falls no longer', f'{told} It was {middle:.3f} halfway.'
    else:
        yield 'good', 'The loss falls', told


def _metrics(run: Run) -> Iterator[Verdict]:
    for name in main_metrics(run):
        steps, values = run.scalars[name]
        best = int(np.argmax(values))
        told = f'{name} is {values[-1]:.4g} at {int(steps[-1]):,}'
        if len(values) > 1:
            told += f', best {values[best]:.4g} at {int(steps[best]):,}, first {values[0]:.4g}'
        yield 'note', 'Validation', f'{told}.'


def _gradient(run: Run) -> Iterator[Verdict]:
    values = run.values('grad_norm')
    if len(values) < FEW:
        return
    finite = values[np.isfinite(values)]
    if len(finite) < len(values):
        told = f'{len(values) - len(finite)} of {len(values)} logged gradient norms are inf or nan.'
        yield 'even', 'Some gradients were not finite', f'{told} With fp16 the loss scaler leaves such steps out.'
    if not len(finite) or not np.median(finite) > 0:
        return
    median, peak = float(np.median(finite)), float(finite[len(finite) // 10 :].max())
    told = (
        f'Median {median:.3g}, largest after the first tenth of the log {peak:.3g}, {peak / median:.1f} times as much '
        f'(before clipping). In five runs of ours (pre-training, Mask R-CNN, UPerNet) it was at most '
        f'{GRADIENT_PEAK} times.'
    )
    if peak <= GRADIENT_PEAK * median:
        yield 'good', 'The gradients are steady', told
    else:
        yield 'even', 'The gradients have peaks', f'{told} Peaks with a rising loss: lower the learning rate.'


def _data(run: Run) -> Iterator[Verdict]:
    share = data_share(run)
    if share is None:
        return
    told = f'{share:.1%} of the time of the steps is waiting for data'
    known = f'ThroughputHook warns from {DATA_BOUND:.0%} on; 3-5 % in our runs, on two CPU cores.'
    if share < DATA_BOUND:
        yield 'good', 'The data come fast enough', f'{told}. {known}'
    else:
        times = run.values('time')
        total = f': without it a step would take {1 - share:.0%} of its {np.median(times):.2f} s' if len(times) else ''
        kind = 'bad' if share > 0.5 else 'even'  # from a half on, the run is bound by its data by definition
        yield kind, 'The run waits for its data', f'{told}{total}. {known} More loader workers, or docs/performance.md.'


def data_share(run: Run) -> float | None:
    """Share of the steps' time that is waiting: ThroughputHook's, else MMEngine's data_time over time."""
    shares = run.values('data_share')
    if len(shares):
        return float(shares.mean())
    waiting, times = run.values('data_time'), run.values('time')
    if not len(times) or len(waiting) != len(times) or not times.sum() > 0:
        return None
    return float(waiting.sum() / times.sum())
