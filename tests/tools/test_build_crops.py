"""tools/build_crops.py as a user calls it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from object_aware import CropIndex, WindowRules
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
    out = tmp_path / 'new' / 'crops.npz'
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
    out = tmp_path / 'crops.npz'
    command = [*scenes, '--out', str(out), '--size', '48']
    assert main(command) == 0
    written = out.stat().st_mtime_ns
    assert main(command) == 0
    assert out.stat().st_mtime_ns == written
    assert 'is up to date' in capsys.readouterr().out
    assert main([*command, '--rules', 'min_fill=0.3']) == 0  # other rules, other windows
    assert CropIndex.load(out).rules.min_fill == 0.3
    out.write_bytes(b'broken')
    assert main(command) == 0
    assert len(CropIndex.load(out)) == 1
    written = out.stat().st_mtime_ns
    assert main([*command, '--force']) == 0
    assert out.stat().st_mtime_ns > written


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        (['--rules', 'min_fil=0.3'], "Unknown window rule 'min_fil=0.3': write name=value with one of min_inside"),
        (['--rules', 'min_fill=much'], "Window rule min_fill needs a number, not 'much'."),
        (['--rules', 'aspect=2'], "Window rule aspect needs two numbers, low,high, not '2'."),
        (['--rules', 'min_fill=2'], 'Window rule min_fill must be in (0, 1), not 2.0.'),
        (['--size', '0'], 'A crop size must be one or two'),
        (['--size', '9', '9', '9'], 'A crop size must be one or two'),
        (['--size', '900'], 'None of 2 objects has a window under these rules (2 too small)'),
    ],
)
def test_build_crops__bad_arguments(scenes, tmp_path, capsys, arguments, sentence):
    assert main([*scenes, '--out', str(tmp_path / 'crops.npz'), *arguments]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.splitlines()[-1].startswith('error: ')
    assert not (tmp_path / 'crops.npz').exists()


def test_build_crops__as_a_command_prints_one_sentence_and_exits_with_2(tmp_path):
    command = [sys.executable, TOOL, '--scenes', 'none.json', str(tmp_path), '--out', str(tmp_path / 'x.npz')]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith('error: Annotation file none.json does not exist')
    assert 'Traceback' not in result.stderr


def test_parse_rules__defaults():
    assert parse_rules([]) == WindowRules()
