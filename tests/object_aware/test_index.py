"""The crop index: the round trip through its file, files that it refuses, and what worker processes cost."""

import json
import multiprocessing
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from object_aware.building import build_crop_index
from object_aware.byte_strings import ByteStrings
from object_aware.columns_file import read_columns, write_columns
from object_aware.index import CropIndex, as_size
from object_aware.rules import WindowRules, violations
from object_aware.scenes import read_scenes


@pytest.fixture
def index_file(coco_scenes, tmp_path):
    path = tmp_path / 'crops.safetensors'
    build_crop_index(read_scenes([coco_scenes]), 64).save(path)
    return path


def same(first: CropIndex, second: CropIndex) -> None:
    for name, value in vars(first).items():
        found = getattr(second, name)
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(found, value, err_msg=name)
            assert found.dtype == value.dtype, name
        elif isinstance(value, ByteStrings):
            assert list(found) == list(value)
        elif name != 'path':
            assert found == value, name


def test_crop_index__round_trip(coco_scenes, tmp_path):
    index = build_crop_index(read_scenes([coco_scenes]), (48, 64), WindowRules(min_fill=0.2))
    path = tmp_path / 'deep' / 'crops.safetensors'
    index.save(path)
    assert [file.name for file in path.parent.iterdir()] == ['crops.safetensors']  # nothing temporary is left
    same(index, CropIndex.load(path))
    assert not CropIndex.load(path).windows.flags.writeable


def test_crop_index__round_trip_with_masks_tar_files_and_empty_scenes(tmp_path, rng):
    masks = ByteStrings.of([b'', b'abc', b''])
    (tmp_path / 'a.tar').touch()
    index = CropIndex(
        folder_of=np.array([0, 1], dtype=np.int32),
        names=[b'x/1.jpg', 'ü.jpg'.encode()],
        sizes=np.array([[60, 50], [40, 30]], dtype=np.int32),
        object_offsets=np.array([0, 3, 3]),
        boxes=rng.random((3, 4)).astype(np.float32),
        classes=np.array([0, 0, 1], dtype=np.int32),
        crowd=np.array([False, True, False]),
        outcome=np.array([0, 255, 1], dtype=np.uint8),
        targets=np.array([0, -1]),
        target_scenes=np.array([0, 1]),
        windows=rng.random((2, 4)).astype(np.float32),
        out_size=(8, 8),
        rules=WindowRules(measure='box'),
        folders=('.', 'a.tar'),
        base=str(tmp_path),
        class_names=('one', 'two'),
        left_out={'clipped': 2},
        content_hash='abc',
        mask_offsets=masks.offsets,
        mask_bytes=masks.data,
        tar_offset=np.array([-1, 512]),
        tar_size=np.array([-1, 77]),
    )
    index.save(tmp_path / 'index')
    loaded = CropIndex.load(tmp_path / 'index')
    same(index, loaded)
    assert list(loaded.masks) == [b'', b'abc', b'']
    assert loaded.image_folders() == [tmp_path, tmp_path / 'a.tar']
    assert loaded.image_bytes_location(0) == (str(tmp_path / '.' / 'x' / '1.jpg'), 0, None)
    assert loaded.image_bytes_location(1, loaded.image_folders()) == (str(tmp_path / 'a.tar'), 512, 77)
    assert len(loaded.others(0)) == 2 and len(loaded.others(1)) == 0
    np.testing.assert_array_equal(loaded.used_scenes, [0, 1])
    (tmp_path / 'a.tar').unlink()
    with pytest.raises(FileNotFoundError, match=r'Tar file .*a\.tar of the crop index does not exist'):
        loaded.image_folders()


def test_crop_index__same_inputs_same_bytes(coco_scenes, tmp_path):
    for name in ('one', 'two'):
        build_crop_index(read_scenes([coco_scenes]), 64).save(tmp_path / name)
    assert (tmp_path / 'one').read_bytes() == (tmp_path / 'two').read_bytes()


def test_crop_index__takes_no_room_for_masks_that_are_not_there(index_file):
    columns = read_columns(index_file).columns
    assert columns['mask_offsets'].size == 0 and columns['tar_offset'].size == 0
    index = CropIndex.load(index_file)
    assert len(index.mask_offsets) == len(index.boxes) + 1 and list(index.masks) == [b''] * 24


def test_draw__obeys_the_rules_and_depends_on_the_generator_alone(index_file):
    index = CropIndex.load(index_file)
    for number in range(len(index)):
        window = index.draw(number, np.random.default_rng(number))
        np.testing.assert_array_equal(window, index.draw(number, np.random.default_rng(number)))
        box = index.boxes[index.targets[number]]
        assert violations(window, box, index.others(number), (200, 180), (64, 64), index.rules) == []
        assert (window != index.draw(number, np.random.default_rng(number + 1))).any()


