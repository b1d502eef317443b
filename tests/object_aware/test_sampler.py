"""The samplers: groups by the key, epochs, ranks, positions and resume, classes and sizes, bad input."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.runner.loops import _InfiniteDataloaderIterator
from torch.utils.data import DataLoader, Dataset

from mixedae.registry import DATA_SAMPLERS
from object_aware import GroupSampler, InfiniteGroupSampler
from object_aware.sampler import _BLOCK


class Scenes:
    def __init__(self, scene_ids):
        self.scene_ids = np.asarray(scene_ids)

    def __len__(self):
        return len(self.scene_ids)


def skewed(rng, objects, scenes, power=1.5):
    weights = 1 / np.arange(1, scenes + 1) ** power
    return rng.choice(scenes, objects, p=weights / weights.sum()) * 7 - 3  # ids need not be dense or positive


def test_group_sampler__yields_index_and_epoch(caplog):
    dataset = Scenes(np.repeat(np.arange(10), 3))
    sampler = GroupSampler(dataset, 4, seed=1)
    assert len(sampler) == 28 and sampler.num_groups == 7 and sampler.num_dropped == 2
    first = list(sampler)
    assert len(first) == 28
    assert all(isinstance(index, int) and epoch == 0 for index, epoch, *_ in first)
    assert first == list(sampler) == list(GroupSampler(dataset, 4, seed=1))
    sampler.set_epoch(1)
    second = list(sampler)
    assert {epoch for _, epoch, *_ in second} == {1}
    assert [index for index, *_ in second] != [index for index, *_ in first]
    assert [index for index, *_ in first] != [index for index, *_ in GroupSampler(dataset, 4, seed=2)]


def test_group_sampler__every_object_gets_its_turn():
    dataset = Scenes([0] * 50 + list(range(1, 21)))  # one scene is far too large
    sampler = GroupSampler(dataset, 4, seed=0)
    assert sampler.num_groups == 6  # 20 others fill three places of six groups, and two are left over
    seen = set()
    for epoch in range(60):
        sampler.set_epoch(epoch)
        seen |= {index for index, *_ in sampler}
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
            part = np.array([index for index, *_ in sampler])
            assert len(part) == len(sampler)
            for group in part.reshape(-1, 4):
                assert len(set(scene_ids[group].tolist())) == 4
            parts.append(part)
        assert not set(parts[0].tolist()) & set(parts[1].tolist())
    whole = GroupSampler(Scenes(scene_ids), 4, seed=5)
    assert len(whole) - 2 * len(samplers[0]) in (0, 4)


def test_group_sampler__without_shuffle_the_order_is_fixed():
    sampler = GroupSampler(Scenes(np.repeat(np.arange(6), 2)), 3, shuffle=False)
    first = [index for index, *_ in sampler]
    sampler.set_epoch(3)
    assert [index for index, *_ in sampler] == first


def test_group_sampler__a_dataset_without_scenes():
    sampler = GroupSampler(list(range(10)), 4, seed=None)
    assert sorted(index for index, *_ in sampler)[0] >= 0
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


class Labelled(Scenes):
    def __init__(self, rng, objects=800, scenes=90, classes=9):
        super().__init__(np.sort(rng.integers(scenes, size=objects)))
        self.class_ids = skewed(rng, objects, classes, 1.0)
        self.window_areas = rng.lognormal(size=objects)


class Loaded(Dataset):
    """Hands the key on, so that a loader shows what the sampler gave; counts nothing and decodes nothing."""

    def __init__(self, scene_ids):
        self.scene_ids = scene_ids

    def __len__(self):
        return len(self.scene_ids)

    def __getitem__(self, key):
        return torch.tensor(key)


def test_group_sampler__blocks_do_not_show():
    """More groups than a block holds: nothing is lost or doubled at its edges, whatever the number of ranks."""
    scene_ids = np.repeat(np.arange((_BLOCK + 500) * 2), 2)
    parts = {}
    for world in (1, 3):
        samplers = [GroupSampler(Scenes(scene_ids), 4, seed=1, rank=r, world_size=world) for r in range(world)]
        ranks = [np.array([index for index, *_ in sampler]).reshape(-1, 4) for sampler in samplers]
        assert all(len(rows) == samplers[0].num_groups for rows in ranks)
        parts[world] = np.stack(ranks, axis=1).reshape(-1, 4)  # group j of the epoch went to rank j % world
        assert len(np.unique(parts[world])) == parts[world].size
    assert np.array_equal(parts[3], parts[1][: len(parts[3])])  # the same groups in the same order


@pytest.mark.parametrize('kind', ['scene', 'class', 'size'])
@pytest.mark.parametrize('rank', [0, 1])
def test_group_sampler__goes_on_where_it_stood(kind, rank):
    dataset = Labelled(np.random.default_rng(0))

    def new():
        return GroupSampler(dataset, 4, seed=3, rank=rank, world_size=2, differ=kind)

    whole = {}
    for epoch in range(3):
        sampler = new()
        sampler.set_epoch(epoch)
        whole[epoch] = list(sampler)
    for epoch, done in ((0, 0), (0, 40), (2, 8), (1, len(sampler) - 4)):
        sampler = new()
        sampler.load_state_dict(sampler.state_dict(epoch, done))
        sampler.set_epoch(epoch)  # MMEngine's hook says the same epoch: the position stays
        assert list(sampler) == whole[epoch][done:]
        assert list(sampler) == whole[epoch]  # only the first iteration leaves something out
        sampler.set_position(epoch, done)
        sampler.set_epoch(epoch + 1)
        assert len(list(sampler)) == len(sampler)
    sampler.set_position(0, len(sampler))
    assert sampler.state_dict()['epoch'] == 1 and list(sampler) == whole[1]


@pytest.mark.parametrize('workers', [0, 2])
def test_group_sampler__resume_with_loader_workers(workers):
    dataset = Loaded(np.repeat(np.arange(40), 3))

    def loader(sampler, workers):
        return DataLoader(dataset, batch_size=8, sampler=sampler, num_workers=workers, drop_last=True)

    expected = [batch.tolist() for batch in loader(GroupSampler(dataset, 4, seed=1), 0)]
    sampler = GroupSampler(dataset, 4, seed=1)
    batches = iter(loader(sampler, workers))
    before = [next(batches).tolist() for _ in range(5)]  # workers have taken more keys by now than were consumed
    state = sampler.state_dict(epoch=0, samples_done=5 * 8)
    resumed = GroupSampler(dataset, 4, seed=1)
    resumed.load_state_dict(state)
    assert before + [batch.tolist() for batch in loader(resumed, workers)] == expected


def test_group_sampler__a_state_of_other_data_is_refused():
    state = GroupSampler(Scenes(np.arange(20)), 4, seed=1).state_dict(2, 8)
    other = np.arange(20)
    other[3] = 2
    with pytest.raises(ValueError, match=r'does not fit: checksum was \d+ and is \d+. Resume with the same data'):
        GroupSampler(Scenes(other), 4, seed=1).load_state_dict(state)
    with pytest.raises(ValueError, match='does not fit: group_size was 4 and is 5, seed was 1 and is 2'):
        GroupSampler(Scenes(np.arange(20)), 5, seed=2).load_state_dict(state)
    sampler = GroupSampler(Scenes(np.arange(20)), 4, seed=1)
    for done in (-4, 6, 24):
        with pytest.raises(ValueError, match=f'must be a multiple of the group size 4 in 0..20, not {done}'):
            sampler.set_position(0, done)
    with pytest.raises(ValueError, match='takes epoch and samples_done together'):
        sampler.state_dict(samples_done=4)


def test_group_sampler__another_number_of_processes_goes_on_with_new_groups():
    dataset = Scenes(np.repeat(np.arange(60), 4))
    old = [GroupSampler(dataset, 4, seed=2, rank=rank, world_size=2) for rank in range(2)]
    seen = {index for sampler in old for index, *_ in list(sampler)[:20]}
    new = [GroupSampler(dataset, 4, seed=2, rank=rank, world_size=3) for rank in range(3)]
    lengths = []
    for sampler in new:
        sampler.load_state_dict(old[0].state_dict(0, 20))
        rest = [index for index, *_ in sampler]
        lengths.append(len(rest))
        assert not seen & set(rest)
        seen |= set(rest)
    assert len(set(lengths)) == 1
    assert len(seen) >= 240 - 4 * 5  # at most what fills up two rounds of the ranks is lost


def test_group_sampler__class_and_size_differ():
    dataset = Labelled(np.random.default_rng(4))
    bins = np.argsort(np.argsort(dataset.window_areas, kind='stable')) * 4 // len(dataset)
    for kind, colour in (('class', dataset.class_ids), ('size', bins)):
        sampler = GroupSampler(dataset, 4, seed=1, differ=('scene', kind))
        for epoch in range(2):
            sampler.set_epoch(epoch)
            groups = np.array([index for index, *_ in sampler]).reshape(-1, 4)
            assert len(np.unique(groups)) == groups.size == len(sampler)
            for group in groups:
                assert len(set(colour[group].tolist())) == len(set(dataset.scene_ids[group].tolist())) == 4
        if kind == 'class':  # a commonest class of more than a quarter bounds the groups: the rest / 3
            commonest = np.unique(dataset.class_ids, return_counts=True)[1].max()
            assert commonest > 200 and sampler.num_groups == (800 - commonest) // 3
        else:
            assert sampler.num_groups == 200
        # No column gives the class away: each place in the group sees every class.
        assert all(len(set(colour[groups[:, k]].tolist())) == len(set(colour.tolist())) for k in range(4))


def test_group_sampler__classes_of_a_crop_index():
    class Index:
        targets = np.array([0, 2, -1, 3])
        classes = np.array([5, 0, 6, 7])
        windows = np.array([[0, 0, 4, 4], [0, 0, 1, 1], [0, 0, 9, 9], [0, 0, 2, 2]], dtype=np.float32)

    dataset = Scenes([0, 1, 2, 3])
    dataset.index = Index
    assert GroupSampler(dataset, 4, differ='class').num_groups == 1
    assert GroupSampler(dataset, 2, differ='size').num_groups == 2
    for kind, name in (('class', 'class_ids'), ('size', 'window_areas')):
        with pytest.raises(ValueError, match=f'Scenes has no {name}'):
            GroupSampler(Scenes([0, 1]), 2, differ=kind)
    with pytest.raises(ValueError, match=r"differ must be 'scene', 'class' or 'size'"):
        GroupSampler(dataset, 2, differ=('class', 'size'))
    Index.classes = np.zeros(4, dtype=np.int64)
    with pytest.raises(ValueError, match='4 items of 4 scenes and 2 classes give 0 groups of 4 different scenes and'):
        GroupSampler(dataset, 4, differ='class')


def test_group_sampler__keys_carry_spares():
    rng = np.random.default_rng(0)
    dataset = Scenes(np.sort(rng.integers(50, size=300)))
    plain = list(GroupSampler(dataset, 4, seed=1, spares=0))
    keys = list(GroupSampler(dataset, 4, seed=1, spares=2))
    assert [key[:2] for key in keys] == plain
    for group in np.array(keys).reshape(-1, 4, 4):
        assert len(set(dataset.scene_ids[group[:, [0, 2, 3]].reshape(-1)].tolist())) == 12
    with pytest.raises(ValueError, match='spares must be at least 0'):
        GroupSampler(dataset, 4, spares=-1)


def test_group_sampler__local_data_uses_all_groups():
    dataset = Scenes(np.arange(41))
    sampler = GroupSampler(dataset, 4, rank=3, world_size=8, local_data=True)
    assert sampler.num_groups == 10 and len({index for index, *_ in sampler}) == 40
    with pytest.raises(ValueError, match='of 8 processes and there are 4: with data of its own'):
        GroupSampler(dataset, 4, rank=3, world_size=4, local_data=True).load_state_dict(sampler.state_dict())


def test_infinite_group_sampler__epochs_follow_each_other():
    dataset = Scenes(np.repeat(np.arange(11), 3))
    finite, endless = GroupSampler(dataset, 4, seed=1), InfiniteGroupSampler(dataset, 4, seed=1)
    assert len(endless) == len(finite) == 32
    expected = []
    for epoch in range(4):
        finite.set_epoch(epoch)
        expected += list(finite)
    assert list(itertools.islice(endless, 128)) == expected
    endless.set_epoch(7)  # the loop's epoch is not the sampler's
    assert list(itertools.islice(endless, 5)) == expected[:5]
    endless.skip(76)
    assert list(itertools.islice(endless, 52)) == expected[76:]
    endless.set_position(1, 12)
    assert list(itertools.islice(endless, 84)) == expected[44:]
    assert endless.state_dict(2, 8)['epoch'] == 2


@pytest.mark.parametrize('workers', [0, 2])
def test_infinite_group_sampler__under_mmengines_loop(workers):
    """Its iterator never comes to an end and is never restarted; positions go on over the edges of epochs."""
    dataset = Loaded(np.repeat(np.arange(11), 3))  # 32 samples an epoch: batches of 12 reach over the edge

    def batches(position):
        sampler = InfiniteGroupSampler(dataset, 4, seed=1)
        loader = DataLoader(dataset, batch_size=12, sampler=sampler, num_workers=workers, drop_last=True)
        sampler.set_epoch(0)  # MMEngine's hook
        sampler.skip(position * 12)
        iterator = _InfiniteDataloaderIterator(loader)
        taken = [next(iterator).tolist() for _ in range(9 - position)]
        assert iterator._epoch == 0
        return taken

    whole = batches(0)
    assert sum(len(batch) for batch in whole) == 108 and {key[1] for batch in whole for key in batch} == {
        0,
        1,
        2,
        3,
    }
    assert batches(5) == whole[5:]


@pytest.mark.slow
def test_group_sampler__two_processes_with_loader_workers(tmp_path):
    worker = Path(__file__).with_name('sampler_worker.py')
    environment = dict(os.environ, OMP_NUM_THREADS='1', GLOO_SOCKET_IFNAME='lo')
    command = [sys.executable, str(worker), str(tmp_path)]
    processes = [
        subprocess.Popen([*command, str(rank), '2'], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=600)[0].decode() for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(process.returncode == 0 for process in processes), '\n'.join(outputs)
    results = [json.loads((tmp_path / f'rank{rank}.json').read_text()) for rank in range(2)]
    assert len({result['seed'] for result in results}) == 1
    parts = [np.array(result['shared']).reshape(-1, 4) for result in results]
    whole = GroupSampler(Scenes(np.arange(150) // 3), 4, seed=results[0]['seed'])
    groups = np.array([index for index, *_ in whole]).reshape(-1, 4)
    assert len(parts[0]) == len(parts[1]) == 18
    assert np.array_equal(np.stack(parts, axis=1).reshape(-1, 4), groups[:36])  # 37 groups: 18 for each rank
    for rank, result in enumerate(results):  # 10 and 13 groups at hand: ten for each
        local = np.array(result['local']).reshape(-1, 4)
        assert local.shape == (10, 4) and len(np.unique(local)) == 40 and local.max() < 40 + 13 * rank
        assert all(len(set((group // 2).tolist())) == 4 for group in local)
