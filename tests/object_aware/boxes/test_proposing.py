"""The run over a folder: resumable, deterministic, bad images listed, a file that COCO tools and the index take."""

import gc
import json
import weakref
from functools import partial

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from object_aware.boxes import Proposals
from object_aware.boxes.proposing import propose
from object_aware.boxes.reading import list_images, read_picture


class Fake:
    """Two boxes from the pixels of an image; notes what it was asked, and stops where it is told to."""

    def __init__(self, log, stop_at=None):
        self.log, self.stop_at = log, stop_at

    def read(self, path):
        if self.stop_at is not None and str(path).endswith(self.stop_at):
            raise KeyboardInterrupt
        with open(self.log, 'a') as file:
            file.write(f'{path}\n')
        return read_picture(path)

    def __call__(self, pictures):
        found = []
        for picture in pictures:
            width, height = picture.size
            shade = float(picture.pixels.mean()) / 255
            boxes = np.array([[0, 0, width / 2, height], [1.23456, 2, 9, 9]])
            found.append(Proposals(boxes, np.array([0.5 + shade / 2, 0.25]), [b'', b'']))
        return found


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / 'images'
    (folder / 'sub').mkdir(parents=True)
    for k in range(7):
        Image.new('RGB', (20 + k, 30), (30 * k, 0, 0)).save(folder / ('sub' if k % 2 else '.') / f'{k}.png')
    (folder / 'bad.jpg').write_bytes(b'no picture')
    (folder / 'text.txt').write_text('no image')
    return folder


def run(folder, out, log, stop_at=None, **changes):
    options = dict(batch_size=3, settings=dict(method='fake', top=2)) | changes
    settings = options.pop('settings')
    return propose(list_images(folder), folder, partial(Fake, log, stop_at), out, settings, **options)


def test_list_images__sorted_with_subfolders_or_by_a_list(folder, tmp_path):
    assert list_images(folder) == ['0.png', '2.png', '4.png', '6.png', 'bad.jpg', 'sub/1.png', 'sub/3.png', 'sub/5.png']
    (tmp_path / 'list.txt').write_text('4.png\n\nsub/1.png\n')
    assert list_images(folder, tmp_path / 'list.txt') == ['4.png', 'sub/1.png']
    (tmp_path / 'list.txt').write_text('4.png\nno.png\n')
    with pytest.raises(FileNotFoundError, match=r'1 of 2 images .* \(no.png\)'):
        list_images(folder, tmp_path / 'list.txt')
    (tmp_path / 'list.txt').write_text('4.png\n4.png\n')
    with pytest.raises(ValueError, match='more than once'):
        list_images(folder, tmp_path / 'list.txt')


def test_propose__writes_coco(folder, tmp_path):
    out = tmp_path / 'new' / 'boxes.json'
    summary = run(folder, out, tmp_path / 'log')
    assert (summary.images, summary.boxes, summary.resumed, summary.up_to_date) == (7, 14, 0, False)
    ((name, reason),) = summary.unreadable
    assert name == 'bad.jpg' and 'cannot identify image file' in reason
    coco = COCO(str(out))
    assert [coco.imgs[k]['file_name'] for k in range(1, 8)] == [n for n in list_images(folder) if n != 'bad.jpg']
    assert coco.imgs[5] == dict(id=5, file_name='sub/1.png', width=21, height=30)
    first, second = coco.loadAnns(coco.getAnnIds(5))
    assert first['bbox'] == [0, 0, 10.5, 30] and first['area'] == 315 and first['category_id'] == 1
    assert second['bbox'] == [1.23, 2, 7.77, 7] and second['score'] == 0.25
    assert first['score'] == pytest.approx(0.5 + 30 / 255 / 3 / 2, abs=1e-5)
    content = json.loads(out.read_bytes())
    assert content['info']['proposals']['settings'] == dict(method='fake', top=2)
    assert content['unreadable'] == [dict(file_name='bad.jpg', reason=reason)]
    assert [file.name for file in out.parent.iterdir()] == ['boxes.json']


