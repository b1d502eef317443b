"""The learning rate's schedule against the length of the run: what our configs say passes, a changed length is told."""

import math
import re
import shlex

import pytest
from mmengine.config import Config

from mixedae.engine.configs import read_config
from mixedae.engine.schedule_checks import check_schedule, read_schedule
from tests.configs.shrinking import REPO
from tools.demo_parts.budgets import BUDGETS as DEMO_BUDGETS
from tools.reproduce_parts.budgets import BUDGETS as REPRODUCE_BUDGETS
from tools.stage_parts.configs import schedule
from tools.train import load_config, parse_args

CONFIGS = sorted(path for path in (REPO / 'mmcfg').rglob('*.py') if '_base_' not in path.parts)
DEMO = REPO / 'mmcfg' / 'demo' / 'mixedae_vit-tiny-p16_crops-128.py'
LONG = REPO / 'mmcfg' / 'pretrain' / 'mixedae_vit-base-p16_8xb512-amp-coslr-800e_coco-objects.py'
ONE_X = REPO / 'mmcfg' / 'coco' / 'mixedae_vit-base-p16_mask-rcnn_8xb2-amp-1x_coco.py'
VITDET = REPO / 'mmcfg' / 'coco' / 'mixedae_vit-base-p16_vitdet-mask-rcnn_8xb8-amp-lsj-100e_coco-1024.py'
UPERNET = REPO / 'mmcfg' / 'ade20k' / 'mixedae_vit-base-p16_upernet_8xb2-amp-160k_ade20k-512x512.py'


def config(schedulers, lr=1.0, **train_cfg):
    return Config(dict(optim_wrapper=dict(optimizer=dict(lr=lr)), train_cfg=train_cfg, param_scheduler=schedulers))


def cosine(begin, end, **more):
    return dict(type='CosineAnnealingLR', by_epoch=False, begin=begin, end=end, **more)


def options_in(sentence):
    """What the sentence says to add to the command line."""
    return shlex.split(re.search(r'`--cfg-options (.*?)`', sentence).group(1))


def told(path, *options):
    """What the check says to a config with these options: a warning, a refusal, or nothing."""
    cfg = load_config(parse_args([str(path), '--cfg-options', *options]))
    try:
        return ' '.join(check_schedule(cfg))
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: f'{path.parent.name}/{path.stem}')
def test_check_schedule__our_configs_pass(path):
    assert check_schedule(read_config(str(path))) == []


def test_check_schedule__lengths_that_demo_and_reproduce_write():
    lengths = {budget.pretrain_iterations for budget in DEMO_BUDGETS.values()}
    for budget in DEMO_BUDGETS.values():
        lengths |= {budget.detection.iterations, budget.segmentation.iterations}
    for budget in REPRODUCE_BUDGETS.values():
        lengths |= {value for key, value in vars(budget).items() if key.endswith('iterations')}
    assert len(lengths) > 5
    for length in {2, 7, *lengths}:
        cfg = read_config(str(DEMO))
        cfg.merge_from_dict(schedule(length))
        assert check_schedule(cfg) == [], length


@pytest.mark.parametrize(
    'path, key, old, new',
    [
        (DEMO, 'max_iters', 600, 4000),
        (DEMO, 'max_iters', 600, 640),
        (DEMO, 'max_iters', 600, 3_000_000),
        (LONG, 'max_epochs', 800, 1600),
        (ONE_X, 'max_epochs', 12, 24),
        (VITDET, 'max_iters', 184375, 400000),
        (UPERNET, 'max_iters', 160000, 320000),
    ],
)
def test_check_schedule__longer_run_is_refused_with_options_that_mend_it(path, key, old, new):
    sentence = told(path, f'train_cfg.{key}={new}')
    assert re.match(r'The learning rate comes down to \S+, \S+ % of its peak, after ', sentence)
    assert f'after {old} ' in sentence and f'in the last {new - old} it would learn next to nothing: add' in sentence
    assert told(path, f'train_cfg.{key}={new}', *options_in(sentence)) == ''


def test_check_schedule__what_it_proposes():
    assert options_in(told(DEMO, 'train_cfg.max_iters=4000')) == [
        'param_scheduler.0.end=400',
        'param_scheduler.1.T_max=3600',
        'param_scheduler.1.begin=400',
        'param_scheduler.1.end=4000',
    ]
    # a warm-up told in iterations stays as it is in a run by epochs
    assert options_in(told(ONE_X, 'train_cfg.max_epochs=24')) == [
        'param_scheduler.1.end=24',
        'param_scheduler.1.milestones=[16,22]',
    ]
    sentence = told(DEMO, 'train_cfg.max_iters=4000')
    assert 'comes down to 8.5e-09, 0.00085 % of its peak' in sentence


@pytest.mark.parametrize(
    'path, key, new, rate',
    [
        (LONG, 'max_epochs', 100, '98 %'),
        (LONG, 'max_epochs', 400, '54 %'),
        (DEMO, 'max_iters', 6, '100 %'),
        (VITDET, 'max_iters', 6, '100 %'),
        (ONE_X, 'max_epochs', 6, '100 %'),
    ],
)
def test_check_schedule__shorter_run_is_a_warning(path, key, new, rate):
    cfg = read_config(str(path), {f'train_cfg.{key}': new})
    (warning,) = check_schedule(cfg)
    unit = 'epochs' if key == 'max_epochs' else 'iterations'
    assert warning.startswith(f'The run ends after {new} {unit} with the learning rate at {rate} of its peak, since ')
    assert '\n' not in warning
    assert told(path, f'train_cfg.{key}={new}', *options_in(warning)) == ''


