"""Does the schedule of the learning rate fit the length of the run? One that does not spoils a run without a word.

A config states its length in several places: ``train_cfg.max_iters`` (or ``max_epochs``) and begin, end, milestones of
every scheduler. Whoever changes the first alone trains on at a rate of nothing, or stops before the rate has fallen.
"""

from __future__ import annotations

import copy
import shlex
import warnings as py_warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS, DefaultScope

from mixedae.checkpoints import CheckpointError

if TYPE_CHECKING:
    from mmengine.runner import Runner

NOTHING = 0.01  # of the peak: at this rate and below nothing more is learnt
IDLE = 0.05  # share of the run that may go on at such a rate after the end of its schedule
IDLE_WITHOUT_END = 0.5  # the same for a schedule that does not name its end: its last step may be meant to be long
ANNEALED = 0.1  # of the peak: a run that ends above it has not come to the end of its schedule
TICKS = 2000  # steps that a curve is computed in; a longer schedule is scaled down to them
POINTS = ('begin', 'end')
LENGTHS = ('T_max', 'step_size', 'total_steps')
LISTS = ('milestones', 'periods')


@dataclass(frozen=True)
class Schedule:
    """The schedulers of the learning rate that count in the unit of the run.

    Attributes:
        entries: (place in the config, scheduler): (``'param_scheduler.1'``, ``dict(type='CosineAnnealingLR', ...)``).
        length: of the run.
        unit: ``'epochs'`` or ``'iterations'``.
        rate: the optimiser's.
        scope: to find the schedulers' types in.
    """

    entries: list[tuple[str, dict]]
    length: int
    unit: str
    rate: float
    scope: str

    @property
    def end(self) -> int:
        """Where the last scheduler ends; that of a scheduler without ``end`` is the run's, as in MMEngine."""
        return max(scheduler.get('end', self.length) for _, scheduler in self.entries)

    def rates(self, end: int) -> list[float]:
        """The rate along the first ``end`` epochs or iterations, by MMEngine's own schedulers.

        Those of more than ``TICKS`` are scaled to so many, in which too short a warm-up has no place.
        """
        ticks = max(1, TICKS // end) if self.unit == 'epochs' else 1  # of an epoch
        factor = min(1.0, TICKS / end)
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=self.rate)
        by_tick, by_epoch = [], []
        with DefaultScope.overwrite_default_scope(self.scope):
            for place, scheduler in self.entries:
                scheduler = dict({'end': self.length}, **scheduler)
                begin, stop = (round(point * factor) for point in (scheduler.get('begin', 0), scheduler['end']))
                if factor < 1 and stop - begin < 2:
                    continue
                scheduler = scaled(scheduler, factor, {scheduler.get('begin', 0): begin, scheduler['end']: stop})
                try:
                    built = PARAM_SCHEDULERS.build(
                        scheduler, default_args=dict(optimizer=optimizer, epoch_length=ticks)
                    )
                except (TypeError, ValueError, AssertionError) as error:
                    raise ValueError(f'{place} of the config cannot be built: {error}') from None
                (by_epoch if built.by_epoch else by_tick).append(built)
        rates = []
        for tick in range(1, round(end * factor) * ticks + 1):
            rates.append(optimizer.param_groups[0]['lr'])
            optimizer.step()
            for built in by_tick + (by_epoch if tick % ticks == 0 else []):
                built.step()
        return rates

    def options(self) -> list[str] | None:
        """``KEY=VALUE`` for ``--cfg-options`` that scale every scheduler to the run; None if it is too short."""
        whole, length = self.end, self.length
        points = sorted({scheduler.get(key, 0) for _, scheduler in self.entries for key in POINTS} | {whole})
        moved: dict[int, int] = {}
        for before, point in zip([None, *points], points, strict=False):
            moved[point] = round(point * length / whole)
            if before is not None:  # LinearLR over a single step would stay at its first factor for good
                moved[point] = max(moved[point], moved[before] + min(2, point - before))
        if moved[whole] != length:
            return None
        options = []
        for place, scheduler in self.entries:
            for key, value in scaled(scheduler, length / whole, moved).items():
                if value != scheduler[key]:
                    options.append(f'{place}.{key}={str(value).replace(" ", "")}')
        return options


