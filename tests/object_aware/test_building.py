"""Building: outcomes and windows of the objects, chunks and threads that change nothing, builds that go on."""

import json

import numpy as np
import pytest

from object_aware import building
from object_aware.building import build_crop_index, content_hash
from object_aware.part_files import PartFiles
from object_aware.rules import WindowRules, violations
from object_aware.scenes import Selection, read_scenes
from object_aware.synthetic_annotations import write_annotations


def test_build_crop_index__every_window_obeys_the_rules(coco_scenes):
    index = build_crop_index(read_scenes([coco_scenes]), 64)
    assert len(index) == 24
    assert index.out_size == (64, 64)
    assert index.reason_counts()['accepted'] == 24
    for crop in range(len(index)):
        box = index.boxes[index.targets[crop]]
        assert len(index.others(crop)) == 2
        assert not (index.others(crop) == box).all(axis=1).any()
        assert violations(index.windows[crop], box, index.others(crop), (200, 180), (64, 64), index.rules) == []


def test_build_crop_index__crowds_are_no_targets_but_count_as_others(write_coco):
    annotation, folder = write_coco([('a.png', (200, 180), [[20, 20, 40, 40], [15, 15, 100, 100], [120, 110, 60, 50]])])
    content = json.loads(annotation.read_text())
    content['annotations'][1]['iscrowd'] = 1
    annotation.write_text(json.dumps(content))
    index = build_crop_index(read_scenes([(annotation, folder)]), 64)
    np.testing.assert_array_equal(index.targets, [2])
    np.testing.assert_array_equal(index.outcome, [1, 255, 0])  # crowded, a crowd, accepted
    assert len(index.others(0)) == 2
    counts = index.reason_counts()
    assert counts.pop('accepted') == 1 and counts.pop('crowded') == 1 and sum(counts.values()) == 0


def test_build_crop_index__nothing_fits(coco_scenes):
    with pytest.raises(ValueError, match=r'None of 24 objects has a window under these rules \(24 too small\)'):
        build_crop_index(read_scenes([coco_scenes]), 2000)


def test_build_crop_index__progress_ends_at_the_number_of_objects(coco_scenes):
    calls = []
    build_crop_index(read_scenes([coco_scenes]), 64, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(24, 24)]


def test_content_hash__depends_on_each_input(coco_scenes):
    annotation = coco_scenes[0]
    hashes = {content_hash([annotation], 64, WindowRules()), content_hash([annotation], 65, WindowRules())}
    hashes.add(content_hash([annotation], 64, WindowRules(min_fill=0.2)))
    assert content_hash([annotation], (64, 64), WindowRules()) in hashes
    hashes.add(content_hash([annotation], 64, WindowRules(), empty_scenes='overlap'))
    hashes.add(content_hash([annotation], 64, WindowRules(), selection=Selection(top_n=5)))
    hashes.add(content_hash([annotation, annotation], 64, WindowRules()))
    annotation.write_text(annotation.read_text() + ' ')
    hashes.add(content_hash([annotation], 64, WindowRules()))
    assert len(hashes) == 7
    assert build_crop_index(read_scenes([coco_scenes]), 64).content_hash in hashes


@pytest.fixture
def many(tmp_path):
    """3,000 objects of 400 scenes, with masks."""
    path = tmp_path / 'many.json'
    write_annotations(path, images=400, objects=3000, seed=1)
    return read_scenes([(path, tmp_path)], check_files=False)


def columns_of(index):
    return {name: getattr(index, name) for name in ('outcome', 'targets', 'target_scenes', 'windows')}


def test_build_crop_index__the_same_in_chunks_and_threads(many, monkeypatch):
    whole = columns_of(build_crop_index(many, 64))
    assert 500 < len(whole['targets']) < 2900
    assert (np.diff(whole['target_scenes']) >= 0).all()
    for chunk, workers in ((1, 1), (100, 3), (700, 2)):
        monkeypatch.setattr(building, '_CHUNK', chunk)
        calls = [(0, 0)]
        found = build_crop_index(many, 64, progress=lambda *numbers, to=calls: to.append(numbers), workers=workers)
        for name, column in columns_of(found).items():
            np.testing.assert_array_equal(column, whole[name], err_msg=name)
        assert calls == sorted(calls) and calls[-1] == (len(many.boxes),) * 2


def test_build_crop_index__an_interrupted_build_goes_on(many, monkeypatch, tmp_path):
    monkeypatch.setattr(building, '_CHUNK', 500)
    whole = columns_of(build_crop_index(many, 64))
    real, calls = building.decide, []

    def counted(boxes, *arguments):
        calls.append(len(boxes))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(boxes, *arguments)

    monkeypatch.setattr(building, 'decide', counted)
    with pytest.raises(KeyboardInterrupt):
        build_crop_index(many, 64, parts=PartFiles(tmp_path / 'parts', 'key'))
    assert len(PartFiles(tmp_path / 'parts', 'key')) == 3
    build_crop_index(many, 48, parts=PartFiles(tmp_path / 'parts', 'key'))  # another crop size uses none of them
    before = len(calls)
    found = build_crop_index(many, 64, parts=PartFiles(tmp_path / 'parts', 'key'))
    assert len(calls) - before == len(calls[4:before]) - 3
    for name, column in columns_of(found).items():
        np.testing.assert_array_equal(column, whole[name], err_msg=name)


def test_build_crop_index__refuses_an_unknown_rule_for_empty_scenes(many):
    with pytest.raises(ValueError, match="empty_scenes must be one of skip, overlap, not 'all'"):
        build_crop_index(many, 64, empty_scenes='all')


def test_build_crop_index__empty_scenes_by_the_overlap_rule(write_coco):
    """Two scenes without a good object, one of them too small for any window, between two that have one."""
    good, tiny = [20, 20, 40, 40], [5, 5, 2, 2]
    scenes = [('a.png', (100, 80), [good]), ('b.png', (100, 80), [tiny]), ('c.png', (12, 12), [tiny])]
    pair = write_coco([*scenes, ('d.png', (60, 90), []), ('e.png', (100, 80), [good])])
    skipped = build_crop_index(read_scenes([pair]), 64)
    np.testing.assert_array_equal(skipped.target_scenes, [0, 4])
    index = build_crop_index(read_scenes([pair]), 64, empty_scenes='overlap')
    np.testing.assert_array_equal(index.target_scenes, [0, 1, 3, 4])
    np.testing.assert_array_equal(index.targets, [0, -1, -1, 3])
    np.testing.assert_array_equal(index.windows[[0, 3]], skipped.windows)
    np.testing.assert_allclose(index.windows[2], [0, 5, 60, 85], atol=0.02)  # 60x90 at the aspect of 3/4
    assert index.content_hash != skipped.content_hash
    assert 'windows of whole scenes (overlap)  ' in index.summary()
    for number in (1, 2):
        window, own = index.draw(number, np.random.default_rng(0)).astype(float), index.windows[number].astype(float)
        common = np.prod(np.minimum(window[2:], own[2:]) - np.maximum(window[:2], own[:2]))
        areas = [np.prod(w[2:] - w[:2]) for w in (window, own)]
        assert common / (sum(areas) - common) > 0.5
