"""Checks before a run: each bad input has its sentence, good input passes."""

import json

import pytest
from mmengine.config import Config
from PIL import Image

from mixedae.engine import data_checks
from mixedae.engine.data_checks import check_coco, check_headers
from mixedae.engine.preflight import (
    check_batch,
    check_checkpoints,
    check_layer_decay,
    check_num_classes,
    check_one_class,
    compares_masks,
    leaf_datasets,
    loads_masks,
    preflight,
)


def write_image(path, size=(12, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', size, (90, 120, 30)).save(path)


@pytest.fixture
def coco(tmp_path):
    """Two images, three categories; returns (annotation file, folder, a function that changes the file)."""
    for name in ('a.jpg', 'deep/b.jpg'):
        write_image(tmp_path / 'images' / name)
    content = dict(
        images=[dict(id=i, file_name=name, width=12, height=8) for i, name in enumerate(['a.jpg', 'deep/b.jpg'])],
        annotations=[dict(id=1, image_id=0, category_id=7, bbox=[1, 1, 4, 4], area=16, iscrowd=0)],
        categories=[dict(id=7, name='cup'), dict(id=9, name='plate'), dict(id=4, name='fork')],
    )
    file = tmp_path / 'train.json'

    def change(**changes):
        file.write_text(json.dumps({**content, **changes}))

    change()
    return file, tmp_path / 'images', change


def test_check_coco__good(coco):
    file, folder, _ = coco
    check_coco(file, folder, ('cup', 'plate', 'fork'))
    check_coco(file, folder, ('cup', 'fork'))  # a subset, in the order of the file
    check_coco(file, folder, None)


def test_check_coco__missing_file_and_folder(coco):
    file, folder, _ = coco
    with pytest.raises(
        FileNotFoundError, match=r'The annotation file .*none\.json does not exist: set data_root and ann'
    ):
        check_coco(file.with_name('none.json'), folder, None)
    with pytest.raises(FileNotFoundError, match=r'The image folder .*elsewhere does not exist: set its path'):
        check_coco(file, folder / 'elsewhere', None)
    with pytest.raises(FileNotFoundError, match='is a file'):
        check_coco(file, file, None)


def test_check_coco__absent_images(coco):
    file, folder, _ = coco
    (folder / 'deep' / 'b.jpg').unlink()
    with pytest.raises(
        FileNotFoundError, match=r'names 1 of 2 images that are not in .*images, e\.g\. deep/b\.jpg: set'
    ):
        check_coco(file, folder, None)


@pytest.mark.parametrize(
    'changes, sentence',
    [
        (dict(categories=[]), 'has an empty category list, so there is nothing to learn'),
        (dict(images=[]), 'names no images'),
        (dict(annotations=[]), 'has no annotations, so there is nothing to learn'),
        (dict(annotations=None), "is not a COCO annotation file: it has no list 'annotations'"),
    ],
)
def test_check_coco__empty_lists(coco, changes, sentence):
    file, folder, change = coco
    change(**changes)
    with pytest.raises(ValueError, match=sentence):
        check_coco(file, folder, None)


def test_check_coco__annotations_may_be_absent_in_testing(coco):
    file, folder, change = coco
    change(annotations=[])
    check_coco(file, folder, None, need_annotations=False)


def test_check_coco__not_json(coco):
    file, folder, _ = coco
    for content in (b'{"images": [', b'\xff\xfe\x00'):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r'train\.json is not JSON'):
            check_coco(file, folder, None)


@pytest.mark.parametrize(
    'classes, sentence',
    [
        (
            ('cup', 'knife'),
            r"metainfo\.classes names 'knife', which .*train\.json does not have \(its categories: cup, plate",
        ),
        (('person', 'car'), r"names 'person' and 1 more, which .* mmdet would train on empty or shifted labels"),
        (('plate', 'cup'), r'not in the order of the categories of .* write them as cup, plate'),
        ('cup', r"metainfo\.classes is the text 'cup', not a tuple of names: write \('cup',\)"),
    ],
)
def test_check_coco__classes(coco, classes, sentence):
    file, folder, _ = coco
    with pytest.raises(ValueError, match=sentence):
        check_coco(file, folder, classes)


@pytest.mark.parametrize('content', [b'', b'not an image', b'\xff\xd8\xff\xe0 cut off'])
def test_check_coco__image_that_does_not_decode(coco, content):
    file, folder, _ = coco
    (folder / 'a.jpg').write_bytes(content)
    with pytest.raises(
        ValueError, match=r'The image .*a\.jpg does not decode \(.*\): replace it or take it out of .*train'
    ):
        check_coco(file, folder, None)


def annotation(number, **more):
    return dict(id=number, image_id=0, category_id=7, bbox=[1, 1, 4, 4], area=16, iscrowd=0, **more)


def test_check_coco__masks(coco):
    file, folder, change = coco
    polygon = [[1, 1, 5, 1, 5, 5]]
    change(annotations=[annotation(1, segmentation=polygon), annotation(2), annotation(3, segmentation=[])])
    check_coco(file, folder, None)
    sentence = r'^2 of 3 annotations of .*train\.json have no masks \(`segmentation`\), and this .* `masks = False` in '
    for use in (dict(loads_masks=True), dict(compares_masks=True)):
        with pytest.raises(ValueError, match=sentence):
            check_coco(file, folder, None, **use)
    change(annotations=[annotation(1, segmentation=polygon), dict(annotation(2), category_id=9)])
    check_coco(file, folder, ('cup', 'fork'), loads_masks=True)
    with pytest.raises(ValueError, match=r'^1 of 2 annotations'):
        check_coco(file, folder, ('cup', 'plate', 'fork'), loads_masks=True)
    change(annotations=[])
    check_coco(file, folder, None, need_annotations=False, loads_masks=True)


@pytest.mark.parametrize(
    'changes',
    [
        dict(ignore=1),
        dict(area=0),
        dict(bbox=[1, 1, 0.5, 4]),
        dict(bbox=[1, 1, 0, 0]),
        dict(bbox=[12, 1, 4, 4]),
        dict(bbox=[1, -5, 4, 5]),
    ],
)
def test_check_coco__masks_that_mmdet_does_not_read(coco, changes):
    """They are left out in training; COCO's evaluation reads those of all annotations."""
    file, folder, change = coco
    change(annotations=[annotation(1, segmentation=[[1, 1, 5, 1, 5, 5]]), annotation(2) | changes])
    check_coco(file, folder, None, loads_masks=True)
    with pytest.raises(ValueError, match=r'^1 of 2 annotations of .* have no masks'):
        check_coco(file, folder, None, compares_masks=True)


def test_loads_masks__compares_masks():
    with_masks = dict(type='LoadAnnotations', with_bbox=True, with_mask=True)
    for step in (with_masks, dict(type='mmdet.LoadAnnotations', with_mask=True)):
        assert loads_masks(dict(pipeline=[dict(type='LoadImageFromFile'), step]))
    assert loads_masks(dict(pipeline=[dict(type='TestTimeAug', transforms=[[dict(type='Resize')], [with_masks]])]))
    assert not loads_masks(dict(pipeline=[dict(type='LoadAnnotations', with_bbox=True)]))
    assert not compares_masks(None) and not compares_masks(dict(type='CocoMetric', metric='bbox'))
    assert compares_masks([dict(type='CocoMetric', metric=['bbox', 'segm'])])
    assert compares_masks(dict(type='CocoMetric', metric='segm'))


def test_check_coco__images_of_another_size(coco):
    file, folder, _ = coco
    check_coco(file, folder, None)
    write_image(folder / 'a.jpg', (6, 4))
    with pytest.raises(
        ValueError, match=r'^Image .*a\.jpg has 6x4 pixels, but its annotation says 12x8: set data_prefix\.img to the'
    ):
        check_coco(file, folder, None)
    write_image(folder / 'a.jpg', (8, 12))
    with pytest.raises(ValueError, match='has 8x12 pixels, but its annotation says 12x8'):
        check_coco(file, folder, None)
    turned = Image.Exif()
    turned[0x0112] = 6  # shown turned by 90 degrees: OpenCV and mmdet read it as 12x8
    Image.new('RGB', (8, 12)).save(folder / 'a.jpg', exif=turned)
    check_coco(file, folder, None)
    Image.new('RGB', (12, 8)).save(folder / 'a.jpg', exif=turned)  # mmdet's boxes would be those of 8x12
    with pytest.raises(ValueError, match=r'a\.jpg has 8x12 pixels \(turned as its Exif says, as mmdet does\), but'):
        check_coco(file, folder, None)


def test_check_coco__sizes_unsaid(coco):
    file, folder, change = coco
    change(images=[dict(id=0, file_name='a.jpg', width=12, height=8), dict(id=1, file_name='deep/b.jpg', width=12)])
    with pytest.raises(ValueError, match=r'does not say width and height of 1 of 2 images, e\.g\. deep/b\.jpg: add'):
        check_coco(file, folder, None)


def test_check_headers__samples_many(tmp_path, monkeypatch):
    for i in range(30):
        write_image(tmp_path / f'{i}.png')
    paths = sorted(tmp_path.iterdir())
    monkeypatch.setattr(data_checks, 'ALL_HEADERS_UP_TO', 10)
    monkeypatch.setattr(data_checks, 'SAMPLED_HEADERS', 5)
    opened = []
    real_open = Image.open
    monkeypatch.setattr(data_checks.Image, 'open', lambda path: opened.append(path) or real_open(path))
    check_headers(paths, 'list')
    assert len(set(opened)) == 5
    opened.clear()
    check_headers(paths[:10], 'list')
    assert opened == paths[:10]


def pretraining(batch_size, mixing_ratio=0.25, group_size=None, model_type='mixedae.MixedAE'):
    sampler = dict(type='mixedae.GroupSampler', **({} if group_size is None else dict(group_size=group_size)))
    model = dict(type=model_type, mixing_ratio=mixing_ratio)
    return Config(dict(model=model, train_dataloader=dict(batch_size=batch_size, sampler=sampler)))


def test_check_batch():
    check_batch(pretraining(8))
    check_batch(pretraining(6, mixing_ratio=0.5, group_size=2))
    check_batch(pretraining(7, model_type='mixedae.MAE'))
    with pytest.raises(
        ValueError, match=r'batch_size is 6, which is not a multiple of the group size 4 .* make it 4 or 8'
    ):
        check_batch(pretraining(6))
    with pytest.raises(ValueError, match='make it 4'):
        check_batch(pretraining(2))
    with pytest.raises(ValueError, match=r'sampler\.group_size is 4, but the model mixes groups of 2'):
        check_batch(pretraining(8, mixing_ratio=0.5))


def test_check_checkpoints(tmp_path):
    file = tmp_path / 'a.pth'
    file.touch()
    backbone = dict(type='X', init_cfg=dict(type='Pretrained', checkpoint=str(file)))
    check_checkpoints(Config(dict(model=dict(backbone=backbone), load_from=str(file))))
    for model, load_from in (
        (dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='none.pth'))), None),
        (dict(neck=[dict(init_cfg=[dict(type='Pretrained', checkpoint='none.pth')])]), None),
        ({}, 'none.pth'),
    ):
        with pytest.raises(FileNotFoundError, match=r"The checkpoint 'none\.pth' does not exist"):
            check_checkpoints(Config(dict(model=model, load_from=load_from)))