def scaled(scheduler: dict, factor: float, moved: dict[int, int]) -> dict:
    """A scheduler for a run that is ``factor`` times as long; ``moved`` says where its begin and end come to lie."""
    result = dict(scheduler)
    for key in POINTS:
        if key in result:
            result[key] = moved[result[key]]
    for key in LENGTHS:
        if result.get(key):
            result[key] = max(1, round(result[key] * factor))
    begin = scheduler.get('begin', 0)
    if 'end' in scheduler and scheduler.get('T_max') == scheduler['end'] - begin:
        result['T_max'] = result['end'] - moved.get(begin, 0)
    for key in LISTS:
        if key in result:
            result[key] = [max(1, round(value * factor)) for value in result[key]]
    if 'Exponential' in str(scheduler['type']) and factor != 1:
        result['gamma'] = float(f'{scheduler["gamma"] ** (1 / factor):.8g}')
    return result


def check_schedule(cfg: Config) -> list[str]:
    """Compares the schedule of the learning rate with ``train_cfg.max_iters`` or ``max_epochs``.

    Returns:
        Warnings: the run stops long before the schedule does, at a rate that is still high; or a scheduler never moves.

    Raises:
        ValueError: the schedule comes down to next to nothing, and then a good part of the run is still to come.
    """
    schedule, warnings = read_schedule(cfg)
    if schedule is None:
        return warnings
    length, unit, whole = schedule.length, schedule.unit, schedule.end
    rates = schedule.rates(min(length, whole))
    peak, last = max(rates), rates[-1]
    if not peak > 0:
        return warnings
    if whole < length:
        over, allowed = whole, IDLE
    else:
        changes = [i for i in range(1, len(rates)) if rates[i] != rates[i - 1]]
        over, allowed = round((changes[-1] if changes else len(rates)) / len(rates) * length), IDLE_WITHOUT_END
    if last <= NOTHING * peak * (1 + 1e-6) and length - over > allowed * length:
        raise ValueError(
            f'The learning rate comes down to {last:.2g}, {percent(last / peak)} of its peak, after {over} {unit}, '
            f'which is what param_scheduler is written for, and the run has {length}, so in the last {length - over} '
            f'it would learn next to nothing: {advice(schedule)}.'
        )
    if whole > (1 + IDLE) * length and last > ANNEALED * peak * (1 + 1e-6):
        final = schedule.rates(whole)[-1]
        if not 0.5 <= final / last <= 2:
            counted = f'{length} {unit if length > 1 else unit[:-1]}'
            warnings.append(
                f'The run ends after {counted} with the learning rate at {percent(last / peak)} of its peak, since '
                f'param_scheduler is written for {whole}: for a run that ends with a low rate {advice(schedule)}.'
            )
    return warnings


def percent(share: float) -> str:
    """``98 %``, ``0.00085 %``."""
    return f'{100 * share:.0f} %' if share >= 0.1 else f'{100 * share:.2g} %'


def advice(schedule: Schedule) -> str:
    """The options that make the schedule as long as the run."""
    if schedule.end == schedule.length:
        return f'set milestones, T_max or end of its schedulers for {schedule.length} {schedule.unit}'
    options = schedule.options()
    if options is None:
        return 'add `--cfg-options param_scheduler=None` (a constant rate: the run is too short for a schedule)'
    return f'add `--cfg-options {shlex.join(options)}`'


