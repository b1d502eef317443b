"""The short commands of docs/object_aware.md run, word for word but for sizes, one after the other on drawn scenes."""

import importlib
import json
import re
import shlex
from pathlib import Path

import pytest

from object_aware.synthetic import write_demo_data

ROOT = Path(__file__).resolve().parents[2]
SIZES = {'224': '64', '64': '2', '40': '3', '100000': '60', '20': '6'}  # crop, shards, scenes, samples, boxes
LONG = ('benchmark.py', 'ncut', '--timm', 'VOC2012')  # measured, or with a model, or with data that are not here


def short_commands():
    text = (ROOT / 'docs' / 'object_aware.md').read_text(encoding='utf-8')
    for block in re.findall(r'^```bash\n(.*?)^```', text, flags=re.S | re.M):
        for line in block.replace('\\\n', ' ').splitlines():
            words = shlex.split(line, comments=True)
            if words and not any(long in line for long in LONG):
                yield words


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with what the commands name: annotations, images, and a list of results."""
    write_demo_data(tmp_path / 'drawn', num_train=12, num_val=1, size=(144, 112))
    drawn = tmp_path / 'drawn' / 'det'
    truth = (drawn / 'annotations' / 'train.json').read_text()
    (tmp_path / 'ANNOTATIONS.json').write_text(truth)
    (tmp_path / 'instances_val2017.json').write_text(truth)
    found = [{k: o[k] for k in ('image_id', 'category_id', 'bbox')} for o in json.loads(truth)['annotations']]
    (tmp_path / 'RESULTS.json').write_text(json.dumps([{**o, 'score': 0.9} for o in found]))
    (tmp_path / 'IMAGE_FOLDER').symlink_to(drawn / 'images')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_object_aware__its_short_commands_run_in_their_order(folder, capsys):
    done = []
    for words in short_commands():
        if words[1] == '-m':
            module, arguments = words[2], words[3:]
        else:
            module, arguments = words[1].removesuffix('.py').replace('/', '.'), words[2:]
        arguments = [SIZES.get(word, word) for word in arguments]
        status = importlib.import_module(module).main(arguments)
        assert status in (0, None), f'{shlex.join(words)}\n{capsys.readouterr().err}'
        done.append(module.split('.')[-1])
    assert {'build_crops', 'browse_crops', 'check', 'shard_crops', 'propose_boxes', 'evaluate_boxes'} <= set(done)
    for name in ('crops.safetensors', 'crops.html', 'boxes.json', 'shards/shards.json'):
        assert (folder / name).stat().st_size > 0
    assert any((folder / 'work_dirs' / 'boxes').iterdir())
