"""Shards: the same scenes, images and crops as the index; resumable; readable by others; one dataset for each rank."""

import itertools
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mixedae.registry import DATASETS
from object_aware import (
    CropIndex,
    GroupSampler,
    ObjectCropDataset,
    ShardedCropDataset,
    WindowRules,
    build_crop_index,
    read_scenes,
    write_shards,
)
from object_aware.check import check_dataset
from object_aware.shards import plan_shards, read_manifest, scene_record, shards_of_rank, take_scenes


@pytest.fixture(scope='module')
def index(tmp_path_factory):
    """Thirty scenes with up to four objects, some of them without a window, six without any object."""
    folder = tmp_path_factory.mktemp('scenes')
    boxes = [[20, 20, 40, 40], [120, 30, 50, 40], [60, 110, 60, 50], [3, 3, 4, 4]]
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for k in range(30):
        name = f'sub {k % 2}/s{k:02d}.{"png" if k % 3 else "jpg"}'
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (180, 200, 3), dtype=np.uint8)).save(folder / name)
        images.append(dict(id=k, file_name=name, width=200, height=180))
        for box in boxes[: k % 5]:
            annotations.append(dict(id=len(annotations), image_id=k, category_id=1, bbox=box, iscrowd=0))
    content = dict(images=images, annotations=annotations, categories=[dict(id=1, name='thing')])
    (folder / 'train.json').write_text(json.dumps(content))
    index = build_crop_index(read_scenes([(folder / 'train.json', folder)]), 48, WindowRules())
    index.save(folder / 'crops.safetensors')
    return CropIndex.load(folder / 'crops.safetensors')


def parts_of(folder, manifest):
    return [CropIndex.load(folder / shard['index']) for shard in manifest['shards']]


def test_write_shards__every_scene_with_its_image_objects_and_crops(index, tmp_path):
    manifest = write_shards(index, tmp_path / 'shards', 4)
    assert manifest == read_manifest(tmp_path / 'shards')
    parts = parts_of(tmp_path / 'shards', manifest)
    assert sum(len(part) for part in parts) == len(index)
    assert max(map(len, parts)) - min(map(len, parts)) <= 6  # of about 14, and three in a scene
    seen = []
    for part in parts:
        assert part.out_size == index.out_size and part.rules == index.rules
        for k, name in enumerate(part.names):
            scene = int(name.decode().split('.')[0])
            seen.append(scene)
            path, offset, size = part.image_bytes_location(k)
            with open(path, 'rb') as file:
                file.seek(offset)
                content = file.read(size)
            with open(index.image_bytes_location(scene)[0], 'rb') as file:
                assert content == file.read()
            rows, mine = (i.object_offsets[[n, n + 1]] for i, n in ((index, scene), (part, k)))
            for column in ('boxes', 'classes', 'crowd', 'outcome'):
                assert np.array_equal(getattr(part, column)[slice(*mine)], getattr(index, column)[slice(*rows)])
            crops, own = (np.flatnonzero(i.target_scenes == n) for i, n in ((index, scene), (part, k)))
            assert np.array_equal(part.windows[own], index.windows[crops])
            assert np.array_equal(part.targets[own] - mine[0], index.targets[crops] - rows[0])
        assert np.all(np.diff(part.target_scenes) >= 0)
    assert sorted(seen) == index.used_scenes.tolist()
    assert seen != sorted(seen)  # random scenes in each shard


def test_write_shards__the_same_bytes_again_and_only_what_is_missing(index, tmp_path):
    first, second = tmp_path / 'a', tmp_path / 'b'
    write_shards(index, first, 3, seed=5)
    assert write_shards(index, second, 3, seed=5, part=(1, 2)) is None  # one of two helpers
    assert {path.name for path in second.iterdir()} == {'crops-00001.tar', 'crops-00001.safetensors'}
    stamp = (second / 'crops-00001.tar').stat().st_mtime_ns
    (second / 'crops-00000.tar').write_bytes(b'cut short by a kill')  # without its index: not finished
    assert write_shards(index, second, 3, seed=5) is not None
    assert (second / 'crops-00001.tar').stat().st_mtime_ns == stamp
    assert read_manifest(first)['content_hash'] == read_manifest(second)['content_hash']
    for path in first.glob('*.tar'):
        assert path.read_bytes() == (second / path.name).read_bytes()
    assert not list(second.glob('.*'))
    with open(second / 'crops-00002.tar', 'r+b') as file:
        file.truncate(2000)
    write_shards(index, second, 3, seed=5)
    assert (first / 'crops-00002.tar').read_bytes() == (second / 'crops-00002.tar').read_bytes()
    with pytest.raises(ValueError, match=r'belongs to other shards .* take an empty folder'):
        write_shards(index, second, 4, seed=5)
    with pytest.raises(ValueError, match='cannot fill 99 shards'):
        write_shards(index, second, 99)