def read_schedule(cfg: Config) -> tuple[Schedule | None, list[str]]:
    """The schedule of a config, and warnings about schedulers that never move.

    None where there is nothing to compare: no schedule, several optimisers, a scheduler of unknown length (one that
    waits for a metric, or is told in epochs in a run by iterations). What counts iterations in a run by epochs, a
    warm-up in most cases, is left out: how many iterations an epoch has only the data tells.
    """
    train_cfg, schedulers = cfg.get('train_cfg') or {}, cfg.get('param_scheduler')
    unit, length = (
        ('epochs', train_cfg.get('max_epochs'))
        if train_cfg.get('max_epochs')
        else ('iterations', train_cfg.get('max_iters'))
    )
    rate = ((cfg.get('optim_wrapper') or {}).get('optimizer') or {}).get('lr')
    if not length or not schedulers or not isinstance(rate, (int, float)) or rate <= 0:
        return None, []
    if isinstance(schedulers, dict):
        if 'type' not in schedulers:
            return None, []  # a schedule for each of several optimisers
        named = [('param_scheduler', schedulers)]
    else:
        named = [(f'param_scheduler.{i}', scheduler) for i, scheduler in enumerate(schedulers)]
    scope = cfg.get('default_scope') or 'mmengine'
    entries, warnings = [], []
    for place, scheduler in named:
        if not isinstance(scheduler, dict) or not isinstance(scheduler.get('type'), str):
            return None, warnings  # built already
        with DefaultScope.overwrite_default_scope(scope):
            cls = PARAM_SCHEDULERS.get(scheduler['type'])
        if cls is None or 'Plateau' in cls.__name__:
            return None, warnings
        if not is_of_learning_rate(cls, scheduler):
            continue
        by_epoch = scheduler.get('by_epoch', True)
        if by_epoch == (unit == 'epochs'):
            entries.append((place, dict(scheduler)))
        elif by_epoch and scheduler.get('convert_to_iter_based'):
            return None, warnings
        elif by_epoch:
            warnings.append(
                f'{place} ({scheduler["type"]}) counts epochs, but the run counts iterations, so it never changes the '
                f'learning rate: give it in iterations, with by_epoch=False.'
            )
    return (Schedule(entries, length, unit, rate, scope) if entries else None), warnings


def is_of_learning_rate(cls: type, scheduler: dict) -> bool:
    """Not one of momentum or weight decay."""
    return cls.__name__.endswith('LR') or scheduler.get('param_name') == 'lr'


def ends_of_schedulers(runner: Runner) -> list[tuple[int, int]]:
    """(begin, end) of each scheduler of the runner."""
    schedulers = runner.param_schedulers if isinstance(runner.param_schedulers, list) else []
    return [(scheduler.begin, scheduler.end) for scheduler in schedulers if hasattr(scheduler, 'end')]


def check_resumed(runner: Runner, filename: str, planned: list[tuple[int, int]]) -> None:
    """A resumed run keeps the schedule of its checkpoint, begin and end too, whatever the config says.

    Nothing is looked at where the config still says what it said: a run that could start can go on.

    Args:
        runner: as ``Runner.resume`` leaves it.
        filename: the checkpoint.
        planned: :func:`ends_of_schedulers` before, as the config has them.

    Raises:
        CheckpointError: that schedule comes down to next to nothing, and then a good part of the run is still to come.
    """
    if planned == ends_of_schedulers(runner):
        return
    schedulers = runner.param_schedulers if isinstance(runner.param_schedulers, list) else []
    schedulers = [scheduler for scheduler in schedulers if scheduler.param_name == 'lr']
    lengths = [runner.max_epochs if scheduler.by_epoch else runner.max_iters for scheduler in schedulers]
    shares = [scheduler.end / length for scheduler, length in zip(schedulers, lengths, strict=True)]
    if not shares or max(shares) >= 1 - IDLE or any(hasattr(scheduler, 'need_val_args') for scheduler in schedulers):
        return
    last, length = max(zip(schedulers, lengths, strict=True), key=lambda pair: pair[0].end / pair[1])
    group = runner.optim_wrapper.param_groups[0]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=group['lr'])
    for scheduler in sorted(schedulers, key=lambda scheduler: scheduler.begin):
        ahead = copy.copy(scheduler)
        ahead.optimizer, ahead.base_values = optimizer, scheduler.base_values[:1]
        with py_warnings.catch_warnings():
            py_warnings.simplefilter('ignore')  # a scheduler that is ahead of the optimiser
            for _ in range(scheduler.end - 1 - scheduler._global_step):
                ahead.step()
    rate, peak = optimizer.param_groups[0]['lr'], group.get('initial_lr', group['lr'])
    if rate <= NOTHING * peak * (1 + 1e-6):
        unit = 'epochs' if last.by_epoch else 'iterations'
        raise CheckpointError(
            f'{filename} goes on with the schedule that it was trained by, whatever the config says: the learning rate '
            f'comes down to {rate:.2g}, {percent(rate / peak)} of its peak, after {last.end} {unit}, and the run has '
            f'{length}. Start a new run from its weights, without --resume, in another --work-dir and with '
            f'`--cfg-options load_from={shlex.quote(filename)}`.'
        )
