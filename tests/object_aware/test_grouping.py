"""Arranging groups: different scenes, the bound on their number, colours, spares."""

from collections import Counter

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_flow

from object_aware.grouping import (
    count_coloured_groups,
    count_groups,
    deal_coloured_groups,
    deal_groups,
    draw_spares,
    repeating_rows,
    runs_of,
    size_bins,
)


def skewed(rng, objects, scenes, power=1.5):
    weights = 1 / np.arange(1, scenes + 1) ** power
    return rng.choice(scenes, objects, p=weights / weights.sum()) * 7 - 3  # ids need not be dense or positive


def most_groups(scene_ids, group_size):
    """Greedy oracle: always take one object of the scenes with the most objects left. Optimal for this problem."""
    left = Counter(np.asarray(scene_ids).tolist())
    groups = 0
    while len(largest := left.most_common(group_size)) == group_size:
        for scene, _ in largest:
            left[scene] -= 1
            if not left[scene]:
                del left[scene]
        groups += 1
    return groups


def test_runs_of__sorted_and_unsorted_keys():
    runs = runs_of(np.array([2, 2, 5, 9, 9, 9]))
    assert runs.order is None and runs.starts.tolist() == [0, 2, 3, 6] and runs.sizes.tolist() == [2, 1, 3]
    runs = runs_of(np.array([9, 2, 9, 5]))
    assert runs.order.tolist() == [1, 3, 0, 2] and runs.starts.tolist() == [0, 1, 2, 4]
    assert runs_of(np.array([], dtype=np.int64)).sizes.tolist() == []


@pytest.mark.parametrize('group_size', [1, 2, 3, 4, 7])
def test_deal_groups__as_many_groups_of_different_scenes_as_possible(group_size):
    rng = np.random.default_rng(0)
    for trial in range(150):
        scene_ids = skewed(rng, int(rng.integers(1, 120)), int(rng.integers(1, 30)), rng.uniform(0, 3))
        runs = runs_of(np.sort(scene_ids) if trial % 2 else scene_ids)
        scene_ids = np.sort(scene_ids) if trial % 2 else scene_ids
        groups = count_groups(runs.sizes, group_size)
        assert groups == most_groups(scene_ids, group_size)
        table = deal_groups(runs, group_size, groups, rng if trial % 3 else None)
        assert table.shape == (groups, group_size)
        assert len(np.unique(table)) == table.size  # each object at most once
        for group in table:
            assert len(set(scene_ids[group].tolist())) == group_size


