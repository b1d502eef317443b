"""tools/browse_crops.py: what stands on the page."""

import importlib.util
import json
import re
import sys

import numpy as np
import pytest
from PIL import Image

from mixedae.visualization import assert_self_contained
from object_aware import CropIndex, build_crop_index, read_scenes


@pytest.fixture(scope='module')
def tool(repo):
    sys.path.insert(0, str(repo / 'tools'))
    spec = importlib.util.spec_from_file_location('browse_crops', repo / 'tools' / 'browse_crops.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(repo / 'tools'))


@pytest.fixture(scope='module')
def index_file(tmp_path_factory):
    """Ten scenes: two objects with windows (one with a mask), one too small; a crowd in one scene."""
    folder = tmp_path_factory.mktemp('data')
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for k in range(10):
        Image.fromarray(rng.integers(0, 255, (120, 160, 3), dtype=np.uint8)).save(folder / f'a<b&{k}.jpg')
        images.append(dict(id=k, file_name=f'a<b&{k}.jpg', width=160, height=120))
        shapes = [([10, 20, 50, 60], 0), ([90, 30, 50, 50], 0), ([150, 110, 4, 4], 0)] + [([0, 0, 9, 9], 1)] * (k == 7)
        for number, (box, crowd) in enumerate(shapes):
            x, y, w, h = box
            thing = dict(id=len(annotations), image_id=k, category_id=1, bbox=box, iscrowd=crowd)
            if number == 0:
                thing['segmentation'] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            annotations.append(thing)
    content = dict(images=images, annotations=annotations, categories=[dict(id=1, name='<thing>')])
    (folder / 'train.json').write_text(json.dumps(content))
    build_crop_index(read_scenes([(folder / 'train.json', folder)]), 64).save(folder / 'crops.safetensors')
    return folder / 'crops.safetensors'


@pytest.fixture(scope='module')
def page(tool, index_file):
    out = index_file.with_name('page.html')
    assert tool.main([str(index_file), '--out', str(out), '--num-scenes', '4', '--groups', '2']) == 0
    return out.read_text()


def test_browse_crops__self_contained_with_its_one_script(tool, page):
    assert_self_contained(page, [tool.SCRIPT])
    assert page.count('<script>') == 1
    assert '<thing>' not in page and '&lt;thing&gt;' in page and 'a<b' not in page


def test_browse_crops__scenes_show_every_outcome(page, index_file):
    scenes = re.findall(r'<figure class="scene" data-reasons="([^"]*)">', page)
    assert len(scenes) == 4
    assert {reason for reasons in scenes for reason in reasons.split(',')} == {'accepted', 'too small', 'crowd'}
    for reason, count in (('accepted', 4), ('too small', 4), ('crowd', 1)):
        assert f'data-reason="{reason}" aria-pressed="false">{reason} ({count})</button>' in page
    assert page.count('<g class="o accepted"') == 8 and page.count('<g class="o rejected"') == 5
    # Each accepted object: three drawn windows and its own, each with a rim, and three crops.
    assert page.count('class="drawn"') == 24 and page.count('class="window"') == 8
    assert len(re.findall(r'alt="crop of epoch \d"', page)) == 24
    assert page.count('<img class="masks"') == 4


def test_browse_crops__windows_stand_where_the_index_has_them(page, index_file):
    index = CropIndex.load(index_file)
    drawn = {tuple(map(float, place)) for place in re.findall(
        r'<rect class="window" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', page
    )}  # fmt: skip
    known = {tuple(round(float(c), 1) for c in (x1, y1, x2 - x1, y2 - y1)) for x1, y1, x2, y2 in index.windows}
    assert drawn and all(min(max(abs(a - b) for a, b in zip(one, two)) for two in known) < 0.11 for one in drawn)


def test_browse_crops__counts_histograms_and_groups(page):
    table = re.search(r'<table class="numbers">.*?</table>', page).group()
    assert '<th scope="row">accepted</th><td>20</td><td>66.7 %</td>' in table
    assert '<th scope="row">too small</th><td>10</td><td>33.3 %</td>' in table
    captions = re.findall(r'<figcaption>(\w+) of 20 windows\.</figcaption>', page)
    assert captions == ['Fill', 'Offset', 'Inside', 'Others', 'Upsampling', 'Aspect']
    groups = page[page.index('id="groups"') :]
    assert groups.count('<tr><th scope="row">group') == 2
    assert len(re.findall(r'<td><img', groups)) == 2 * 6
    assert 'from crop 4' in groups


def test_browse_crops__bad_input_is_one_sentence(tool, index_file, tmp_path, capsys):
    for changes, said in (
        (['--patch-size', '7'], 'Crops of 64x64 cannot be cut into patches of 7: give --patch-size'),
        (['--num-scenes', '0'], '--num-scenes must be in 1..200'),
        (['--group-size', '12'], '20 items of 10 scenes give 0 groups of 12 different scenes'),
        (['--image-root', str(tmp_path / 'no')], 'does not exist'),
    ):
        assert tool.main([str(index_file), '--out', str(tmp_path / 'p.html'), '--num-scenes', '1', *changes]) == 2
        error = capsys.readouterr().err
        assert error.splitlines()[-1].startswith('error: ') and said in error
    assert not (tmp_path / 'p.html').exists()


def test_browse_crops__overwrites_no_other_file(tool, index_file, tmp_path, capsys):
    index = index_file.read_bytes()
    (tmp_path / 'mine.html').write_text('<!DOCTYPE html><html>mine</html>')
    for out, said in (
        (index_file, 'is what this command reads: give another --out.'),
        (tmp_path / 'mine.html', 'exists and is not a page that this tool wrote: give another --out.'),
    ):
        assert tool.main([str(index_file), '--out', str(out), '--num-scenes', '1', '--groups', '1']) == 2
        assert said in capsys.readouterr().err
    assert index_file.read_bytes() == index and 'mine' in (tmp_path / 'mine.html').read_text()
    page = tmp_path / 'own.html'
    page.write_text(tool.Page('an earlier one').html())
    assert tool.main([str(index_file), '--out', str(page), '--num-scenes', '1', '--groups', '1']) == 0
    assert 'an earlier one' not in page.read_text()


def test_up_to__the_limit_of_looser_rules_is_inside(tool):
    from browse_parts.statistics import up_to

    assert up_to(0.3, 0.36)[[0, -1]].tolist() == pytest.approx([0.0, 0.36])
    edges = up_to(0.5, 0.36)
    assert edges[[0, -1]].tolist() == pytest.approx([0.0, 0.55]) and len(edges) == 31
