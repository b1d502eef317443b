"""Bad image files: listed, counted, replaced by spares that keep groups apart, and the end if there are too many."""

import json
import multiprocessing
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from object_aware import GroupSampler, ImageDataset, ObjectCropDataset, build_crop_index, read_scenes
from object_aware.pixels import ImageError
from object_aware.quarantine import Quarantine, TooManyBadFiles, default_limit


def error(path, reason='broken'):
    return ImageError(path, reason, f'Image {path} does not decode ({reason}).')


def test_default_limit__one_percent_at_most_100():
    assert [default_limit(n) for n in (0, 99, 100, 4321, 10_000, 10**7)] == [0, 0, 1, 43, 100, 100]


def test_quarantine__lists_counts_and_stops(tmp_path):
    quarantine = Quarantine(tmp_path / 'run' / 'quarantine.jsonl', limit=2)
    assert quarantine.summary() == ''
    quarantine.add(error('a.jpg'), epoch=3, index=7, instead=9)
    quarantine.add(error('a.jpg'), epoch=4, index=7, instead=11)
    quarantine.add(error('ü b.jpg', 'the file is empty'))
    lines = [json.loads(line) for line in (tmp_path / 'run' / 'quarantine.jsonl').read_text().splitlines()]
    assert [(k['path'], k['reason'], k['epoch'], k['index'], k['instead']) for k in lines] == [
        ('a.jpg', 'broken', 3, 7, 9),
        ('a.jpg', 'broken', 4, 7, 11),
        ('ü b.jpg', 'the file is empty', -1, -1, -1),
    ]
    assert quarantine.reasons() == {'a.jpg': 'broken', 'ü b.jpg': 'the file is empty'}
    file = tmp_path / 'run' / 'quarantine.jsonl'
    assert quarantine.summary() == f'Bad image files: 2 (listed in {file}); samples replaced because of them: 2.'
    with pytest.raises(TooManyBadFiles, match=r'^3 image files cannot be used, more than the 2 that max_bad_files'):
        quarantine.add(error('c.jpg'), 5, 1, 2)


def test_quarantine__workers_share_the_list(tmp_path):
    file = tmp_path / 'quarantine.jsonl'
    file.write_text('{"path": "cut sho\nnothing\n')  # a kill in the middle of a line
    first = Quarantine(file, limit=3)
    second = pickle.loads(pickle.dumps(first))
    first.add(error('a.jpg'), 0, 1, 2)
    second.add(error('b.jpg'), 0, 2, 3)
    first.add(error('c.jpg'), 0, 3, 4)
    assert list(second.reasons()) == ['a.jpg', 'b.jpg', 'c.jpg']
    with pytest.raises(TooManyBadFiles, match=r'^4 image files'):
        second.add(error('d.jpg'), 0, 4, 5)


def append(file, worker):
    quarantine = Quarantine(file, limit=10**6)
    for k in range(200):
        quarantine.add(error(f'{worker}/{k}.jpg', 'x' * 200), 0, k, k + 1)