def test_write_shards__shards_of_shards(index, tmp_path):
    """A shard's index is an index like any other: it can be split anew."""
    write_shards(index, tmp_path / 'one', 1)
    whole = CropIndex.load(tmp_path / 'one' / 'crops-00000.safetensors')
    manifest = write_shards(whole, tmp_path / 'two', 2)
    assert sum(shard['crops'] for shard in manifest['shards']) == len(index)
    part = parts_of(tmp_path / 'two', manifest)[0]
    dataset = ObjectCropDataset(tmp_path / 'two' / 'crops-00000.safetensors')
    assert len(dataset) == len(part) and dataset[0]['inputs'].shape == (3, 48, 48)


def test_write_shards__a_missing_image(index, tmp_path):
    path = Path(index.image_bytes_location(int(index.used_scenes[0]))[0])
    content = path.read_bytes()
    try:
        path.write_bytes(b'')
        with pytest.raises(ValueError, match='is cut short'):
            write_shards(index, tmp_path / 'shards', 2)
        path.unlink()
        with pytest.raises(FileNotFoundError, match='does not exist: give image_root'):
            write_shards(index, tmp_path / 'shards', 2)
    finally:
        path.write_bytes(content)
    with pytest.raises(FileNotFoundError, match=r'shards\.json does not exist: write the shards'):
        read_manifest(tmp_path / 'shards')


def test_plan_shards__each_shard_gets_a_scene():
    class Few:
        target_scenes = np.array([0] * 50 + [1, 2, 3])
        used_scenes = np.arange(4)
        content_hash = ''

    for seed in range(10):
        plan = plan_shards(Few, 4, seed)
        assert [len(plan.of(shard)) for shard in range(4)] == [1] * 4
        plan = plan_shards(Few, 2, seed)
        assert min(len(plan.of(shard)) for shard in range(2)) >= 1 and len(plan) == 2


def test_take_scenes__masks_and_overlap_crops_come_along(index):
    masks = type(index.masks).of([b'%d' % row * (row % 3) for row in range(len(index.boxes))])
    used = index.used_scenes
    targets = index.targets.copy()
    targets[index.target_scenes == used[2]] = -1
    whole = replace(index, mask_offsets=masks.offsets, mask_bytes=masks.data, targets=targets, path=None)
    part = take_scenes(whole, used[[3, 2, 0]])
    rows = np.concatenate([np.arange(*whole.object_offsets[[s, s + 1]]) for s in used[[3, 2, 0]]])
    assert list(part.masks) == [whole.masks[int(row)] for row in rows]
    assert (part.targets[part.target_scenes == 1] == -1).all()
    assert rows[part.targets[part.target_scenes != 1]].tolist() == [
        row for s in used[[3, 0]] for row in whole.targets[whole.target_scenes == s]
    ]
    record = scene_record(whole, int(used[2]))
    assert record['window'] == whole.windows[whole.target_scenes == used[2]][-1].tolist()
    assert all(thing['window'] is None for thing in record['objects'])


def test_scene_record__what_stands_in_the_json(index):
    scene = 9  # four objects, the last one too small
    record = scene_record(index, scene)
    assert (record['name'], record['width'], record['height']) == ('sub 1/s09.jpg', 200, 180)
    assert [thing['outcome'] for thing in record['objects']] == ['accepted'] * 3 + ['too small']
    assert record['objects'][3] == dict(box=[3, 3, 7, 7], window=None, outcome='too small')
    assert record['objects'][1]['window'] == index.windows[index.target_scenes == scene][1].tolist()
    assert 'class' not in json.dumps(record) and 'category' not in json.dumps(record)


def test_shards__tar_readers_see_pairs_of_image_and_json(index, tmp_path):
    write_shards(index, tmp_path, 2)
    with tarfile.open(tmp_path / 'crops-00000.tar') as tar:
        names = tar.getnames()
        assert all(a.split('.')[0] == b.split('.')[0] and b.endswith('.json') for a, b in zip(names[::2], names[1::2]))
        record = json.load(tar.extractfile(names[1]))
        with Image.open(tar.extractfile(names[0])) as image:
            assert image.size == (record['width'], record['height'])
        assert all(member.mtime == member.uid == 0 and not member.uname for member in tar.getmembers())


def test_shards__webdataset_reads_them(index, tmp_path):
    webdataset = pytest.importorskip('webdataset')
    write_shards(index, tmp_path, 2)
    urls = sorted(str(path) for path in tmp_path.glob('*.tar'))
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode('rgb8'))
    assert len(samples) == len(index.used_scenes)
    for sample in samples:
        pixels = sample.get('jpg', sample.get('png'))
        assert pixels.shape == (sample['json']['height'], sample['json']['width'], 3)
        assert any(thing['window'] for thing in sample['json']['objects'])