def test_check_num_classes():
    model = dict(
        rpn_head=dict(num_classes=1),
        roi_head=dict(bbox_head=[dict(num_classes=3), dict(num_classes=80)], mask_head=dict(num_classes=3)),
    )
    with pytest.raises(ValueError, match=r'model\.roi_head\.bbox_head\[1\]\.num_classes is 80, but the dataset has 3'):
        check_num_classes(model, 3)
    model['roi_head']['bbox_head'][1]['num_classes'] = 3
    check_num_classes(model, 3)
    with pytest.raises(ValueError, match=r'model\.decode_head\.num_classes is 19'):
        check_num_classes(dict(decode_head=dict(num_classes=19)), 2)


def test_check_one_class():
    softmax, sigmoid = dict(type='CrossEntropyLoss'), dict(type='CrossEntropyLoss', use_sigmoid=True)
    for head in (
        dict(num_classes=1),
        dict(num_classes=1, loss_decode=softmax),
        dict(num_classes=1, loss_decode=[softmax, softmax]),
        dict(num_classes=2, out_channels=1, loss_decode=softmax),
    ):
        name = 'out_channels' if 'out_channels' in head else 'num_classes'
        with pytest.raises(ValueError, match=rf'^model\.decode_head\.{name} is 1, .* one class needs a background'):
            check_one_class(dict(decode_head=head))
    with pytest.raises(ValueError, match=r'^model\.auxiliary_head\[1\]\.num_classes is 1'):
        check_one_class(dict(auxiliary_head=[dict(num_classes=2), dict(num_classes=1)]))
    for model in (
        dict(decode_head=dict(num_classes=2)),
        dict(decode_head=dict(num_classes=1, loss_decode=sigmoid)),
        dict(decode_head=dict(num_classes=2, out_channels=1, loss_decode=sigmoid)),
        dict(decode_head=dict(num_classes=1, loss_decode=[softmax, dict(type='DiceLoss')])),  # Dice trains
        dict(decode_head=dict(num_classes=1, loss_cls=softmax)),  # Mask2Former: the class 'no object' comes on top
        dict(roi_head=dict(bbox_head=dict(num_classes=1), mask_head=dict(num_classes=1))),
    ):
        check_one_class(model)