def test_quarantine__lines_of_processes_do_not_mix(tmp_path):
    file = tmp_path / 'quarantine.jsonl'
    workers = [multiprocessing.get_context('fork').Process(target=append, args=(file, k)) for k in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    paths = [json.loads(line)['path'] for line in file.read_text().splitlines()]
    assert sorted(paths) == sorted(f'{w}/{k}.jpg' for w in range(3) for k in range(200))


@pytest.fixture
def index_file(write_coco, tmp_path):
    boxes = [[20, 20, 40, 40], [120, 30, 50, 40], [60, 110, 60, 50]]
    scenes = write_coco([(f's{k:02d}.png', (200, 180), boxes) for k in range(40)])
    build_crop_index(read_scenes([scenes]), 48).save(tmp_path / 'crops.safetensors')
    return tmp_path / 'crops.safetensors'


def epoch_of(index_file, workers, **options):
    dataset = ObjectCropDataset(index_file, seed=5, **options)
    sampler = GroupSampler(dataset, 4, seed=5, rank=0, world_size=1, spares=4)
    loader = DataLoader(dataset, batch_size=8, sampler=sampler, num_workers=workers)
    batches = list(loader)
    return (
        torch.cat([batch['inputs'] for batch in batches]),
        torch.cat([batch['data_samples']['scene'] for batch in batches]).numpy(),
        torch.cat([batch['data_samples']['object'] for batch in batches]).numpy(),
    )


@pytest.mark.parametrize('workers', [0, 2])
def test_dataset__a_file_that_turns_bad_is_replaced_and_groups_stay_apart(index_file, tmp_path, workers):
    inputs, scenes, objects = epoch_of(index_file, 0)
    (tmp_path / 'images' / 's03.png').write_bytes(b'broken')
    (tmp_path / 'images' / 's07.png').write_bytes((tmp_path / 'images' / 's08.png').read_bytes()[:5000])
    (tmp_path / 'images' / 's11.png').unlink()
    file = tmp_path / f'quarantine{workers}.jsonl'
    # s11.png is missing only once the dataset looks for it: as a file that vanishes during a run.
    Image.new('RGB', (200, 180)).save(tmp_path / 'images' / 's11.png')
    dataset_options = dict(quarantine_file=file, max_bad_files=3)
    ObjectCropDataset(index_file, **dataset_options)
    (tmp_path / 'images' / 's11.png').write_bytes(b'')
    inputs2, scenes2, objects2 = epoch_of(index_file, workers, **dataset_options)
    bad = np.isin(scenes, [3, 7, 11])
    assert bad.sum() == 9 and not np.isin(scenes2, [3, 7, 11]).any()
    assert torch.equal(inputs[torch.from_numpy(~bad)], inputs2[torch.from_numpy(~bad)])  # all others as ever
    np.testing.assert_array_equal(objects[~bad], objects2[~bad])
    for group in scenes2.reshape(-1, 4):
        assert len(set(group)) == 4
    again = epoch_of(index_file, 0, **dataset_options)
    assert torch.equal(again[0], inputs2)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert {line['path'][-7:] for line in lines} == {'s03.png', 's07.png', 's11.png'}
    assert {line['index'] for line in lines} == set(np.flatnonzero(np.isin(np.repeat(range(40), 3), [3, 7, 11])))


def test_dataset__too_many_bad_files_end_the_run(index_file, tmp_path):
    for k in (2, 9):
        (tmp_path / 'images' / f's{k:02d}.png').write_bytes(b'broken')
    with pytest.raises(TooManyBadFiles, match=r'^2 image files cannot be used, more than the 1 .* max_bad_files'):
        epoch_of(index_file, 0, max_bad_files=1)
    with pytest.raises(TooManyBadFiles, match=r'^1 image files cannot be used, more than the 0'):
        epoch_of(index_file, 0)  # 40 files: none is borne by default
    dataset = ObjectCropDataset(index_file, max_bad_files=5)
    with pytest.raises(ImageError, match=r's02\.png does not decode'):
        dataset[6]  # a key without spares
    with pytest.raises(
        TooManyBadFiles, match=r'^No spare of sample 6 in epoch 4 can be used either\. Image .*s02\.png'
    ):
        dataset[(6, 4, -1, 27)]
    assert dataset[(6, 4, 27, 0)]['data_samples']['scene'] == 0


def test_preflight__lists_what_it_bears(index_file, tmp_path):
    for k in (2, 9):
        (tmp_path / 'images' / f's{k:02d}.png').write_bytes(b'broken')
    file = tmp_path / 'quarantine.jsonl'
    ObjectCropDataset(index_file, max_bad_files=2, quarantine_file=file).preflight()
    assert [json.loads(line)['path'][-7:] for line in file.read_text().splitlines()] == ['s02.png', 's09.png']
    with pytest.raises(
        ValueError, match=r'^2 of 40 images cannot be used; the first: Image .*s02\.png.* listed in .*jsonl'
    ):
        ObjectCropDataset(index_file, max_bad_files=1, quarantine_file=file).preflight()


def test_image_dataset__spares(tmp_path):
    for k in range(8):
        Image.new('RGB', (50, 40), (30 * k, 0, 0)).save(tmp_path / f'{k}.png')
    dataset = ImageDataset(tmp_path, size=16, max_bad_files=1)
    (tmp_path / '2.png').write_bytes(b'')
    sample = dataset[(2, 1, 5)]
    assert sample['data_samples']['scene'] == 5 and int(sample['inputs'][0].max()) == 150
    assert dataset.quarantine.summary() == 'Bad image files: 1; samples replaced because of them: 1.'
    dataset = ImageDataset(tmp_path, size=16, max_bad_files=2)
    (tmp_path / '3.png').write_bytes(b'')
    assert dataset[(3, 1, 2, 6)]['data_samples']['scene'] == 6  # two files are bad, but one sample is replaced
    assert dataset.quarantine.summary() == 'Bad image files: 2; samples replaced because of them: 1.'
    with pytest.raises(TooManyBadFiles, match='No spare of sample 2 in epoch 4'):
        dataset[(2, 4, 3, -1)]
    assert dataset.quarantine.summary().endswith('samples replaced because of them: 1.')
