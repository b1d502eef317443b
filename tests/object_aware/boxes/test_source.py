"""Results, proposals and Pascal VOC as columns; bad input."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from object_aware.boxes import read_source
from object_aware.boxes.source import first_character
from object_aware.boxes.voc import parse_xml


@pytest.fixture
def images(tmp_path):
    """Three images, (width, height) 60 x 40, of which one is named by a number."""
    folder = tmp_path / 'images'
    folder.mkdir()
    for name in ('a.png', 'b.png', '000000000139.jpg'):
        Image.new('RGB', (60, 40)).save(folder / name)
    return folder


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding='utf-8')
    return path


def image_list(tmp_path, names=('a.png', 'b.png')):
    images = [dict(id=k, file_name=name, width=60, height=40) for k, name in enumerate(names, start=1)]
    return write(tmp_path / 'list.json', dict(images=images, categories=[dict(id=5, name='cat')], annotations=[]))


def result(image_id, bbox, score, **fields):
    return dict(image_id=image_id, category_id=5, bbox=bbox, score=score, **fields)


def test_read_source__results_become_columns_best_first(images, tmp_path):
    counts = coco.encode(np.asfortranarray(np.pad(np.ones((4, 6), np.uint8), ((10, 26), (20, 34)))))['counts'].decode()
    file = write(
        tmp_path / 'results.json',
        [
            result(2, [0, 0, 10, 10], 0.2),
            result(1, [5, 5, 10, 10], 0.4),
            result(1, [20, 10, 6, 4], 0.9, segmentation=dict(size=[40, 60], counts=counts)),
            result(1, [50, 30, 30, 30], 0.6),  # cut at the border
            result(1, [1, 1, 0, 5], 0.99),
            result(1, [1, 1, 3, 5], float('nan')),
            result(1, [1, 1, 3], 0.5),
        ],
    )
    part = read_source(file, images, image_list=image_list(tmp_path))
    assert list(part.names) == [b'a.png', b'b.png'] and part.sizes.tolist() == [[60, 40]] * 2
    assert part.boxes.tolist() == [[20, 10, 26, 14], [50, 30, 60, 40], [5, 5, 15, 15], [0, 0, 10, 10]]
    assert part.scene_of.tolist() == [0, 0, 0, 1] and part.scores.tolist() == [0.9, 0.6, 0.4, 0.2]
    assert part.class_names == ['cat'] and part.classes.tolist() == [0] * 4 and not part.crowd.any()
    assert list(part.masks) == [counts.encode(), b'', b'', b'']
    expected = {'zero or negative size': 1, 'no score': 1, 'no box of four numbers': 1, 'clipped': 1}
    assert {reason: count for reason, count in part.counts.items() if count} == expected
    assert part.files == (str(file), str(tmp_path / 'list.json'))


def test_read_source__filters(images, tmp_path):
    boxes = [([0, 0, 10, 10], 0.9), ([1, 0, 10, 10], 0.8), ([20, 20, 10, 10], 0.7), ([40, 20, 9, 9], 0.6)]
    file = write(tmp_path / 'r.json', [result(1, *box) for box in [*boxes, ([0, 20, 9, 9], 0.1)]])
    part = read_source(file, images, image_list=image_list(tmp_path), score_threshold=0.5, nms_iou=0.5, top_n=2)
    assert part.scores.tolist() == [0.9, 0.7]
    assert [part.counts[key] for key in ('below the score threshold', 'removed by NMS', 'beyond the top N')] == [
        1,
        1,
        1,
    ]
    with pytest.raises(ValueError, match=r'no usable box: all 5 are left out \(5 below the score threshold\)'):
        read_source(file, images, image_list=image_list(tmp_path), score_threshold=2)
    for wrong in (dict(nms_iou=1.5), dict(nms_iou=-1), dict(score_threshold=float('nan')), dict(top_n=0)):
        with pytest.raises(ValueError, match='must be'):
            read_source(file, images, **wrong)


def test_read_source__image_ids_are_found_among_file_names(images, tmp_path):
    entries = [result(139, [0, 0, 9, 9], 1), result('a', [1, 1, 9, 9], 1)]
    part = read_source(write(tmp_path / 'r.json', entries), images)
    assert list(part.names) == [b'000000000139.jpg', b'a.png'] and part.sizes.tolist() == [[60, 40]] * 2
    with pytest.raises(FileNotFoundError, match=r'1 of 1 image ids are no file names of .* \(7\): give the COCO file'):
        read_source(write(tmp_path / 'r.json', [result(7, [0, 0, 9, 9], 1)]), images)
    Image.new('RGB', (9, 9)).save(images / '139.png')
    with pytest.raises(ValueError, match='fit several files'):
        read_source(write(tmp_path / 'r.json', entries), images)


def test_read_source__coco_files_go_to_the_ordinary_reader_without_filters(images, tmp_path):
    content = json.loads(image_list(tmp_path).read_text())
    content['annotations'] = [dict(id=k, image_id=1, category_id=5, bbox=[k, 0, 9, 9], score=k / 10) for k in range(5)]
    file = write(tmp_path / 'coco.json', content)
    assert read_source(file, images) is None
    part = read_source(file, images, top_n=2)
    assert part.scores.tolist() == [0.4, 0.3] and len(part.names) == 2
    for annotation in content['annotations']:
        del annotation['score']
    with pytest.raises(ValueError, match='has no scores, so its boxes cannot be filtered'):
        read_source(write(file, content), images, top_n=2)


@pytest.mark.parametrize(
    ('content', 'error', 'sentence'),
    [
        ('[', ValueError, 'is not a json file'),
        ('[]', ValueError, 'has no boxes'),
        ('[1]', ValueError, 'is no list of results'),
        ([dict(image_id=9, bbox=[0, 0, 1, 1], score=1)], ValueError, '1 boxes name 1 images .* not in the image list'),
        ([dict(image_id=[1], bbox=[0, 0, 1, 1], score=1)], ValueError, 'is no list of results'),
        ([dict(bbox=[0, 0, 1, 1], score=1)], ValueError, 'is no list of results'),
    ],
)
def test_read_source__bad_results(images, tmp_path, content, error, sentence):
    with pytest.raises(error, match=sentence):
        read_source(write(tmp_path / 'r.json', content), images, image_list=image_list(tmp_path))


def test_read_source__bad_image_list(images, tmp_path):
    file = write(tmp_path / 'r.json', [result(1, [0, 0, 9, 9], 1)])
    listed = image_list(tmp_path)
    content = json.loads(listed.read_text())
    content['images'][0]['width'] = 'wide'
    listed.write_text(json.dumps(content))
    with pytest.raises(ValueError, match='an entry has a missing or wrong field'):
        read_source(file, images, image_list=listed)


def test_read_source__missing_files(images, tmp_path):
    file = write(tmp_path / 'r.json', [result(1, [0, 0, 9, 9], 1)])
    with pytest.raises(FileNotFoundError, match=r'none.json does not exist'):
        read_source(tmp_path / 'none.json', images)
    with pytest.raises(FileNotFoundError, match=r'Image folder .* does not exist'):
        read_source(file, tmp_path / 'none')
    with pytest.raises(FileNotFoundError, match=r'1 of 2 images of .* are not in'):
        read_source(file, images, image_list=image_list(tmp_path, ('a.png', 'gone.png')))
    part = read_source(file, images, image_list=image_list(tmp_path, ('a.png', 'gone.png')), check_files=False)
    assert len(part.names) == 2


VOC = """<annotation><folder>x</folder><filename>{name}</filename>
<size><width>{width}</width><height>40</height><depth>3</depth></size>{objects}</annotation>"""


def voc_object(box, name='dog', flags=''):
    sides = ''.join(f'<{side}>{c}</{side}>' for side, c in zip(('xmin', 'ymin', 'xmax', 'ymax'), box) if c is not None)
    return f'<object><name>{name}</name>{flags}<bndbox>{sides}</bndbox></object>'


def test_read_source__voc_is_one_based_and_inclusive(images, tmp_path):
    folder = tmp_path / 'xml'
    folder.mkdir()
    objects = [
        voc_object((1, 1, 60, 40)),
        voc_object((11, 6, 20, 15), 'cat', '<difficult>1</difficult>'),
        voc_object((11.5, 6, 20, 15), 'cat', '<truncated>1</truncated><difficult>0</difficult>'),
        voc_object((30, 6, 20, 15)),
        voc_object((30, 6, None, 15)),
    ]
    write(folder / 'a.xml', VOC.format(name='a.png', width=60, objects=''.join(objects)))
    write(folder / 'b.xml', VOC.format(name='b', width=0, objects=voc_object((1, 1, 9, 9))))  # suffix, size missing
    write(folder / 'c.xml', VOC.format(name='000000000139.jpg', width=60, objects=''))
    part = read_source(folder, images)
    assert list(part.names) == [b'a.png', b'b.png', b'000000000139.jpg'] and part.sizes.tolist() == [[60, 40]] * 3
    assert part.boxes.tolist() == [[0, 0, 60, 40], [10, 5, 20, 15], [10.5, 5, 20, 15], [0, 0, 9, 9]]
    assert part.scene_of.tolist() == [0, 0, 0, 1]
    assert [part.class_names[k] for k in part.classes] == ['dog', 'cat', 'cat', 'dog']
    assert part.crowd.tolist() == [False, True, False, False]
    counts = {reason: count for reason, count in part.counts.items() if count}
    assert counts == {'zero or negative size': 1, 'no box of four numbers': 1, 'difficult': 1, 'truncated': 1}
    with pytest.raises(ValueError, match='have no scores'):
        read_source(folder, images, top_n=3)


def test_read_source__unsound_xml_is_left_out_and_listed(images, tmp_path):
    folder = tmp_path / 'xml'
    folder.mkdir()
    with pytest.raises(FileNotFoundError, match='holds no xml file'):
        read_source(folder, images)
    write(folder / 'cut.xml', '<annotation><object>')
    write(folder / 'other.xml', '<html></html>')
    with pytest.raises(ValueError, match='None of the 2 xml files'):
        read_source(folder, images)
    write(folder / 'a.xml', VOC.format(name='a.png', width=60, objects=voc_object((1, 1, 9, 9))))
    part = read_source(folder, images)
    assert part.counts['unsound xml'] == 2
    (note,) = part.notes
    assert 'cut.xml (not well-formed' in note and 'other.xml (its root is <html>)' in note
    write(folder / 'lost.xml', VOC.format(name='lost.png', width=60, objects=''))
    with pytest.raises(FileNotFoundError, match=r'1 of 4 images .* \(lost.xml\)'):
        read_source(folder, images)
    (folder / 'lost.xml').unlink()
    write(folder / 'twice.xml', VOC.format(name='a.png', width=60, objects=''))
    with pytest.raises(ValueError, match=r'1 images have several xml files \(a.png\)'):
        read_source(folder, images)


def test_parse_xml__refuses_what_could_hurt(tmp_path):
    entities = ''.join(f'<!ENTITY e{k} "{f"&e{k - 1};" * 10 if k else "ha" * 20}">' for k in range(12))
    bomb = write(tmp_path / 'bomb.xml', f'<!DOCTYPE a [{entities}]><annotation>&e11;</annotation>')
    with pytest.raises(ValueError, match='it declares an entity'):
        parse_xml(bomb)
    outside = '<!DOCTYPE a [<!ENTITY f SYSTEM "file:///etc/passwd">]><annotation>&f;</annotation>'
    with pytest.raises(ValueError, match='it declares an entity'):
        parse_xml(write(tmp_path / 'outside.xml', outside))
    with pytest.raises(ValueError, match='nested more than 32 deep'):
        parse_xml(write(tmp_path / 'deep.xml', '<a>' * 100_000))
    with pytest.raises(ValueError, match='more than 8,388,608'):
        parse_xml(write(tmp_path / 'large.xml', '<a>' + ' ' * (8 << 20) + '</a>'))
    plain = parse_xml(write(tmp_path / 'plain.xml', '<?xml version="1.0"?><!DOCTYPE a><a b="1">x&amp;ä<c/></a>'))
    assert plain.tag == 'a' and plain.text == 'x&ä' and plain[0].tag == 'c'


def test_first_character__skips_white_space_and_byte_order_mark(tmp_path):
    (tmp_path / 'a').write_bytes(b'\xef\xbb\xbf \n\t [1]')
    (tmp_path / 'b').write_bytes(b'')
    assert first_character(tmp_path / 'a') == '[' and first_character(tmp_path / 'b') == ''
