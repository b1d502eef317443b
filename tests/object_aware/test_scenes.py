"""What is read from COCO files, and one sentence for each way in which the input can be bad."""

import json

import numpy as np
import pytest

from object_aware.scenes import read_scenes


def test_read_scenes__columns(write_coco):
    pair = write_coco(
        [
            ('a.png', (60, 40), [[1, 2, 10, 20]]),
            ('sub/b.png', (50, 30), []),
            ('ü c.png', (40, 80), [[5, 5, 7, 9], [0, 0, 4, 4]]),
        ]
    )
    scenes = read_scenes([pair])
    assert [name.decode() for name in scenes.names] == ['a.png', 'sub/b.png', 'ü c.png']
    np.testing.assert_array_equal(scenes.sizes, [[60, 40], [50, 30], [40, 80]])
    np.testing.assert_array_equal(scenes.boxes, np.float32([[1, 2, 11, 22], [5, 5, 12, 14], [0, 0, 4, 4]]))
    assert scenes.boxes.dtype == np.float32
    np.testing.assert_array_equal(scenes.scene_of, [0, 2, 2])
    np.testing.assert_array_equal(scenes.object_offsets, [0, 1, 1, 3])
    assert scenes.class_names == ('thing',)
    assert not scenes.crowd.any()
    assert sum(scenes.left_out.values()) == 0


def test_read_scenes__objects_are_sorted_by_scene(write_coco):
    annotation, folder = write_coco([('a.png', (60, 40), [[1, 1, 10, 10]]), ('b.png', (60, 40), [[2, 2, 10, 10]])])
    content = json.loads(annotation.read_text())
    content['annotations'] = content['annotations'][::-1]
    content['annotations'][0]['iscrowd'] = 1
    annotation.write_text(json.dumps(content))
    scenes = read_scenes([(annotation, folder)])
    np.testing.assert_array_equal(scenes.scene_of, [0, 1])
    np.testing.assert_array_equal(scenes.boxes[:, 0], [1, 2])
    np.testing.assert_array_equal(scenes.crowd, [False, True])


def test_read_scenes__joins_pairs_and_equal_class_names(write_coco):
    first = write_coco([('a.png', (60, 40), [[1, 2, 10, 20]])], name='one', folder='one')
    second = write_coco(
        [('b.png', (60, 40), [[3, 2, 10, 20]])],
        name='two',
        folder='two',
        categories=[dict(id=3, name='extra'), dict(id=7, name='thing')],
    )
    scenes = read_scenes([first, second])
    assert scenes.folders == (str(first[1]), str(second[1]))
    np.testing.assert_array_equal(scenes.folder_of, [0, 1])
    np.testing.assert_array_equal(scenes.scene_of, [0, 1])
    assert [scenes.class_names[k] for k in scenes.classes] == ['thing', 'thing']


def test_read_scenes__bad_boxes_are_counted_and_left_out(write_coco):
    boxes = [
        [5, 5, 10, 10],  # good
        [5, 5, 0, 10],
        [5, 5, 10, -3],
        [float('nan'), 5, 10, 10],
        [5, 5, float('inf'), 10],
        [70, 5, 10, 10],  # outside
        [-20, -20, 20, 20],  # touches the corner only
        [50, 30, 40, 40],  # reaches over the border
        [55, 35, 5.4, 5.4],  # so little over that it is rounding
        [1, 2, 3],
        None,
        ['a', 1, 2, 3],
    ]
    scenes = read_scenes([write_coco([('a.png', (60, 40), boxes)])])
    np.testing.assert_allclose(scenes.boxes, [[5, 5, 15, 15], [50, 30, 60, 40], [55, 35, 60, 40]])
    assert scenes.left_out == {
        'no box of four numbers': 3,
        'NaN or infinite': 2,
        'zero or negative size': 2,
        'outside the image': 2,
        'clipped': 1,
        'bad mask': 0,
        'box of the mask': 0,
    }


