"""The drawn scenes: masks, boxes and label maps fit the pictures; the same seed writes the same bytes."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from object_aware import build_crop_index, read_scenes
from object_aware.synthetic import CLASSES, OBJECT_CLASSES, draw_scene, encode_rle, write_demo_data


@pytest.fixture(scope='module')
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp('demo')
    report = write_demo_data(folder, num_train=24, num_val=6, size=(128, 96), seed=3)
    return folder, report


def decode_rle(rle):
    flat = np.concatenate([np.full(count, k % 2) for k, count in enumerate(rle['counts'])])
    return flat.reshape(rle['size'], order='F').astype(bool)


def test_encode_rle__round_trip():
    rng = np.random.default_rng(0)
    for density in (0.0, 0.1, 0.5, 0.9, 1.0):
        mask = rng.random((13, 7)) < density
        rle = encode_rle(mask)
        assert sum(rle['counts']) == mask.size
        np.testing.assert_array_equal(decode_rle(rle), mask)


def test_draw_scene__labels_follow_the_instances():
    for number in range(10):
        scene = draw_scene(0, 'train', number, (160, 120))
        assert scene.image.shape == (120, 160, 3) and scene.image.dtype == np.uint8
        assert scene.labels.min() >= 1 and scene.labels.max() <= len(CLASSES)
        assert len(scene.classes) >= 2
        for k, class_id in enumerate(scene.classes):
            assert (scene.labels[scene.instances == k] == class_id + 1).all()
            assert np.count_nonzero(scene.instances == k) >= 20
        assert (scene.labels[scene.instances < 0] > len(OBJECT_CLASSES)).all()


def test_draw_scene__objects_stand_out_from_what_is_behind_them():
    """Pixels change at the rim of an object: the masks lie where the objects are drawn."""
    inside, across = [], []
    for number in range(12):
        scene = draw_scene(1, 'train', number, (160, 120))
        grey = scene.image.astype(float).mean(axis=2)
        step = np.abs(np.diff(grey, axis=1))
        stuff = (scene.labels[:, 1:] > len(OBJECT_CLASSES)) & (scene.labels[:, :-1] > len(OBJECT_CLASSES))
        rim = (scene.instances[:, 1:] >= 0) != (scene.instances[:, :-1] >= 0)
        inside.append(step[stuff].mean())
        across.append(step[rim].mean())
    assert np.mean(across) > 3 * np.mean(inside)


def test_draw_scene__depends_on_seed_split_and_number_alone():
    reference = draw_scene(0, 'train', 5).image
    np.testing.assert_array_equal(reference, draw_scene(0, 'train', 5).image)
    for other in ((1, 'train', 5), (0, 'val', 5), (0, 'train', 6)):
        assert not np.array_equal(reference, draw_scene(*other).image)


def test_draw_scene__colour_does_not_give_the_class_away():
    """Guessing the class from the mean colour (leave-one-out nearest neighbour) stays near chance."""
    colours, classes = [], []
    for number in range(150):
        scene = draw_scene(2, 'train', number, (96, 72))
        for k, class_id in enumerate(scene.classes):
            colours.append(scene.image[scene.instances == k].mean(axis=0))
            classes.append(class_id)
    colours, classes = np.array(colours), np.array(classes)
    distance = np.linalg.norm(colours[:, None] - colours[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    accuracy = np.mean(classes[distance.argmin(axis=1)] == classes)
    assert len(classes) > 500
    assert accuracy < 2 / len(OBJECT_CLASSES)


def test_write_demo_data__layout(demo):
    folder, report = demo
    assert report['scenes'] == dict(train=24, val=6)
    assert report['classes'] == (folder / 'seg' / 'classes.txt').read_text().split()
    for split, count in (('train', 24), ('val', 6)):
        names = sorted(file.stem for file in (folder / 'seg' / 'images' / split).glob('*.jpg'))
        assert len(names) == count
        assert names == sorted(file.stem for file in (folder / 'seg' / 'annotations' / split).glob('*.png'))
        content = json.loads((folder / 'det' / 'annotations' / f'{split}.json').read_text())
        assert sorted(image['file_name'] for image in content['images']) == [f'{name}.jpg' for name in names]
        assert report['objects'][split] == len(content['annotations']) >= 2 * count
        assert [item['name'] for item in content['categories']] == list(OBJECT_CLASSES)
        for name in names:
            assert (folder / 'det' / 'images' / f'{name}.jpg').is_file()
    assert not list(folder.rglob('*.part'))


def test_write_demo_data__masks_boxes_and_label_maps_agree(demo):
    coco = pytest.importorskip('pycocotools.coco')
    folder, _ = demo
    data = coco.COCO(str(folder / 'det' / 'annotations' / 'train.json'))
    kinds = set()
    for image in data.loadImgs(data.getImgIds()):
        labels = np.asarray(
            Image.open(folder / 'seg' / 'annotations' / 'train' / f'{Path(image["file_name"]).stem}.png')
        )
        annotated = np.zeros_like(labels)
        for item in data.loadAnns(data.getAnnIds(image['id'])):
            mask = data.annToMask(item).astype(bool)
            assert mask.shape == labels.shape == (96, 128)
            kinds.add(type(item['segmentation']))
            polygon = isinstance(item['segmentation'], list)
            annotated[mask] = item['category_id']
            assert (labels[mask] == item['category_id']).mean() > (0.93 if polygon else 0.9999)
            assert mask.sum() == pytest.approx(item['area'], rel=0.07 if polygon else 0)
            ys, xs = np.nonzero(mask)
            box = [xs.min(), ys.min(), xs.max() + 1 - xs.min(), ys.max() + 1 - ys.min()]
            np.testing.assert_allclose(item['bbox'], box, atol=1.0 if polygon else 0)
        objects = labels <= len(OBJECT_CLASSES)
        assert (annotated[objects] == labels[objects]).mean() > 0.95
    assert kinds == {list, dict}  # polygons and run lengths both occur


def test_write_demo_data__same_seed_same_bytes(demo, tmp_path):
    folder, _ = demo
    write_demo_data(tmp_path / 'again', num_train=24, num_val=6, size=(128, 96), seed=3)

    def digest(root):
        files = sorted(file for file in root.rglob('*') if file.is_file())
        return [(file.relative_to(root), hashlib.sha256(file.read_bytes()).hexdigest()) for file in files]

    assert digest(folder) == digest(tmp_path / 'again')


def test_write_demo_data__can_be_cropped(demo):
    folder, _ = demo
    scenes = read_scenes([(folder / 'det' / 'annotations' / 'train.json', folder / 'det' / 'images')])
    assert sum(scenes.left_out.values()) == 0
    index = build_crop_index(scenes, 64)
    assert index.reason_counts()['accepted'] > 0.3 * len(scenes.boxes)


def test_write_demo_data__progress_and_bad_input(tmp_path):
    calls = []
    write_demo_data(
        tmp_path, num_train=2, num_val=1, size=(64, 64), progress=lambda done, total: calls.append((done, total))
    )
    assert calls == [(1, 3), (2, 3), (3, 3)]
    with pytest.raises(ValueError, match='at least one scene in each split'):
        write_demo_data(tmp_path, num_train=0)
    with pytest.raises(ValueError, match='at least 64 pixels'):
        write_demo_data(tmp_path, size=(63, 100))
