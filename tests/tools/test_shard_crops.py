"""tools/shard_crops.py as a command."""

import importlib.util
import json

import numpy as np
import pytest
from PIL import Image

from object_aware import ShardedCropDataset, build_crop_index, read_scenes


@pytest.fixture(scope='module')
def tool(repo):
    spec = importlib.util.spec_from_file_location('shard_crops', repo / 'tools' / 'shard_crops.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def index_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for k in range(12):
        Image.fromarray(rng.integers(0, 255, (120, 160, 3), dtype=np.uint8)).save(folder / f'{k}.jpg')
        images.append(dict(id=k, file_name=f'{k}.jpg', width=160, height=120))
        for box in ([10, 20, 50, 60], [90, 30, 50, 50]):
            annotations.append(dict(id=len(annotations), image_id=k, category_id=1, bbox=box, iscrowd=0))
    content = dict(images=images, annotations=annotations, categories=[dict(id=1, name='thing')])
    (folder / 'train.json').write_text(json.dumps(content))
    build_crop_index(read_scenes([(folder / 'train.json', folder)]), 48).save(folder / 'crops.safetensors')
    return folder / 'crops.safetensors'


def test_shard_crops__writes_what_the_dataset_reads(tool, index_file, tmp_path, capsys):
    arguments = [str(index_file), '--out', str(tmp_path / 'shards'), '--num-shards', '3']
    assert tool.main([*arguments, '--part', '0/2']) == 0
    assert 'shards of other parts are still missing' in capsys.readouterr().out
    assert tool.main(arguments) == 0
    printed = capsys.readouterr().out
    assert '3 shards with 24 crops of 12 scenes (8 to 8 crops each)' in printed and 'bytes a scene' in printed
    assert len(ShardedCropDataset(tmp_path / 'shards', rank=0, world_size=1)) == 24


def test_shard_crops__bad_input_is_one_sentence(tool, index_file, tmp_path, capsys):
    for changes, said in (
        (['--num-shards', '99'], '12 scenes with crops cannot fill 99 shards'),
        (['--num-shards', '2', '--part', 'x'], "--part takes k/n, 0/4 for instance, not 'x'"),
        (['--num-shards', '2', '--part', '2/2'], 'part must be k of n with 0 <= k < n, not 2 of 2'),
        (['--num-shards', '2', '--image-root', str(tmp_path / 'no')], 'does not exist: if the data moved'),
    ):
        assert tool.main([str(index_file), '--out', str(tmp_path / 'shards'), *changes]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / 'shards').exists()
    assert tool.main([str(tmp_path / 'none'), '--out', str(tmp_path), '--num-shards', '2']) == 2
    assert 'does not exist: build it with' in capsys.readouterr().err


def test_shard_crops__overwrites_no_other_file(tool, index_file, tmp_path, capsys):
    """An index and a tar file with images that have the names of shards, in their folder."""
    assert tool.main([str(index_file), '--out', str(tmp_path), '--num-shards', '1']) == 0
    own = tmp_path / 'mine.safetensors'
    (tmp_path / 'crops-00000.safetensors').rename(own)
    tar, index = (tmp_path / 'crops-00000.tar').read_bytes(), own.read_bytes()
    assert tool.main([str(own), '--out', str(tmp_path), '--num-shards', '2']) == 2
    assert 'crops-00000.tar is what this command reads' in capsys.readouterr().err
    own.rename(tmp_path / 'crops-00001.safetensors')
    (tmp_path / 'new').mkdir()
    (tmp_path / 'new' / 'shards.json').write_text('{"mine": 1}')
    own = tmp_path / 'crops-00001.safetensors'
    assert tool.main([str(own), '--out', str(tmp_path / 'new'), '--num-shards', '2']) == 2
    assert 'shards.json exists and is not a manifest of shards' in capsys.readouterr().err
    assert (tmp_path / 'crops-00000.tar').read_bytes() == tar and own.read_bytes() == index
    assert [file.name for file in (tmp_path / 'new').iterdir()] == ['shards.json']