def test_propose__goes_on_where_it_was_stopped(folder, tmp_path):
    whole, out, log = tmp_path / 'whole.json', tmp_path / 'boxes.json', tmp_path / 'log'
    run(folder, whole, tmp_path / 'other')
    with pytest.raises(KeyboardInterrupt):
        run(folder, out, log, stop_at='sub/3.png')
    assert not out.exists() and len(log.read_text().splitlines()) == 6  # bad.jpg and sub/1.png will be read again
    part = tmp_path / 'boxes.json.part'
    part.write_bytes(part.read_bytes() + b'[{"name":"half a li')  # killed while it wrote
    log.unlink()
    seen = []
    summary = run(folder, out, log, progress=lambda done, total: seen.append((done, total)))
    assert summary.resumed == 6 and seen == [(6, 8), (8, 8)]
    assert len(log.read_text().splitlines()) == 2
    assert out.read_bytes() == whole.read_bytes() and not part.exists()
    log.unlink()
    assert run(folder, out, log).up_to_date and not log.exists()
    assert not run(folder, out, log, force=True).up_to_date and len(log.read_text().splitlines()) == 8


def test_propose__a_stopped_run_leaves_no_proposer_behind(folder, tmp_path):
    """The next run must not get the proposer of another one, with its settings."""
    made = []

    def make():
        proposer = Fake(tmp_path / 'log', stop_at='sub/3.png')
        made.append(weakref.ref(proposer))
        return proposer

    with pytest.raises(KeyboardInterrupt):
        propose(list_images(folder), folder, make, tmp_path / 'boxes.json', dict(method='fake'), batch_size=3)
    gc.collect()
    assert len(made) == 1 and made[0]() is None


@pytest.mark.parametrize('change', ['settings', 'images', 'batches'])
def test_propose__begins_anew_for_other_settings_or_images(folder, tmp_path, change):
    out, log = tmp_path / 'boxes.json', tmp_path / 'log'
    with pytest.raises(KeyboardInterrupt):
        run(folder, out, log, stop_at='sub/3.png')
    changes = {}
    if change == 'settings':
        changes = dict(settings=dict(method='fake', top=3))
    elif change == 'batches':
        changes = dict(batch_size=2)
    else:
        Image.new('RGB', (99, 99)).save(folder / '0.png')
    assert run(folder, out, log, **changes).resumed == 0
    assert not run(folder, out, log, settings=dict(method='other')).up_to_date


def test_propose__processes_change_nothing(folder, tmp_path):
    run(folder, tmp_path / 'one.json', tmp_path / 'log')
    run(folder, tmp_path / 'two.json', tmp_path / 'log', workers=2)
    assert (tmp_path / 'one.json').read_bytes() == (tmp_path / 'two.json').read_bytes()


def test_propose__no_readable_image_is_an_error(tmp_path):
    (tmp_path / 'bad.jpg').write_bytes(b'x')
    with pytest.raises(ValueError, match=r'None of the 1 images could be read \(first: bad.jpg'):
        run(tmp_path, tmp_path / 'out' / 'boxes.json', tmp_path / 'log')
    assert not (tmp_path / 'out' / 'boxes.json').exists()


def test_read_picture__sizes_and_orientation(tmp_path):
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    pixels[:20, :30] = 255  # the upper left quarter, as stored
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees to the right: it is the upper right quarter
    Image.fromarray(pixels).save(tmp_path / 'turned.png', exif=exif)
    exif[0x0112] = 3  # upside down, of the same size: taken as stored
    Image.fromarray(pixels).save(tmp_path / 'upside.png', exif=exif)
    for size, shape in ((None, (60, 40)), ((32, 16), (32, 16))):
        picture = read_picture(tmp_path / 'turned.png', size=size)
        assert picture.size == (40, 60) and picture.pixels.shape[:2] == shape
        height, width = shape
        assert picture.pixels[height // 4, 3 * width // 4].tolist() == [255] * 3
        assert picture.pixels[height // 4, width // 4].tolist() == [0] * 3
    picture = read_picture(tmp_path / 'upside.png', side=30)
    assert picture.size == (60, 40) and picture.pixels.shape == (20, 30, 3) and picture.pixels[5, 5, 0] == 255
    Image.fromarray(pixels[..., 0]).convert('P').save(tmp_path / 'palette.png')
    assert read_picture(tmp_path / 'palette.png').pixels.shape == (40, 60, 3)
