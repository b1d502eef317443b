"""The crop index: what is in it, the round trip through its file, and files that it refuses."""

import json
import shutil

import numpy as np
import pytest

from object_aware.index import CropIndex, as_size, build_crop_index, content_hash
from object_aware.rules import WindowRules, violations
from object_aware.scenes import read_scenes


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
    assert index.reason_counts() == {
        'accepted': 1,
        'crowded': 1,
        'too small': 0,
        'too long': 0,
        'at the border': 0,
        'no window': 0,
    }


def test_build_crop_index__nothing_fits(coco_scenes):
    with pytest.raises(ValueError, match=r'None of 24 objects has a window under these rules \(24 too small\)'):
        build_crop_index(read_scenes([coco_scenes]), 2000)


def test_build_crop_index__progress_ends_at_the_number_of_objects(coco_scenes):
    calls = []
    build_crop_index(read_scenes([coco_scenes]), 64, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (24, 24)
    assert [done for done, _ in calls] == list(range(3, 25, 3))


def test_crop_index__round_trip(coco_scenes, tmp_path):
    index = build_crop_index(read_scenes([coco_scenes]), (48, 64), WindowRules(min_fill=0.2))
    path = tmp_path / 'deep' / 'crops.npz'
    index.save(path)
    assert [file.name for file in path.parent.iterdir()] == ['crops.npz']  # nothing temporary is left
    loaded = CropIndex.load(path)
    for name, value in vars(index).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(getattr(loaded, name), value, err_msg=name)
            assert getattr(loaded, name).dtype == value.dtype
        else:
            assert getattr(loaded, name) == value, name


def test_crop_index__same_inputs_same_bytes(coco_scenes, tmp_path):
    for name in ('one', 'two'):
        build_crop_index(read_scenes([coco_scenes]), 64).save(tmp_path / name)
    first, second = (dict(np.load(tmp_path / name)) for name in ('one', 'two'))
    assert all(np.array_equal(first[key], second[key]) for key in first)


def test_content_hash__depends_on_each_input(coco_scenes):
    annotation = coco_scenes[0]
    hashes = {content_hash([annotation], 64, WindowRules()), content_hash([annotation], 65, WindowRules())}
    hashes.add(content_hash([annotation], 64, WindowRules(min_fill=0.2)))
    assert content_hash([annotation], (64, 64), WindowRules()) in hashes
    annotation.write_text(annotation.read_text() + ' ')
    hashes.add(content_hash([annotation], 64, WindowRules()))
    assert len(hashes) == 4


def test_image_folders__move_with_the_index_or_by_image_root(coco_scenes, tmp_path):
    folder = coco_scenes[1]
    build_crop_index(read_scenes([coco_scenes]), 64).save(tmp_path / 'crops.npz')
    assert CropIndex.load(tmp_path / 'crops.npz').image_folders() == [folder]
    # Index and images moved together.
    (tmp_path / 'elsewhere').mkdir()
    shutil.copytree(folder, tmp_path / 'elsewhere' / 'images')
    shutil.copy(tmp_path / 'crops.npz', tmp_path / 'elsewhere')
    moved = CropIndex.load(tmp_path / 'elsewhere' / 'crops.npz')
    assert moved.image_folders() == [tmp_path / 'elsewhere' / 'images']
    # The index alone moved: the images are where they were.
    (tmp_path / 'alone').mkdir()
    shutil.copy(tmp_path / 'crops.npz', tmp_path / 'alone')
    assert CropIndex.load(tmp_path / 'alone' / 'crops.npz').image_folders() == [folder]
    # The images alone moved.
    folder.rename(tmp_path / 'renamed')
    index = CropIndex.load(tmp_path / 'crops.npz')
    with pytest.raises(FileNotFoundError, match=r'Image folder .*images of the crop index does not exist'):
        index.image_folders()
    assert index.image_folders(tmp_path / 'renamed') == [tmp_path / 'renamed']


def test_crop_index__several_folders_hang_on_one_base(write_coco, tmp_path):
    pairs = [
        write_coco([(f'{name}.png', (200, 180), [[20, 20, 40, 40]])], name=name, folder=f'{name}/images')
        for name in ('x', 'y')
        if (tmp_path / name).mkdir() is None
    ]
    index = build_crop_index(read_scenes(pairs), 64)
    assert index.folders == ('x/images', 'y/images')
    assert index.image_folders() == [pairs[0][1], pairs[1][1]]


def rewrite_header(path, **changes):
    content = dict(np.load(path))
    header = json.loads(content['header'].tobytes()) | changes
    content['header'] = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    with open(path, 'wb') as file:
        np.savez(file, **content)


def test_load__refuses_what_it_cannot_read(coco_scenes, tmp_path):
    path = tmp_path / 'crops.npz'
    build_crop_index(read_scenes([coco_scenes]), 64).save(path)
    whole = path.read_bytes()

    with pytest.raises(FileNotFoundError, match=r'Crop index .*none\.npz does not exist: build it with'):
        CropIndex.load(tmp_path / 'none.npz')
    for length in (0, 10, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r'cut short or damaged|is not a crop index'):
            CropIndex.load(path)
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :])
    with pytest.raises(ValueError, match='damaged'):
        CropIndex.load(path)
    path.write_text('just text')
    with pytest.raises(ValueError, match='is not a crop index'):
        CropIndex.load(path)
    np.save(tmp_path / 'array.npy', np.zeros(3))
    with pytest.raises(ValueError, match='is not a crop index'):
        CropIndex.load(tmp_path / 'array.npy')
    np.savez(path, header=np.array([{'format': 'x'}], dtype=object))  # a pickle is never opened
    with pytest.raises(ValueError, match='is not a crop index'):
        CropIndex.load(path)

    path.write_bytes(whole)
    rewrite_header(path, version=99)
    with pytest.raises(ValueError, match='has version 99, this code reads version 1'):
        CropIndex.load(path)
    path.write_bytes(whole)
    content = dict(np.load(path))
    np.savez(path, **{**content, 'windows': content['windows'][:-1]})
    with pytest.raises(ValueError, match='column windows has a wrong length'):
        CropIndex.load(path)
    np.savez(path, **{key: value for key, value in content.items() if key != 'boxes'})
    with pytest.raises(ValueError, match='column boxes is missing'):
        CropIndex.load(path)


@pytest.mark.parametrize('size', [0, -4, (4,), (4, 5, 6), (4.5, 4), 'ab'])
def test_as_size__refuses(size):
    with pytest.raises(ValueError, match='A crop size must be'):
        as_size(size)


def test_summary__has_every_number(coco_scenes):
    text = build_crop_index(read_scenes([coco_scenes]), 64).summary()
    assert '8 scenes, 24 objects and 0 crowd regions' in text
    assert ['accepted', '24', '100.0', '%'] in [line.split() for line in text.splitlines()]