def changed(write_coco, **changes):
    return write_coco([('a.png', (60, 40), [[1, 2, 10, 20]]), ('b.png', (60, 40), [[1, 2, 10, 20]])], **changes)


IMAGE = dict(id=10, file_name='a.png', width=60, height=40)
BOX = dict(id=1, image_id=10, category_id=7, bbox=[1, 1, 5, 5])


@pytest.mark.parametrize(
    ('changes', 'sentence'),
    [
        (dict(categories=[]), 'has an empty category list'),
        (dict(annotations=[]), 'has no objects'),
        (dict(images=[]), 'has no images'),
        (dict(annotations='none'), 'is not a COCO annotation file: it needs the lists'),
        (dict(images=[IMAGE, dict(IMAGE, file_name='b.png')]), r'has 1 image ids more than once \(10\)'),
        (dict(annotations=[BOX, BOX]), r'has 1 annotation ids more than once \(1\)'),
        (
            dict(categories=[dict(id=7, name='x'), dict(id=7, name='y')]),
            r'has 1 category ids more than once \(7\)',
        ),
        (
            dict(annotations=[dict(BOX, id=k, image_id=k) for k in (10, 91, 92, 93, 94)]),
            r'4 annotations name 4 images that are not in its image list \(image ids 91, 92, 93, \.\.\.\)',
        ),
        (dict(annotations=[dict(BOX, category_id=8)]), r'category ids that it does not define \(8\)'),
        (dict(images=[IMAGE, dict(IMAGE, id=11)]), r'lists 1 image files more than once \(a\.png\)'),
        (dict(images=[dict(IMAGE, width=0), dict(IMAGE, id=11, file_name='b.png')]), 'width or height of zero or less'),
        (dict(images=[dict(id=10, file_name='a.png'), IMAGE | dict(id=11)]), 'more than once|missing or wrong field'),
        (dict(images=[dict(id=10, file_name='a.png')], annotations=[BOX]), r'missing or wrong field .*width'),
        (dict(annotations=[dict(id=1, category_id=7, bbox=[1, 1, 5, 5])]), r'missing or wrong field .*image_id'),
        (dict(annotations=[dict(BOX, bbox=[1, 1, 0, 5])]), r'has no usable box: all 1 are left out \(1 zero or neg'),
    ],
)
def test_read_scenes__bad_content(write_coco, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        read_scenes([changed(write_coco, **changes)])


def test_read_scenes__missing_inputs(write_coco, tmp_path):
    annotation, folder = changed(write_coco)
    with pytest.raises(FileNotFoundError, match=r'Annotation file .*none\.json does not exist'):
        read_scenes([(tmp_path / 'none.json', folder)])
    with pytest.raises(FileNotFoundError, match=r'Image folder .*nowhere .*does not exist'):
        read_scenes([(annotation, tmp_path / 'nowhere')])
    with pytest.raises(ValueError, match='No scenes given'):
        read_scenes([])
    (folder / 'b.png').unlink()
    with pytest.raises(FileNotFoundError, match=r'1 of 2 images of .* are not in .*images \(b\.png\)'):
        read_scenes([(annotation, folder)])
    assert len(read_scenes([(annotation, folder)], check_files=False)) == 2
    annotation.write_text('{"images": [')
    with pytest.raises(ValueError, match='is not a json file'):
        read_scenes([(annotation, folder)])
    annotation.write_text('12')
    with pytest.raises(ValueError, match='is not a COCO annotation file'):
        read_scenes([(annotation, folder)])


def test_read_scenes__one_image_in_two_files(write_coco):
    one, folder = changed(write_coco, name='one')
    two, _ = changed(write_coco, name='two')
    with pytest.raises(ValueError, match=r'2 images stand in more than one annotation file \(.*a\.png, .*b\.png\)'):
        read_scenes([(one, folder), (two, folder)])
