"""Groups from different scenes: the guarantee, the bound on their number, epochs, ranks and bad input."""

from collections import Counter

import numpy as np
import pytest

from mixedae.registry import DATA_SAMPLERS
from object_aware import GroupSampler
from object_aware.sampler import count_groups, deal_groups


class Scenes:
    def __init__(self, scene_ids):
        self.scene_ids = np.asarray(scene_ids)

    def __len__(self):
        return len(self.scene_ids)


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


@pytest.mark.parametrize('group_size', [1, 2, 3, 4, 7])
def test_deal_groups__as_many_groups_of_different_scenes_as_possible(group_size):
    rng = np.random.default_rng(0)
    for trial in range(150):
        scenes = int(rng.integers(1, 30))
        scene_ids = skewed(rng, int(rng.integers(1, 120)), scenes, rng.uniform(0, 3))
        table = deal_groups(scene_ids, group_size, rng if trial % 3 else None)
        assert len(table) == most_groups(scene_ids, group_size)
        assert len(np.unique(table)) == table.size  # each object at most once
        for group in table:
            assert len(set(scene_ids[group].tolist())) == group_size


def test_count_groups__closed_cases():
    assert count_groups(np.array([4, 4, 4, 4]), 4) == 4
    assert count_groups(np.array([100, 1, 1, 1]), 4) == 1
    assert count_groups(np.array([100, 1, 1]), 4) == 0
    assert count_groups(np.array([10, 5, 5]), 2) == 10
    assert count_groups(np.array([11, 5, 5]), 2) == 10


def test_deal_groups__meetings_of_scenes_are_spread_evenly():
    scene_ids = np.repeat(np.arange(16), 4)
    rng = np.random.default_rng(0)
    meetings = np.zeros((16, 16))
    trials = 600
    for _ in range(trials):
        for group in scene_ids[deal_groups(scene_ids, 4, rng)]:
            meetings[np.ix_(group, group)] += 1
    off = meetings[~np.eye(16, dtype=bool)] / trials
    # Each object meets 3 others of 15 scenes, each scene has 4 objects: 0.8 meetings of a pair of scenes on average.
    assert off.mean() == pytest.approx(0.8)
    assert off.min() > 0.65 and off.max() < 0.95


def test_group_sampler__yields_index_and_epoch(caplog):
    dataset = Scenes(np.repeat(np.arange(10), 3))
    sampler = GroupSampler(dataset, 4, seed=1)
    assert len(sampler) == 28 and sampler.num_groups == 7 and sampler.num_dropped == 2
    first = list(sampler)
    assert len(first) == 28
    assert all(isinstance(index, int) and epoch == 0 for index, epoch in first)
    assert first == list(sampler) == list(GroupSampler(dataset, 4, seed=1))
    sampler.set_epoch(1)
    second = list(sampler)
    assert {epoch for _, epoch in second} == {1}
    assert [index for index, _ in second] != [index for index, _ in first]
    assert [index for index, _ in first] != [index for index, _ in GroupSampler(dataset, 4, seed=2)]


def test_group_sampler__every_object_gets_its_turn():
    dataset = Scenes([0] * 50 + list(range(1, 21)))  # one scene is far too large
    sampler = GroupSampler(dataset, 4, seed=0)
    assert sampler.num_groups == 6  # 20 others fill three places of six groups, and two are left over
    seen = set()
    for epoch in range(60):
        sampler.set_epoch(epoch)
        seen |= {index for index, _ in sampler}
    assert seen == set(range(70))


def test_group_sampler__ranks_share_the_groups():
    rng = np.random.default_rng(3)
    scene_ids = skewed(rng, 203, 40, 1.0)
    samplers = [GroupSampler(Scenes(scene_ids), 4, seed=5, rank=rank, world_size=2) for rank in range(2)]
    assert len(samplers[0]) == len(samplers[1]) > 0
    for epoch in range(3):
        parts = []
        for sampler in samplers:
            sampler.set_epoch(epoch)
            part = np.array([index for index, _ in sampler])
            assert len(part) == len(sampler)
            for group in part.reshape(-1, 4):
                assert len(set(scene_ids[group].tolist())) == 4
            parts.append(part)
        assert not set(parts[0].tolist()) & set(parts[1].tolist())
    whole = GroupSampler(Scenes(scene_ids), 4, seed=5)
    assert len(whole) - 2 * len(samplers[0]) in (0, 4)


def test_group_sampler__without_shuffle_the_order_is_fixed():
    sampler = GroupSampler(Scenes(np.repeat(np.arange(6), 2)), 3, shuffle=False)
    first = [index for index, _ in sampler]
    sampler.set_epoch(3)
    assert [index for index, _ in sampler] == first


def test_group_sampler__a_dataset_without_scenes():
    sampler = GroupSampler(list(range(10)), 4, seed=None)
    assert sorted(index for index, _ in sampler)[0] >= 0
    assert len(set(sampler)) == 8


def test_group_sampler__bad_input():
    with pytest.raises(ValueError, match=r'9 items of 3 scenes give 0 groups of 4 different scenes, but 1 are needed'):
        GroupSampler(Scenes([0, 1, 2] * 3), 4)
    with pytest.raises(ValueError, match=r'give 1 groups .* but 2 are needed'):
        GroupSampler(Scenes([0, 1, 2, 3]), 4, rank=0, world_size=2)
    with pytest.raises(ValueError, match='group_size must be at least 1'):
        GroupSampler([1, 2], 0)
    dataset = Scenes([0, 1, 2])
    dataset.__class__ = type('Longer', (Scenes,), {'__len__': lambda self: 5})
    with pytest.raises(ValueError, match='has 5 items but 3 scene_ids'):
        GroupSampler(dataset, 1)
    sampler = GroupSampler([0] * 8, 4)
    sampler.check_batch_size(8)
    with pytest.raises(ValueError, match='The batch size 6 of each process is not a multiple of the group size 4'):
        sampler.check_batch_size(6)


def test_group_sampler__registered():
    sampler = DATA_SAMPLERS.build(
        dict(type='mixedae.GroupSampler', group_size=2), default_args=dict(dataset=list(range(4)), seed=3)
    )
    assert isinstance(sampler, GroupSampler) and sampler.seed == 3