def test_check_schedule__too_short_for_a_schedule():
    sentence = told(DEMO, 'train_cfg.max_iters=1')
    assert options_in(sentence) == ['param_scheduler=None']
    assert told(DEMO, 'train_cfg.max_iters=1', 'param_scheduler=None') == ''


def test_check_schedule__small_changes_pass():
    assert [told(DEMO, f'train_cfg.max_iters={n}') for n in (570, 599, 601, 625)] == [''] * 4
    assert told(DEMO, 'train_cfg.max_iters=635').startswith('The learning rate comes down')


@pytest.mark.parametrize(
    'schedulers',
    [
        None,
        [],
        [dict(type='ConstantLR', factor=1.0, by_epoch=False, begin=0, end=50)],
        [dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50)],  # warm-up, then constant
        [cosine(0, 100, eta_min=0.1)],  # goes on at a tenth
        [cosine(0, 1000)],
        dict(type='CosineAnnealingLR', by_epoch=False),  # without an end it ends with the run
        [dict(type='MultiStepLR', by_epoch=False, milestones=[300, 600, 900], gamma=0.1)],
        [dict(type='MultiStepLR', by_epoch=False, milestones=[800, 950], gamma=0.1, begin=0, end=1000)],
        [dict(type='CosineRestartLR', periods=[500, 500], restart_weights=[1, 1], eta_min=0.0, by_epoch=False)],
        [dict(type='CosineAnnealingLR', by_epoch=True, convert_to_iter_based=True, begin=0, end=3)],  # unknown length
        [cosine(0, 1000), dict(type='CosineAnnealingParamScheduler', param_name='weight_decay', end=5, by_epoch=False)],
        dict(generator=[cosine(0, 100)]),
    ],
)
def test_check_schedule__sound_or_unknown_schedules_pass(schedulers):
    assert check_schedule(config(schedulers, max_iters=1000)) == []


@pytest.mark.parametrize(
    'scheduler, options',
    [
        (dict(type='PolyLR', power=0.9, eta_min=0.0, begin=100, end=500), ['0.begin=200', '0.end=1000']),
        (dict(type='LinearLR', start_factor=1.0, end_factor=0.0, begin=0, end=500), ['0.end=1000']),
        (dict(type='StepLR', step_size=100, gamma=0.1, begin=0, end=500), ['0.step_size=200', '0.end=1000']),
        (dict(type='ExponentialLR', gamma=0.98, begin=0, end=500), ['0.gamma=0.98994949', '0.end=1000']),
        (dict(type='OneCycleLR', eta_max=1.0, total_steps=500, end=500), ['0.total_steps=1000', '0.end=1000']),
    ],
)
def test_check_schedule__other_schedulers(scheduler, options):
    with pytest.raises(ValueError, match='after 500 iterations, which is what') as refused:
        check_schedule(config([dict(scheduler, by_epoch=False)], max_iters=1000))
    assert options_in(str(refused.value)) == [f'param_scheduler.{option}' for option in options]


def test_check_schedule__one_scheduler_without_a_list():
    with pytest.raises(ValueError, match=r'`--cfg-options param_scheduler\.end=1000`'):
        check_schedule(config(cosine(0, 500), max_iters=1000))


def test_check_schedule__last_step_without_an_end():
    """A schedule of steps may go on for long at its last rate, but not for most of the run."""
    steps = dict(type='MultiStepLR', by_epoch=True, milestones=[30, 60, 90], gamma=0.1)
    assert check_schedule(config(steps, max_epochs=100)) == []
    with pytest.raises(
        ValueError, match=r'to 0\.001, 0\.1 % of its peak, after 90 epochs.* set milestones, T_max or end'
    ):
        check_schedule(config(steps, max_epochs=400))


def test_check_schedule__epochs_that_are_never_counted():
    (warning,) = check_schedule(config([dict(type='MultiStepLR', milestones=[8, 11], end=12)], max_iters=1000))
    assert warning.startswith(
        'param_scheduler.0 (MultiStepLR) counts epochs, but the run counts iterations, so it never'
    )


def test_check_schedule__scheduler_that_cannot_be_built():
    with pytest.raises(ValueError, match=r'param_scheduler\.0 of the config cannot be built: .*milestone'):
        check_schedule(config([dict(type='MultiStepLR', by_epoch=False, milestone=[8])], max_iters=10))


@pytest.mark.parametrize('path, length', [(DEMO, 600), (LONG, 800), (VITDET, 184375), (UPERNET, 160000)])
def test_schedule_rates__are_those_of_the_formula(path, length):
    """Warm-up and decay at some places of the curve, in whatever steps it was computed."""
    found, warnings = read_schedule(read_config(str(path)))
    assert (found.length, found.end, warnings) == (length, length, [])
    rates = found.rates(length)
    at = {share: rates[int(share * len(rates))] / found.rate for share in (0.1, 0.5, 0.9)}
    begin = {DEMO: 60 / 600, LONG: 40 / 800, UPERNET: 1500 / 160000}.get(path)
    for share, value in at.items():
        if path == VITDET:
            expected = 0.1 if share == 0.9 else 1.0
        elif path == UPERNET:
            expected = 1 - (share - begin) / (1 - begin)
        else:
            expected = (1 + math.cos(math.pi * (share - begin) / (1 - begin))) / 2
        assert value == pytest.approx(expected, abs=2e-3)