def test_check_layer_decay():
    def cfg(rate, init_cfg, constructor='mixedae.LayerDecayOptimWrapperConstructor'):
        optim_wrapper = dict(constructor=constructor, paramwise_cfg=dict(layer_decay_rate=rate))
        return Config(dict(model=dict(backbone=dict(init_cfg=init_cfg)), optim_wrapper=optim_wrapper))

    weights = dict(type='Pretrained', checkpoint='a.pth')
    (warning,) = check_layer_decay(cfg(1.0, weights))
    assert warning.startswith('The backbone starts from a.pth with the full learning rate in every block')
    assert check_layer_decay(cfg(0.8, weights)) == check_layer_decay(cfg(1.0, None)) == []
    assert check_layer_decay(cfg(1.0, weights, constructor=None)) == []
    assert check_layer_decay(Config(dict(model=dict()))) == []


def test_leaf_datasets():
    a, b = dict(type='A'), dict(type='B')
    wrapped = dict(type='RepeatDataset', dataset=dict(type='ConcatDataset', datasets=[a, b]))
    assert list(leaf_datasets(wrapped)) == [a, b]


def test_preflight__asks_our_datasets(tmp_path):
    """Datasets of object_aware have preflight(); sampler and phase come into the sentence."""
    for i in range(5):
        write_image(tmp_path / f'{i}.jpg', (40, 30))
    cfg = pretraining(4)
    cfg.default_scope = 'mixedae'
    cfg.train_dataloader.dataset = dict(type='mixedae.ImageDataset', root=str(tmp_path), size=16)
    assert preflight(cfg) == []
    (tmp_path / '3.jpg').write_bytes(b'no image')
    with pytest.raises(ValueError, match=r'train data: .*3\.jpg'):
        preflight(cfg)
    (tmp_path / '3.jpg').unlink()
    (tmp_path / '4.jpg').unlink()
    with pytest.raises(ValueError, match='train data: 3 items of 3 scenes give 0 groups of 4'):
        preflight(cfg)
    cfg.train_dataloader.dataset.root = str(tmp_path / 'none')
    with pytest.raises(FileNotFoundError, match=r'train data: Image folder .* does not exist'):
        preflight(cfg)
