"""A few hundred mutated annotation files; fuzz_annotations.py by hand does many more."""

import random

import pytest

from tests.object_aware import fuzz_annotations


def test_fuzz_annotations__a_few_hundred():
    counts, findings = fuzz_annotations.run(400, seed=11, seconds=120)
    assert not findings
    assert counts['refused'] > 200 and counts['read'] > 10


def test_fuzz_annotations__notices_other_boxes(tmp_path, monkeypatch):
    """The judge can find something: a reader that moves boxes is caught."""
    data = fuzz_annotations.sound_json()
    assert fuzz_annotations.judge(data, 'json', tmp_path) == 'read'
    right = fuzz_annotations.read_scenes

    def wrong(pairs, check_files):
        scenes = right(pairs, check_files=check_files)
        scenes.boxes[0] += 1
        return scenes

    monkeypatch.setattr(fuzz_annotations, 'read_scenes', wrong)
    assert fuzz_annotations.judge(data, 'json', tmp_path).startswith('other boxes')


@pytest.mark.parametrize('seed', range(3))
def test_mutate__same_seed_same_file(seed):
    data = fuzz_annotations.sound_json()
    assert fuzz_annotations.mutate(data, random.Random(seed)) == fuzz_annotations.mutate(data, random.Random(seed))