def test_deal_groups__scenes_that_run_over_an_edge_of_columns():
    # Three scenes of 2n/3 objects in two columns: the middle one always runs over, and so may share rows.
    runs = runs_of(np.repeat(np.arange(3), 20))
    for seed in range(50):
        table = deal_groups(runs, 2, 30, np.random.default_rng(seed)) // 20
        assert np.all(table[:, 0] != table[:, 1])
    full = runs_of(np.repeat(np.arange(2), 30))  # each fills a column
    assert np.all(np.sort(deal_groups(full, 2, 30, np.random.default_rng(0)) // 30, axis=1) == [0, 1])


def test_deal_groups__rows_are_a_part_of_the_whole_table():
    runs = runs_of(np.repeat(np.arange(50), 5))
    whole = deal_groups(runs, 4, 60, np.random.default_rng(7))
    for rank in range(3):
        part = deal_groups(runs, 4, 60, np.random.default_rng(7), slice(rank, 58, 3))
        assert np.array_equal(part, whole[rank:58:3])


def test_deal_groups__more_groups_than_can_be():
    with pytest.raises(ValueError, match='4 groups of 2 cannot be formed of runs that allow 7 objects'):
        deal_groups(runs_of(np.array([0] * 10 + [1, 2, 3])), 2, 4, None)


def test_count_groups__closed_cases():
    assert count_groups(np.array([4, 4, 4, 4]), 4) == 4
    assert count_groups(np.array([100, 1, 1, 1]), 4) == 1
    assert count_groups(np.array([100, 1, 1]), 4) == 0
    assert count_groups(np.array([10, 5, 5]), 2) == 10
    assert count_groups(np.array([11, 5, 5]), 2) == 10


def test_deal_groups__meetings_of_scenes_are_spread_evenly():
    runs = runs_of(np.repeat(np.arange(16), 4))
    rng = np.random.default_rng(0)
    meetings = np.zeros((16, 16))
    trials = 600
    for _ in range(trials):
        for group in deal_groups(runs, 4, 16, rng) // 4:
            meetings[np.ix_(group, group)] += 1
    off = meetings[~np.eye(16, dtype=bool)] / trials
    # Each object meets 3 others of 15 scenes, each scene has 4 objects: 0.8 meetings of a pair of scenes on average.
    assert off.mean() == pytest.approx(0.8)
    assert off.min() > 0.65 and off.max() < 0.95


def test_deal_groups__objects_of_a_scene_too_large_take_turns_evenly():
    runs = runs_of(np.array([0] * 40 + list(range(1, 21))))
    rng = np.random.default_rng(0)
    seen = np.zeros(60)
    for _ in range(2000):
        np.add.at(seen, deal_groups(runs, 2, 20, rng).reshape(-1), 1)
    assert np.all(seen[40:] == 2000)  # the small scenes are in every epoch
    assert seen[:40].mean() == 1000 and seen[:40].std() < 2 * np.sqrt(2000 * 0.25)


def coloured(rng, objects, scenes, colours, power):
    return np.sort(rng.integers(scenes, size=objects)), skewed(rng, objects, colours, power)


def most_coloured_groups(scene_of, colour_of, group_size):
    """Oracle by maximum flow: n groups can be if a flow of g * n goes scene (n) -> colour (n), an edge an object."""
    scenes, s = np.unique(scene_of, return_inverse=True)
    colours, c = np.unique(colour_of, return_inverse=True)
    cells = np.zeros((len(scenes), len(colours)), dtype=np.int32)
    np.add.at(cells, (s, c), 1)
    best = 0
    for groups in range(1, len(scene_of) // group_size + 1):
        size = len(scenes) + len(colours) + 2
        graph = np.zeros((size, size), dtype=np.int32)
        graph[0, 1 : 1 + len(scenes)] = groups
        graph[1 : 1 + len(scenes), 1 + len(scenes) : -1] = cells
        graph[1 + len(scenes) : -1, -1] = groups
        if maximum_flow(csr_matrix(graph), 0, size - 1).flow_value >= group_size * groups:
            best = groups
    return best


@pytest.mark.parametrize('seed', range(40))
def test_deal_coloured_groups__scenes_and_colours_differ_in_as_many_groups_as_can_be(seed):
    rng = np.random.default_rng(seed)
    objects, group_size = int(rng.integers(20, 90)), int(rng.integers(2, 5))
    scene_of, colour_of = coloured(rng, objects, int(rng.integers(5, 30)), int(rng.integers(4, 9)), rng.uniform(0, 1.5))
    if seed % 4 == 0:
        scene_of[: objects // 2] = 0  # half of all objects in one scene
    groups, runs = count_coloured_groups(scene_of, colour_of, group_size)
    most = most_coloured_groups(scene_of, colour_of, group_size)
    if np.unique(scene_of, return_counts=True)[1].max() <= groups:
        assert groups == most > 0
    else:
        assert most - 1 <= groups <= most
    table = deal_coloured_groups(scene_of, colour_of, runs, group_size, groups, rng if seed % 3 else None)
    assert table.shape == (groups, group_size) and len(np.unique(table)) == table.size
    for group in table:
        assert len(set(scene_of[group].tolist())) == len(set(colour_of[group].tolist())) == group_size


def test_deal_coloured_groups__no_room_at_all():
    """Five scenes of five colours, every object in a group: all degrees are full, and still each split succeeds."""
    scene_of, colour_of = np.divmod(np.arange(5 * 5 * 8), 40)
    colour_of //= 8
    groups, runs = count_coloured_groups(scene_of, colour_of, 5)
    assert groups == 40 and runs.starts[-1] == 200
    for seed in range(10):
        table = deal_coloured_groups(scene_of, colour_of, runs, 5, 40, np.random.default_rng(seed))
        assert len(repeating_rows(scene_of, table)) == len(repeating_rows(colour_of, table)) == 0


def test_draw_spares__no_scene_of_the_group_or_of_another_spare():
    rng = np.random.default_rng(0)
    scene_of = np.sort(rng.integers(60, size=500))
    table = deal_groups(runs_of(scene_of), 4, 100, rng)
    rows = np.arange(3, 90)
    spares = draw_spares(table, scene_of, rows, 2)
    assert spares.shape == (87, 4, 2)
    assert (spares >= 0).all()
    for row, drawn in zip(rows, spares):
        assert len(set(scene_of[table[row]].tolist()) | set(scene_of[drawn.reshape(-1)].tolist())) == 12
    part = draw_spares(table, scene_of, rows[10:20], 2)
    assert np.array_equal(part, spares[10:20])  # a group's spares do not depend on what else is asked for


def test_draw_spares__none_where_no_other_scenes_are():
    scene_of = np.repeat(np.arange(4), 5)
    table = deal_groups(runs_of(scene_of), 4, 5, None)
    assert (draw_spares(table, scene_of, np.arange(5), 1) == -1).all()


def test_size_bins__equal_numbers():
    assert size_bins(np.array([5.0, 1, 9, 7, 3, 3]), 3).tolist() == [1, 0, 2, 2, 0, 1]
    assert np.bincount(size_bins(np.zeros(10), 4)).tolist() == [3, 2, 3, 2]
