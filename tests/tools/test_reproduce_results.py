"""What tools/reproduce.py makes of finished runs: claims, tables, the figure, the published page."""

import json
import math

import pytest

from tools.reproduce_parts import claims, tables
from tools.reproduce_parts.claims import FAILS, HOLDS, OPEN, Judgement, judge, overall
from tools.reproduce_parts.figures import transfer_figure
from tools.reproduce_parts.results import BEGIN, END, merge, publish, read_metrics


def test_judge__holds_only_with_three_seeds_one_sign_and_more_than_the_spread():
    worse = {0: 10.0, 1: 10.5, 2: 11.0}  # variance 0.25
    better = {0: 12.0, 1: 12.5, 2: 13.0, 7: 99.0}  # variance 0.25; seed 7 has no partner
    found = judge(better, worse)
    assert (found.seeds, found.difference, found.verdict) == (3, 2.0, HOLDS)
    assert found.deviation == pytest.approx(0.5)
    assert judge(worse, better).verdict == FAILS
    assert judge({0: 12.0, 1: 12.5}, worse).verdict == OPEN  # two seeds
    assert judge({0: 10.2, 1: 10.7, 2: 11.2}, worse).verdict == OPEN  # 0.2 is less than 0.5
    assert judge({0: 9.9, 1: 13.5, 2: 14.0}, worse).verdict == OPEN  # one seed the other way
    assert judge({5: 1.0}, worse) is None


def test_judge__one_seed_has_no_deviation():
    found = judge({0: 2.0}, {0: 1.0})
    assert found.verdict == OPEN and math.isnan(found.deviation) and found.difference == 1.0


@pytest.mark.parametrize(
    ('verdicts', 'expected'),
    [
        ([HOLDS, HOLDS, OPEN], HOLDS),
        ([HOLDS, OPEN], OPEN),
        ([HOLDS, HOLDS, HOLDS, FAILS], OPEN),
        ([FAILS, FAILS, OPEN], FAILS),
        ([], OPEN),
    ],
)
def test_overall__more_than_half_and_none_against(verdicts, expected):
    assert overall([Judgement('m', 3, 0.0, 0.0, verdict) for verdict in verdicts]) == expected


def runs():
    rows = []
    for variant, start in (('mae', 20.0), ('mixedae', 23.0)):
        for seed in range(3):
            rows.append(
                dict(
                    variant=variant, seed=seed, metrics={'camvid_miou': start + seed}, iterations=10, batch=64,
                    images=640, operations_per_image=2e6, operations=1.28e9, pretrain_seconds=60.0 + seed,
                    pretrain_cpu_seconds=None if seed else 50.0,
                    finished='2026-01-01 00:00 UTC', hardware='a CPU', commit='a' * 40 + '+',
                    fingerprint=f'{variant} {seed}', seconds={}, commits={'camvid': 'b' * 40},
                )
            )  # fmt: skip
    rows[0]['metrics']['knn_mean'] = 30.0
    return rows


def test_claims__are_of_variants_and_measures_that_are_there():
    for claim, judgements in claims.judge_all(runs()):
        assert set(claim.measures) <= set(tables.MEASURES)
        expected = {'camvid_miou'} if (claim.better, claim.worse) == ('mixedae', 'mae') else set()
        assert {judgement.measure for judgement in judgements} == expected & set(claim.measures)


def test_cell__mean_deviation_and_number_of_seeds():
    assert tables.cell([]) == '-'
    assert tables.cell([41.26]) == '41.3 (1)'
    assert tables.cell([1.0, 2.0, 3.0]) == '2.0 ± 1.0 (3)'


def test_measure_table__by_value():
    assert tables.measure_table(runs(), tables.TRANSFER).splitlines() == [
        '| pre-training | CamVid mIoU, fine-tuned | kNN |',
        '| --- | --- | --- |',
        '| MAE | 21.0 ± 1.0 (3) | 30.0 (1) |',
        '| MixedAE | 24.0 ± 1.0 (3) | - |',
    ]


def test_measure_table__small_values_have_two_decimals():
    rows = [run | dict(metrics={'dense_ade': 2 + run['seed'] / 16}) for run in runs()]
    assert tables.measure_table(rows, tables.TRANSFER).splitlines()[-1] == '| MixedAE | 2.06 ± 0.06 (3) |'
    assert 'frozen +0.00 (pooled sd 0.06, 3 seeds)' in tables.claim_table(rows)
    rows[-1]['metrics']['dense_ade'] = 10.0
    assert tables.measure_table(rows, tables.TRANSFER).splitlines()[2] == '| MAE | 2.1 ± 0.1 (3) |'


def test_cost_table__by_value():
    assert tables.cost_table(runs()).splitlines()[-1] == (
        '| MixedAE | object crops | 10 x 64 | 640 | 2.0 | 0.00 | 1 min 01 s (3) | 50 s (1) |'
    )


def test_page__claim_with_its_numbers():
    text = tables.page(dict(budget='cpu', runs=runs(), versions={'torch': '2.0'}))
    assert 'Finished pre-trainings: 6 (seed 0: 2, seed 1: 2, seed 2: 2)' in text
    assert (
        '| MixedAE is better than MAE | paper | **holds** | MixedAE - MAE | '
        'CamVid mIoU, fine-tuned +3.0 (pooled sd 1.0, 3 seeds): holds |'
    ) in text
    assert '| [CLS] in the decoder helps | open choice of the method | **not run** |' in text
    assert 'a CPU. torch 2.0. Commits of the stages: aaaaaaaa+, bbbbbbbb (+' in text
    assert tables.page(dict(budget='cpu', runs=[], versions={})) == 'No pre-training is finished yet.\n'