def test_sharded_crop_dataset__ranks_hold_all_crops_once(index, tmp_path):
    write_shards(index, tmp_path / 'shards', 5)
    names, total = set(), 0
    for rank in range(2):
        dataset = ShardedCropDataset(tmp_path / 'shards', 32, rank=rank, world_size=2)
        assert dataset.shards == [[0, 2, 4], [1, 3]][rank] and dataset.size == (32, 32)
        total += len(dataset)
        assert len(dataset) == len(dataset.scene_ids) == len(dataset.class_ids) == len(dataset.window_areas)
        for k in range(len(dataset)):
            part, local = dataset.locate(k)
            inner = dataset.parts[part]
            sample = dataset[(k, 3)]
            data = sample['data_samples']
            assert data['scene'] == dataset.scene_ids[k] and data['shard'] == dataset.shards[part]
            assert torch.equal(sample['inputs'], inner[(local, 3)]['inputs'])
            assert np.array_equal(dataset.draw((k, 3))[1], data['window'].numpy())
            names.add((inner.index.names[int(inner.scene_ids[local])], data['object']))
        with pytest.raises(IndexError):
            dataset[len(dataset)]
        dataset.preflight()
    assert total == len(names) == len(index)
    seeds = {part.seed for part in dataset.parts}
    assert len(seeds) == 2 and ShardedCropDataset(tmp_path / 'shards', seed=1, rank=0, world_size=5).parts[0].seed != 0


def test_sharded_crop_dataset__registered_and_asks_for_its_rank(index, tmp_path, monkeypatch):
    write_shards(index, tmp_path, 4)
    monkeypatch.setenv('RANK', '2')
    monkeypatch.setenv('WORLD_SIZE', '3')
    dataset = DATASETS.build(dict(type='mixedae.ShardedCropDataset', shard_dir=str(tmp_path)))
    assert dataset.shards == [2]
    monkeypatch.delenv('RANK')
    monkeypatch.delenv('WORLD_SIZE')
    assert ShardedCropDataset(tmp_path).shards == [0, 1, 2, 3]


def test_sharded_crop_dataset__groups_and_resume(index, tmp_path):
    write_shards(index, tmp_path / 'shards', 4)
    dataset = ShardedCropDataset(tmp_path / 'shards', rank=1, world_size=2)
    sampler = GroupSampler(dataset, 4, seed=1, rank=1, world_size=2, local_data=True)
    keys = list(sampler)
    for group in itertools.batched(keys, 4) if hasattr(itertools, 'batched') else zip(*[iter(keys)] * 4):
        assert len({int(dataset.scene_ids[key[0]]) for key in group}) == 4
    resumed = GroupSampler(dataset, 4, seed=1, rank=1, world_size=2, local_data=True)
    resumed.load_state_dict(sampler.state_dict(0, 12))
    assert list(resumed) == keys[12:]


def test_sharded_crop_dataset__a_broken_image_is_replaced_by_a_spare_of_any_shard(index, tmp_path):
    write_shards(index, tmp_path / 'shards', 2)
    dataset = ShardedCropDataset(tmp_path / 'shards', rank=0, world_size=1, max_bad_files=5)
    first = dataset.parts[0].index
    path, offset, size = first.image_bytes_location(int(first.target_scenes[0]))
    with open(path, 'r+b') as file:
        file.seek(offset)
        file.write(b'\0' * size)
    spare = len(dataset) - 1  # a crop of the other shard
    sample = dataset[(0, 2, -1, spare)]
    assert torch.equal(sample['inputs'], dataset[(spare, 2)]['inputs'])
    assert sample['data_samples']['scene'] == dataset.scene_ids[spare]


def test_sharded_crop_dataset__the_guarantee_holds_in_each_shard(index, tmp_path):
    write_shards(index, tmp_path / 'shards', 2)
    for shard in range(2):
        report = check_dataset(ObjectCropDataset(tmp_path / 'shards' / f'crops-{shard:05d}.safetensors'), 100)
        assert report.num_violations == 0 and report.samples == 100


def test_sharded_crop_dataset__bad_input(index, tmp_path):
    folder = tmp_path / 'shards'
    with pytest.raises(FileNotFoundError, match=r'shards\.json does not exist'):
        ShardedCropDataset(folder, rank=0, world_size=1)
    write_shards(index, folder, 2)
    with pytest.raises(ValueError, match='2 shards cannot feed 3 processes: write at least as many'):
        ShardedCropDataset(folder, rank=0, world_size=3)
    (folder / 'crops-00001.tar').unlink()
    assert len(ShardedCropDataset(folder, rank=0, world_size=2)) > 0  # needs only its own
    with pytest.raises(FileNotFoundError, match=r'1 files of shards are not in .* \(crops-00001\.tar\)'):
        ShardedCropDataset(folder, rank=1, world_size=2)
    with open(folder / 'crops-00000.tar', 'ab') as file:
        file.write(b'more')
    with pytest.raises(ValueError, match=r'has [\d,]+ bytes and shards.json says [\d,]+: copy it there again'):
        ShardedCropDataset(folder, rank=0, world_size=2)
    (folder / 'shards.json').write_text('{}')
    with pytest.raises(ValueError, match='is no manifest of shards'):
        read_manifest(folder)
    assert shards_of_rank(5, 1, 2) == [1, 3]