def test_draw__measures_by_the_mask(write_coco, tmp_path):
    """A large box whose mask is a small corner of it: windows must hold and centre what the rules say of the mask."""
    annotation, folder = write_coco([('a.png', (200, 180), [[40, 30, 100, 100]])])
    content = json.loads(annotation.read_text())
    content['annotations'][0]['segmentation'] = [
        [40, 30, 140, 30, 140, 130, 40, 130, 40, 120, 130, 120, 130, 40, 40, 40]
    ]
    annotation.write_text(json.dumps(content))
    pair = [(annotation, folder)]
    by_mask = build_crop_index(read_scenes(pair), 32, WindowRules(min_fill=0.2))
    by_box = build_crop_index(read_scenes(pair), 32, WindowRules(min_fill=0.2, measure='box'))
    assert len(by_mask.mask_bytes) and len(by_mask) == len(by_box) == 1
    fills = []
    for index in (by_mask, by_box):
        windows = np.array([index.draw(0, np.random.default_rng(k)) for k in range(200)], dtype=np.float64)
        fills.append(10_000 / np.prod(windows[:, 2:] - windows[:, :2], axis=1))
    assert fills[1].min() < 0.4 < fills[0].min()  # the mask fills 0.28 of its box


def test_image_folders__move_with_the_index_or_by_image_root(coco_scenes, tmp_path):
    folder = coco_scenes[1]
    build_crop_index(read_scenes([coco_scenes]), 64).save(tmp_path / 'crops.safetensors')
    assert CropIndex.load(tmp_path / 'crops.safetensors').image_folders() == [folder]
    # Index and images moved together.
    (tmp_path / 'elsewhere').mkdir()
    shutil.copytree(folder, tmp_path / 'elsewhere' / 'images')
    shutil.copy(tmp_path / 'crops.safetensors', tmp_path / 'elsewhere')
    moved = CropIndex.load(tmp_path / 'elsewhere' / 'crops.safetensors')
    assert moved.image_folders() == [tmp_path / 'elsewhere' / 'images']
    # The index alone moved: the images are where they were.
    (tmp_path / 'alone').mkdir()
    shutil.copy(tmp_path / 'crops.safetensors', tmp_path / 'alone')
    assert CropIndex.load(tmp_path / 'alone' / 'crops.safetensors').image_folders() == [folder]
    # The images alone moved.
    folder.rename(tmp_path / 'renamed')
    index = CropIndex.load(tmp_path / 'crops.safetensors')
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


def rewrite(path, change_columns=None, **metadata):
    content = read_columns(path)
    columns = {name: column.copy() for name, column in content.columns.items()}
    write_columns(path, (change_columns or (lambda x: x))(columns), {**content.metadata, **metadata})


def test_load__refuses_what_it_cannot_read(index_file):
    path = index_file
    whole = path.read_bytes()
    with pytest.raises(FileNotFoundError, match=r'Crop index .*none\.safetensors does not exist: build it with'):
        CropIndex.load(path.with_name('none.safetensors'))
    for length in (0, 10, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:length])
        with pytest.raises(
            ValueError, match=r'is not a crop index, or it is cut short or damaged \(it .*build it anew'
        ):
            CropIndex.load(path)
    path.write_bytes(whole[:-30] + bytes([whole[-30] ^ 255]) + whole[-29:])
    with pytest.raises(ValueError, match=r'is damaged \(wrong checksum of name_bytes\): build it anew'):
        CropIndex.load(path)
    with pytest.raises(ValueError, match='wrong checksum'):
        CropIndex.load(path, verify=False).verify()
    path.write_text('just a text of some length')
    with pytest.raises(ValueError, match='is not a crop index'):
        CropIndex.load(path)
    np.savez(path.open('wb'), header=np.zeros(3))
    with pytest.raises(ValueError, match=r'is an npz file of version 1, this code reads version 2: build it anew'):
        CropIndex.load(path)
    write_columns(path, dict(weight=np.zeros(3, dtype=np.float32)), dict(format='pt'))
    with pytest.raises(ValueError, match='is not a crop index: build it anew'):
        CropIndex.load(path)