def test_transfer_figure__a_dot_for_each_run():
    figure = transfer_figure(runs())
    panel = figure.axes[0]
    dots = [line.get_xdata().tolist() for line in panel.lines if line.get_marker() == 'o']
    assert dots == [[20.0, 21.0, 22.0], [23.0, 24.0, 25.0]]
    assert transfer_figure([]) is None


def test_publish__puts_results_between_the_markers(tmp_path):
    (tmp_path / 'images').mkdir()
    page = tmp_path / 'results.md'
    page.write_text(f'before\n{BEGIN}\noutdated\n{END}\nafter\n')
    results = dict(budget='cpu', settings={}, runs=runs(), versions={})
    for _ in range(2):  # a second time changes nothing
        publish(results, tmp_path)
    text = page.read_text()
    assert text.startswith(f'before\n{BEGIN}\n') and text.endswith(f'{END}\nafter\n')
    assert 'outdated' not in text and text.count('### Claims') == 1 and '(images/results.png)' in text
    assert json.loads((tmp_path / 'images' / 'results.json').read_text())['runs'][0]['variant'] == 'mae'
    assert (tmp_path / 'images' / 'results.png').stat().st_size > 1000
    page.write_text('no markers')
    with pytest.raises(ValueError, match='lacks the lines'):
        publish(results, tmp_path)


def test_merge__runs_and_measures_from_elsewhere_stay(tmp_path):
    old = dict(budget='cpu', settings=dict(lr=1), runs=runs(), versions=dict(torch='2.11', numba='0.68'))
    new = dict(old, runs=[dict(row, hardware='another') for row in runs()[:3]], versions=dict(torch='2.12', timm='1'))
    again, changed, longer = new['runs']
    again.update(metrics=dict(knn_mean=31.0, person_box=0.5), seconds=dict(person=7.0), commits=dict(person='c'))
    changed.update(fingerprint='another config', metrics=dict(knn_mean=1.0))
    longer.update(variant='no_segment')
    found = merge(old, new, tmp_path)
    rows = {(row['variant'], row['seed']): row for row in found['runs']}
    assert list(rows) == [
        ('mae', 0), ('mixedae', 0), ('mae', 1), ('mixedae', 1), ('mae', 2), ('mixedae', 2), ('no_segment', 2),
    ]  # fmt: skip
    assert rows['mae', 0]['metrics'] == dict(camvid_miou=20.0, knn_mean=31.0, person_box=0.5)
    assert rows['mae', 0]['hardware'] == 'another' and rows['mae', 0]['seconds'] == dict(person=7.0)
    assert rows['mae', 0]['commits'] == dict(camvid='b' * 40, person='c')
    assert rows['mae', 1]['metrics'] == dict(knn_mean=1.0), 'another run: its old measures are gone'
    assert rows['mixedae', 2] == old['runs'][5]
    assert found['versions'] == dict(torch='2.11 and 2.12', numba='0.68', timm='1')
    assert merge(None, new, tmp_path) is new
    assert merge(found, new, tmp_path) == found
    for other in (dict(new, budget='gpu'), dict(new, settings=dict(lr=2)), dict(new, settings=dict(lr=1, blocks=3))):
        with pytest.raises(ValueError, match='holds results of budget cpu with other settings: take another folder'):
            merge(old, other, tmp_path)


def test_merge__an_evaluation_may_change_as_long_as_it_has_no_figures(tmp_path):
    rows = [dict(row, seconds=dict(camvid=3.0)) for row in runs()]
    old = dict(budget='cpu', settings=dict(tasks=['probe'], person=4, camvid=1), runs=rows, versions={})
    new = dict(old, settings=dict(tasks=['person'], person=5, camvid=1))
    assert merge(old, new, tmp_path)['settings'] == new['settings']
    for changed in (dict(new['settings'], camvid=2), dict(tasks=[], person=5)):
        with pytest.raises(ValueError, match='with other settings'):
            merge(old, dict(new, settings=changed), tmp_path)
    measured = [dict(row, seconds=dict(person=3.0)) for row in rows]
    with pytest.raises(ValueError, match='with other settings'):
        merge(dict(old, runs=measured), new, tmp_path)


def test_read_metrics__names_and_per_cent(tmp_path):
    file = tmp_path / 'metrics.json'

    def read(task, content):
        file.write_text(json.dumps(content))
        return read_metrics(task, file)

    assert read('probe', {'knn_mean': 0.25}) == {'knn_mean': 25.0}
    assert read('dense', {'ade': 7.5}) == {'dense_ade': 7.5}
    assert read('camvid', {'mIoU': 31.0, 'aAcc': 70.0}) == {'camvid_miou': 31.0}
    assert read('ade', {'mIoU': 2.0}) == {'ade_miou': 2.0}
    assert read('super12', {'box': 0.125, 'box50': 0.25, 'mask': 0.0}) == {
        'super12_box': 12.5,
        'super12_box50': 25.0,
        'super12_mask': 0.0,
    }
    layers = {'layers': [{'topk_acc': 0.25}, {'topk_acc': 0.75}]}
    assert read('topk', {'models': {'model': layers}}) == {'topk_last': 75.0, 'topk_mean': 50.0}
