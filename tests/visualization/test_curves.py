"""Reading scalars and drawing them."""

import json

import numpy as np
import pytest

from mixedae.visualization import curves, read_scalars, smooth, to_svg


def write(folder, rows, tail=''):
    file = folder / 'vis_data' / 'scalars.json'
    file.parent.mkdir(parents=True)
    file.write_text(''.join(json.dumps(row) + '\n' for row in rows) + tail)


def test_read_scalars__values_by_step(tmp_path):
    write(tmp_path / 'a', [{'loss': 2.0, 'step': 10, 'iter': 10}, {'topk_acc/layer_00': 0.5, 'step': 15}])
    scalars = read_scalars(tmp_path)
    assert set(scalars) == {'loss', 'topk_acc/layer_00'}
    np.testing.assert_array_equal(scalars['loss'][0], [10])
    np.testing.assert_array_equal(scalars['topk_acc/layer_00'][1], [0.5])


def test_read_scalars__later_file_of_a_resumed_run_wins(tmp_path):
    write(tmp_path / '20260101_000000', [{'loss': 3.0, 'step': 1}, {'loss': 2.0, 'step': 2}])
    write(tmp_path / '20260102_000000', [{'loss': 1.5, 'step': 2}, {'loss': 1.0, 'step': 3}])
    steps, values = read_scalars(tmp_path)['loss']
    np.testing.assert_array_equal(steps, [1, 2, 3])
    np.testing.assert_array_equal(values, [3.0, 1.5, 1.0])


def test_read_scalars__last_line_cut_off(tmp_path):
    write(tmp_path / 'a', [{'loss': 2.0, 'step': 1}], tail='{"loss": 1.')
    np.testing.assert_array_equal(read_scalars(tmp_path)['loss'][1], [2.0])


def test_read_scalars__damaged_line_is_named(tmp_path):
    write(tmp_path / 'a', [], tail='nonsense\n{"loss": 1.0, "step": 1}\n')
    with pytest.raises(ValueError, match='line 1 is not JSON'):
        read_scalars(tmp_path)


def test_read_scalars__times_of_validations_are_left_out(tmp_path):
    write(
        tmp_path / 'a', [{'lr': 0.1, 'time': 2.0, 'step': 1}, {'mIoU': 30.0, 'time': 9.0, 'data_time': 8.0, 'step': 1}]
    )
    scalars = read_scalars(tmp_path)
    assert set(scalars) == {'lr', 'time', 'mIoU'}
    np.testing.assert_array_equal(scalars['time'][1], [2.0])


def test_read_scalars__only_some_starts(tmp_path):
    write(tmp_path / '20260101_000000', [{'loss': 3.0, 'step': 1}])
    write(tmp_path / '20260102_000000', [{'loss': 1.5, 'step': 2}])
    np.testing.assert_array_equal(read_scalars(tmp_path, ['20260102_000000'])['loss'][0], [2])


def test_read_scalars__no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'no vis_data/scalars\.json'):
        read_scalars(tmp_path)


@pytest.mark.parametrize('window', [1, 2, 3, 5, 50])
def test_smooth__is_the_mean_of_its_window(window):
    values = np.random.default_rng(0).normal(size=20)
    half = window // 2 if window > 1 else 0
    expected = [values[max(0, i - half) : i + half + 1].mean() for i in range(20)]
    np.testing.assert_allclose(smooth(values, window), expected, rtol=1e-12)


def test_curves__lines_hold_the_values():
    figure = curves({'a': ([1, 2, 3], [5.0, 4.0, 3.0]), 'b': [(1, 1.0), (2, 2.0)], 'none': ([], [])})
    lines = figure.axes[0].get_lines()
    assert [line.get_ydata().tolist() for line in lines] == [[5.0, 4.0, 3.0], [1.0, 2.0]]
    assert {text.get_text() for text in figure.axes[0].texts} == {'a', 'b'}


def test_curves__end_labels_do_not_overlap():
    figure = curves({name: ([0, 1], [0.0, 1.0]) for name in 'abcd'}, ylim=(0, 1))
    heights = sorted(text.xy[1] for text in figure.axes[0].texts)
    assert np.diff(heights).min() >= 0.0749


def test_curves__reference_line_at_its_value():
    figure = curves({'a': ([0, 1], [0.2, 0.6])}, reference=(0.25, 'chance'))
    dashed = figure.axes[0].get_lines()[-1]
    assert dashed.get_ydata() == [0.25, 0.25]


def test_curves__leaves_pyplot_alone():
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    curves({'a': ([0, 1], [0.0, 1.0])})
    assert pyplot.get_fignums() == before


def test_to_svg__follows_the_theme_and_repeats_itself():
    svg = to_svg(curves({'a': ([0, 1], [0.0, 1.0])}), 'loss')
    assert svg == to_svg(curves({'a': ([0, 1], [0.0, 1.0])}), 'loss')
    assert 'var(--s0)' in svg and 'var(--ink)' in svg
    assert '#2563c9' not in svg
    assert '<text' in svg  # text stays text
    assert 'http' not in svg
    assert '<style' not in svg


def test_to_svg__ids_differ_between_figures():
    import re

    one, two = (to_svg(curves({'a': ([0, 1], [0.0, 1.0])}), label) for label in ('first', 'second'))
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (one, two)]
    assert not ids[0] & ids[1]
    for svg, own in ((one, ids[0]), (two, ids[1])):
        assert set(re.findall(r'url\(#([^)]+)\)', svg)) <= own
