"""tools/build_crops.py as a user calls it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from object_aware import CropIndex, WindowRules, building
from tools import build_crops
from tools.build_crops import main, parse_rules

TOOL = Path(__file__).resolve().parents[2] / 'tools' / 'build_crops.py'


@pytest.fixture
def scenes(tmp_path):
    (tmp_path / 'images').mkdir()
    Image.fromarray(np.zeros((120, 160, 3), dtype=np.uint8)).save(tmp_path / 'images' / 'a.png')
    content = dict(
        images=[dict(id=1, file_name='a.png', width=160, height=120)],
        annotations=[
            dict(id=1, image_id=1, category_id=1, bbox=[20, 20, 40, 40]),
            dict(id=2, image_id=1, category_id=1, bbox=[100, 60, 4, 4]),
            dict(id=3, image_id=1, category_id=1, bbox=[100, 60, 0, 5]),
        ],
        categories=[dict(id=1, name='thing')],
    )
    (tmp_path / 'scenes.json').write_text(json.dumps(content))
    return ['--scenes', str(tmp_path / 'scenes.json'), str(tmp_path / 'images')]


def test_build_crops__writes_an_index_and_a_summary(scenes, tmp_path, capsys):
    out = tmp_path / 'new' / 'crops.safetensors'
    assert main([*scenes, '--out', str(out), '--size', '48', '64', '--rules', 'min_fill=0.2', 'aspect=0.9,1.1']) == 0
    index = CropIndex.load(out)
    assert index.out_size == (48, 64)
    assert index.rules == WindowRules(min_fill=0.2, aspect=(0.9, 1.1))
    assert index.reason_counts()['accepted'] == 1 and index.reason_counts()['too small'] == 1
    text = capsys.readouterr().out
    assert ['accepted', '1', '50.0', '%'] in [line.split() for line in text.splitlines()]
    assert ['zero', 'or', 'negative', 'size', '1'] in [line.split() for line in text.splitlines()]
    assert f'wrote {out}' in text


def test_build_crops__a_second_call_reuses_what_is_up_to_date(scenes, tmp_path, capsys):
    out = tmp_path / 'crops.safetensors'
    command = [*scenes, '--out', str(out), '--size', '48']
    assert main(command) == 0
    written = out.stat().st_mtime_ns
    assert main(command) == 0
    assert out.stat().st_mtime_ns == written
    assert 'is up to date' in capsys.readouterr().out
    assert main([*command, '--rules', 'min_fill=0.3']) == 0  # other rules, other windows
    assert CropIndex.load(out).rules.min_fill == 0.3
    out.write_bytes(out.read_bytes()[:-200])  # cut short by a copy, say
    assert main(command) == 0
    assert len(CropIndex.load(out)) == 1
    written = out.stat().st_mtime_ns
    assert main([*command, '--force']) == 0
    assert out.stat().st_mtime_ns > written


def test_build_crops__overwrites_no_other_file(scenes, tmp_path, capsys):
    _, annotations, _ = scenes
    before = Path(annotations).read_bytes()
    (tmp_path / 'notes.json').write_text('{"mine": 1}')
    for out, sentence in (
        (annotations, 'is what this command reads: give another --out.'),
        (tmp_path / 'notes.json', 'notes.json exists and is not a crop index: give another --out.'),
    ):
        assert main([*scenes, '--out', str(out), '--size', '48', '--force']) == 2
        assert sentence in capsys.readouterr().err
    assert Path(annotations).read_bytes() == before and (tmp_path / 'notes.json').read_text() == '{"mine": 1}'


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        (['--rules', 'min_fil=0.3'], "Unknown window rule 'min_fil=0.3': write name=value with one of min_inside"),
        (['--rules', 'min_fill=much'], "Window rule min_fill needs a number, not 'much'."),
        (['--rules', 'aspect=2'], "Window rule aspect needs two numbers, low,high, not '2'."),
        (['--rules', 'min_fill=2'], 'Window rule min_fill must be in (0, 1), not 2.0.'),
        (['--rules', 'measure=area'], "Window rule measure must be 'mask' or 'box', not 'area'."),
        (['--workers', '0'], '--workers must be at least 1, not 0.'),
        (['--size', '0'], 'A crop size must be one or two'),
        (['--size', '9', '9', '9'], 'A crop size must be one or two'),
        (['--size', '900'], 'None of 2 objects has a window under these rules (2 too small)'),
    ],
)
def test_build_crops__bad_arguments(scenes, tmp_path, capsys, arguments, sentence):
    assert main([*scenes, '--out', str(tmp_path / 'crops.safetensors'), *arguments]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.splitlines()[-1].startswith('error: ')
    assert not (tmp_path / 'crops.safetensors').exists()


def test_build_crops__an_interrupted_build_goes_on(scenes, tmp_path, capsys, monkeypatch):
    out = tmp_path / 'crops.safetensors'
    command = [*scenes, '--out', str(out), '--size', '48', '--workers', '1']
    assert main(command) == 0
    whole = out.read_bytes()
    out.unlink()
    monkeypatch.setattr(build_crops, 'LARGE', 0)
    real = building.decide

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(building, 'decide', interrupted)
    assert main(command) == 130
    assert 'the same command goes on' in capsys.readouterr().err
    assert len(list((tmp_path / 'crops.safetensors.parts').glob('objects-*'))) == 1 and not out.exists()
    monkeypatch.setattr(building, 'decide', real)
    assert main(command) == 0
    assert 'going on with 1 finished pieces' in capsys.readouterr().out
    assert out.read_bytes() == whole
    assert not (tmp_path / 'crops.safetensors.parts').exists()


def test_build_crops__notices_missing_images_on_a_second_call(scenes, tmp_path, capsys):
    command = [*scenes, '--out', str(tmp_path / 'crops.safetensors'), '--size', '48']
    assert main(command) == 0
    (tmp_path / 'images' / 'a.png').unlink()
    assert main(command) == 2
    assert '1 of 1 images of' in capsys.readouterr().err


def test_build_crops__detections_with_a_threshold(tmp_path, scenes, capsys):
    found = [dict(image_id=1, category_id=1, bbox=[20, 20, 40, 40], score=0.9)]
    found.append(dict(image_id=1, category_id=1, bbox=[90, 60, 30, 30], score=0.2))
    (tmp_path / 'found.json').write_text(json.dumps(found))
    command = ['--scenes', str(tmp_path / 'found.json'), scenes[2], '--image-list', scenes[1], '--size', '48', '--out']
    for threshold, crops in (('0.1', 2), ('0.5', 1)):
        out = tmp_path / f'{threshold}.safetensors'
        assert main([*command, str(out), '--score-threshold', threshold]) == 0
        assert len(CropIndex.load(out)) == crops
        assert main([*command, str(out), '--score-threshold', threshold]) == 0
        assert 'is up to date' in capsys.readouterr().out


def test_build_crops__as_a_command_prints_one_sentence_and_exits_with_2(tmp_path):
    command = [sys.executable, TOOL, '--scenes', 'none.json', str(tmp_path), '--out', str(tmp_path / 'x.safetensors')]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith('error: Annotation file none.json does not exist')
    assert 'Traceback' not in result.stderr


def test_parse_rules__defaults():
    assert parse_rules([]) == WindowRules()
    assert parse_rules(['measure=box']).measure == 'box'
