"""COCO files at scale: the same columns whatever the layout, the size of the pieces and the processes."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco

from object_aware import coco_reading
from object_aware.coco_objects import Lookup
from object_aware.part_files import PartFiles
from object_aware.scenes import Scenes, read_scenes

COLUMNS = ('folder_of', 'sizes', 'boxes', 'scene_of', 'classes', 'crowd', 'mask_offsets', 'mask_bytes')


@pytest.fixture
def content(rng):
    """300 objects of 30 scenes in random order, with polygons, run lengths and crowds."""
    images = [dict(id=100 + 7 * k, file_name=f'ü/{k}.jpg', width=60 + k, height=50, license=[1]) for k in range(30)]
    annotations = []
    for k in range(300):
        scene = int(rng.integers(30))
        x, y, w, h = (float(v) for v in np.round([*rng.uniform(0, 30, 2), *rng.uniform(3, 20, 2)], 2))
        segmentation = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        if k % 7 == 0:
            segmentation.append([x, y, x + 3, y, x, y + 3])
        if k % 5 == 0:
            painted = np.zeros((50, 60 + scene), dtype=np.uint8, order='F')
            painted[int(y) : int(y + h), int(x) : int(x + w)] = 1
            counts = coco.encode(painted)
            segmentation = dict(size=[50, 60 + scene], counts=counts['counts'].decode())
        annotations.append(
            dict(
                id=k + 5,
                image_id=images[scene]['id'],
                category_id=[3, 9][k % 2],
                bbox=[x, y, w, h],
                iscrowd=int(k % 11 == 0),
                segmentation=segmentation,
                area=w * h,
                attributes=dict(bbox='"}]', annotations=[1]),
            )
        )
    categories = [dict(id=9, name='nine'), dict(id=3, name='three')]
    return dict(info=dict(annotations=[]), images=images, annotations=annotations, categories=categories)


@pytest.fixture
def read(tmp_path):
    def read(content, **options) -> Scenes:
        layout = options.pop('layout', {})
        path = tmp_path / 'annotations.json'
        path.write_text(content if isinstance(content, str) else json.dumps(content, **layout))
        return read_scenes([(path, tmp_path)], check_files=False, **options)

    return read


def same(first: Scenes, second: Scenes) -> None:
    assert list(first.names) == list(second.names)
    assert first.class_names == second.class_names and first.left_out == second.left_out
    for name in COLUMNS:
        one, two = getattr(first, name), getattr(second, name)
        assert one.dtype == two.dtype, name
        np.testing.assert_array_equal(one, two, err_msg=name)


def test_read__columns_agree_with_the_content(read, content):
    scenes = read(content)
    rows = sorted(content['annotations'], key=lambda item: item['image_id'])  # stable, as the columns are
    assert [content['images'][k]['id'] for k in scenes.scene_of] == [row['image_id'] for row in rows]
    x, y, w, h = np.array([row['bbox'] for row in rows]).T
    np.testing.assert_array_equal(scenes.boxes, np.stack([x, y, x + w, y + h], axis=1).astype(np.float32))
    assert [scenes.class_names[k] for k in scenes.classes] == [{3: 'three', 9: 'nine'}[r['category_id']] for r in rows]
    np.testing.assert_array_equal(scenes.crowd, [bool(row['iscrowd']) for row in rows])
    for row, mask in zip(rows, scenes.masks):
        height, width = 50, 60 + (row['image_id'] - 100) // 7
        segmentation = row['segmentation']
        if isinstance(segmentation, list):
            segmentation = coco.merge(coco.frPyObjects(segmentation, height, width))
        found = coco.decode(dict(size=[height, width], counts=mask))
        np.testing.assert_array_equal(found, coco.decode(segmentation))


def test_read__the_same_in_pieces_of_any_size(read, content, monkeypatch):
    whole = read(content)
    for piece in (1, 300, 5000):
        monkeypatch.setattr(coco_reading, '_PIECE', piece)
        same(read(content), whole)


@pytest.mark.parametrize('start_method', ['fork', 'spawn'])
def test_read__the_same_in_processes(read, content, monkeypatch, start_method):
    whole = read(content)
    monkeypatch.setattr(coco_reading, '_PIECE', 4000)
    monkeypatch.setattr(coco_reading, '_WHOLE', 0)
    same(read(content, workers=2, start_method=start_method), whole)


def test_read__the_same_in_any_layout(read, content, monkeypatch):
    monkeypatch.setattr(coco_reading, '_PIECE', 3000)
    whole = read(content)
    for keys in (('annotations', 'categories', 'images'), ('categories', 'annotations', 'images', 'info')):
        for layout in (dict(indent=2), dict(separators=(',', ':')), dict(ensure_ascii=False, indent='\t')):
            same(read({key: content[key] for key in keys}, layout=layout), whole)


def test_read__the_same_with_odd_entries_in_a_piece(read, content, monkeypatch):
    """One NaN, one missing box and one string make their pieces take the slow way; the others must not change."""
    whole = read(content)
    odd = dict(image_id=100, category_id=3)
    content['annotations'] += [
        dict(odd, id=9001, bbox=[float('nan'), 1, 2, 3]),
        dict(odd, id='a word', bbox=[1, 2, 3]),
        dict(odd, bbox='none'),
    ]
    for piece in (1, 2000, 10**9):
        monkeypatch.setattr(coco_reading, '_PIECE', piece)
        scenes = read(content)
        assert scenes.left_out['NaN or infinite'] == 1 and scenes.left_out['no box of four numbers'] == 2
        np.testing.assert_array_equal(scenes.boxes, whole.boxes)
        np.testing.assert_array_equal(scenes.mask_bytes, whole.mask_bytes)
        np.testing.assert_array_equal(scenes.crowd, whole.crowd)


def test_read__ids_may_be_strings_or_far_apart(read, content):
    whole = read(content)
    for change in (str, lambda key: key * 10**12):
        images = [dict(item, id=change(item['id'])) for item in content['images']]
        annotations = [dict(item, image_id=change(item['image_id'])) for item in content['annotations']]
        same(read(dict(content, images=images, annotations=annotations)), whole)


def test_read__another_encoding(read, content, tmp_path):
    whole = read(content)
    path = tmp_path / 'annotations.json'
    for encoding in ('utf-8-sig', 'utf-16'):
        path.write_text(json.dumps(content), encoding=encoding)
        same(read_scenes([(path, tmp_path)], check_files=False), whole)


def test_read__errors_are_found_across_pieces(read, content, monkeypatch):
    monkeypatch.setattr(coco_reading, '_PIECE', 1)
    first = content['annotations'][0]
    with pytest.raises(ValueError, match=r'has 1 annotation ids more than once \(5\)'):
        read(dict(content, annotations=[*content['annotations'], first]))
    with pytest.raises(ValueError, match=r'has 1 annotation ids more than once \(a\)'):
        read(dict(content, annotations=[*content['annotations'], dict(first, id='a'), dict(first, id='a')]))
    absent = [dict(first, id=k, image_id=k % 2) for k in range(1000, 1003)]
    with pytest.raises(
        ValueError, match=r'3 annotations name 2 images that are not in its image list \(image ids 0, 1'
    ):
        read(dict(content, annotations=[*content['annotations'], *absent]))
    with pytest.raises(ValueError, match=r'category ids that it does not define \(77\)'):
        read(dict(content, annotations=[*content['annotations'], dict(first, id=1000, category_id=77)]))
    with pytest.raises(ValueError, match='is not a json file'):
        read(json.dumps(content)[:-300])
    broken = json.dumps(content).replace('"iscrowd": 1', '"iscrowd": 1 1')
    with pytest.raises(ValueError, match=r'is not a json file \(Expecting'):
        read(broken)


def test_read__masks_that_cannot_be_read_are_counted_and_the_box_is_used(read, content):
    bad = [
        [[1, 2, 3]],
        [[1, 2, 3, 'x', 4, 5]],
        [[1, 2, float('nan'), 4, 5, 6]],
        dict(size=[1, 1], counts=[1]),
        dict(size=[50, 60], counts='\x01'),
        'polygon',
        5,
    ]
    none = [None, [], {}]
    content['annotations'] = [
        dict(id=k, image_id=100, category_id=3, bbox=[1, 2, 30, 40], segmentation=segmentation)
        for k, segmentation in enumerate([*bad, *none, [[1, 2, 31, 2, 31, 42]]])
    ]
    scenes = read(content)
    assert scenes.left_out['bad mask'] == len(bad)
    assert len(scenes.boxes) == len(bad) + len(none) + 1
    assert [bool(mask) for mask in scenes.masks] == [False] * (len(bad) + len(none)) + [True]
    assert read(content, masks=False).mask_bytes.size == 0


@pytest.mark.parametrize('masks', [True, False])
def test_read__a_missing_box_is_that_of_the_mask(read, content, masks):
    entry = dict(image_id=100, category_id=3, segmentation=[[10, 20, 30, 20, 30, 45, 10, 45]])
    content['annotations'] = [
        dict(entry, id=1),
        dict(entry, id=2, bbox=None),
        dict(entry, id=3, bbox=[1, 1, 5, 5]),
        dict(entry, id=4, segmentation=[[1, 2]]),  # neither
    ]
    scenes = read(content, masks=masks)
    np.testing.assert_array_equal(scenes.boxes, [[10, 20, 30, 45], [10, 20, 30, 45], [1, 1, 6, 6]])
    assert scenes.left_out['box of the mask'] == 2 and scenes.left_out['no box of four numbers'] == 1


def test_read__an_interrupted_reading_goes_on(read, content, tmp_path, monkeypatch):
    monkeypatch.setattr(coco_reading, '_PIECE', 4000)
    whole = read(content)
    calls = []
    real = coco_reading.read_piece

    def counted(context, piece):
        calls.append(piece)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(context, piece)

    monkeypatch.setattr(coco_reading, 'read_piece', counted)
    with pytest.raises(KeyboardInterrupt):
        read(content, parts=PartFiles(tmp_path / 'parts', 'key'))
    pieces = len(list((tmp_path / 'parts').glob('*.safetensors')))
    assert pieces == 4
    same(read(content, parts=PartFiles(tmp_path / 'parts', 'key')), whole)
    assert len(set(calls)) == len(calls) - 1  # only the one that was interrupted was done twice
    content['annotations'][0]['bbox'][0] += 1  # another file: nothing of the old one is used
    assert read(content, parts=PartFiles(tmp_path / 'parts', 'key')).boxes[:, 0].sum() != whole.boxes[:, 0].sum()


def test_lookup__table_and_search_agree(rng):
    near, far = rng.permutation(500) + 7, rng.choice(10**15, 500, replace=False)
    for ids in (near, far):
        lookup = Lookup(ids.astype(np.int64))
        keys = np.concatenate([ids[::-3], [-1, 10**16, ids.max() + 1, ids.min() - 1]]).astype(np.int64)
        expected = [next((k for k, known in enumerate(ids) if known == key), -1) for key in keys]
        np.testing.assert_array_equal(lookup.rows(keys), expected)
        assert [lookup.row(int(key)) for key in keys] == expected