@pytest.mark.parametrize(
    ('change', 'sentence'),
    [
        (dict(version='99'), 'has version 99, this code reads version 2'),
        (dict(header='{}'), 'its header cannot be read'),
        (dict(header='{'), 'its header cannot be read'),
        (dict(change_columns=lambda c: {**c, 'windows': c['windows'][:-1]}), 'column windows has a wrong length'),
        (dict(change_columns=lambda c: {**c, 'windows': c['windows'].astype('f8')}), 'column windows is missing or of'),
        (dict(change_columns=lambda c: {k: v for k, v in c.items() if k != 'boxes'}), 'column boxes is missing'),
        (dict(change_columns=lambda c: {**c, 'mask_bytes': np.zeros(9, 'u1')}), 'its mask_offsets do not fit'),
        (dict(change_columns=lambda c: {**c, 'tar_size': np.zeros(9, 'i8')}), 'column tar_size has a wrong length'),
        (dict(change_columns=lambda c: {**c, 'object_offsets': c['object_offsets'] + 1}), 'do not fit its boxes'),
    ],
)
def test_load__refuses_a_file_that_does_not_fit_together(index_file, change, sentence):
    rewrite(index_file, **change)
    with pytest.raises(ValueError, match=sentence):
        CropIndex.load(index_file)


def test_crop_index__is_pickled_as_its_path(index_file, coco_scenes):
    index = CropIndex.load(index_file)
    text = pickle.dumps(index)
    assert len(text) < 1000
    again = pickle.loads(text)
    same(index, again)
    np.testing.assert_array_equal(again.draw(3, np.random.default_rng(1)), index.draw(3, np.random.default_rng(1)))
    fresh = build_crop_index(read_scenes([coco_scenes]), 48)
    same(fresh, pickle.loads(pickle.dumps(fresh)))  # one that was never saved, with its columns
    fresh.save(index_file)
    with pytest.raises(ValueError, match='was built anew while it was in use'):
        pickle.loads(text)


def big_index(path: Path, scenes: int) -> CropIndex:
    """An index of many scenes with eight objects each, made of columns."""
    grid = np.array([[x, y, x + 60, y + 60] for y in (20, 120) for x in (20, 120, 220, 320)], dtype=np.float32)
    crops = 8 * scenes
    CropIndex(
        folder_of=np.zeros(scenes, dtype=np.int32),
        names=ByteStrings.of([b'%012d.jpg' % k for k in range(scenes)]),
        sizes=np.full((scenes, 2), (420, 220), dtype=np.int32),
        object_offsets=8 * np.arange(scenes + 1),
        boxes=np.tile(grid, (scenes, 1)),
        classes=np.zeros(crops, dtype=np.int32),
        crowd=np.zeros(crops, dtype=bool),
        outcome=np.zeros(crops, dtype=np.uint8),
        targets=np.arange(crops),
        target_scenes=np.repeat(np.arange(scenes), 8),
        windows=np.tile(grid, (scenes, 1)),
        out_size=(64, 64),
        rules=WindowRules(),
        folders=('.',),
        base=str(path.parent),
        class_names=('thing',),
        left_out={},
        content_hash='made for a test',
    ).save(path)
    return CropIndex.load(path)


def own_bytes() -> int:
    """Memory that this process alone has written; what is mapped from a file is not in it."""
    lines = Path('/proc/self/smaps_rollup').read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith('Private_Dirty'))


def draw_everywhere(index: CropIndex, answer) -> None:
    """Work of a loader worker: windows of crops all over the index."""
    rng = np.random.default_rng(0)
    for number in rng.integers(0, len(index), 2000).tolist():
        assert index.draw(number, rng) is not None
        index.image_bytes_location(int(index.target_scenes[number]))
    answer.put(own_bytes())


@pytest.mark.skipif(not Path('/proc/self/smaps_rollup').exists(), reason='the system does not tell private memory')
@pytest.mark.parametrize('start_method', ['fork', 'spawn'])
def test_crop_index__a_worker_process_copies_nothing_of_it(tmp_path, start_method):
    """A worker that draws from all of 640,000 objects (38 MB) has no more memory of its own than one with eight."""
    context = multiprocessing.get_context(start_method)
    memory = []
    for scenes in (1, 80_000):
        index = big_index(tmp_path / f'{scenes}.safetensors', scenes)
        index.draw(0, np.random.default_rng(0))
        answer = context.Queue()
        worker = context.Process(target=draw_everywhere, args=(index, answer))
        worker.start()
        memory.append(answer.get(timeout=300))
        worker.join()
    assert (tmp_path / '80000.safetensors').stat().st_size > 35e6
    assert memory[1] - memory[0] < 8 * 2**20
    if start_method == 'fork':
        assert memory[1] < 50 * 2**20  # all that a worker adds


@pytest.mark.parametrize('size', [0, -4, (4,), (4, 5, 6), (4.5, 4), 'ab'])
def test_as_size__refuses(size):
    with pytest.raises(ValueError, match='A crop size must be'):
        as_size(size)


def test_summary__has_every_number(coco_scenes):
    text = build_crop_index(read_scenes([coco_scenes]), 64).summary()
    assert '8 scenes, 24 objects and 0 crowd regions' in text
    assert ['accepted', '24', '100.0', '%'] in [line.split() for line in text.splitlines()]
