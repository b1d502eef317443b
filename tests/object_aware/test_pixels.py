"""From a file to a crop: coordinates, formats, orientation, and files that do not decode."""

import numpy as np
import pytest
from PIL import Image

from object_aware.pixels import crop, open_image, to_rgb

RAMP_SIZE = (640, 480)  # width, height


def ramp(size):
    """Red grows with x, green with y: a crop tells where it came from."""
    x, y = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
    return np.stack([255 * x / size[0], 255 * y / size[1], np.full_like(x, 90)], axis=2)


def save_ramp(path, size=RAMP_SIZE, **options):
    Image.fromarray(np.round(ramp(size)).astype(np.uint8)).save(path, **options)
    return path


def expected(window, out_size, size=RAMP_SIZE):
    """Red and green at the middle of each pixel of the crop."""
    x1, y1, x2, y2 = window
    x = x1 + (np.arange(out_size[1]) + 0.5) * (x2 - x1) / out_size[1]
    y = y1 + (np.arange(out_size[0]) + 0.5) * (y2 - y1) / out_size[0]
    return 255 * x / size[0], 255 * y / size[1]


@pytest.mark.parametrize(
    ('file', 'window', 'out_size'),
    [
        ('a.png', (100.25, 60.5, 300.75, 201.0), (32, 48)),
        ('a.png', (10.3, 20.7, 40.2, 50.1), (64, 64)),  # enlarged
        ('a.jpg', (100.25, 60.5, 300.75, 201.0), (32, 48)),
        ('a.jpg', (3.0, 5.0, 637.0, 473.0), (40, 53)),  # decoded at a smaller scale
        ('a.jpg', (3.0, 5.0, 637.0, 473.0), (13, 17)),  # and at one eighth
        ('odd.jpg', (3.0, 5.0, 631.0, 470.5), (24, 24)),  # sides that no scale divides
    ],
)
def test_crop__coordinates(tmp_path, file, window, out_size):
    size = (637, 479) if file.startswith('odd') else RAMP_SIZE
    path = save_ramp(tmp_path / file, size, **(dict(quality=100, subsampling=0) if file.endswith('jpg') else {}))
    pixels = crop(open_image(path, size), np.float32(window), out_size)
    assert pixels.shape == (3, *out_size) and pixels.dtype == np.uint8
    red, green = expected(window, out_size, size)
    inner = slice(2, -2)  # at the rim of the image the resampling filter is cut off
    # Rounding of the stored ramp and of the crop: half a step each.
    np.testing.assert_allclose(pixels[0][:, inner].mean(axis=0), red[inner], atol=1.05)
    np.testing.assert_allclose(pixels[1][inner].mean(axis=1), green[inner], atol=1.05)
    flipped = crop(open_image(path, size), np.float32(window), out_size, flip=True)
    np.testing.assert_array_equal(flipped, pixels[:, :, ::-1])


def test_crop__reads_a_large_jpeg_at_a_smaller_scale(tmp_path, monkeypatch):
    path = save_ramp(tmp_path / 'a.jpg')
    opened = open_image(path, RAMP_SIZE)
    loaded = []
    original = opened.image.load
    monkeypatch.setattr(opened.image, 'load', lambda: loaded.append(opened.image.size) or original())
    crop(opened, np.float32([0, 0, 640, 480]), (30, 40))
    assert loaded[0] == (80, 60)


@pytest.mark.parametrize('mode', ['L', '1', 'P', 'RGBA', 'LA', 'CMYK', 'YCbCr', 'I;16'])
def test_crop__every_mode_becomes_rgb(tmp_path, mode):
    colours = Image.fromarray(np.round(ramp((64, 48))).astype(np.uint8))
    path = tmp_path / ('a.jpg' if mode in ('CMYK', 'YCbCr') else 'a.png')
    if mode == 'I;16':
        grey = np.asarray(colours.convert('L'))
        Image.fromarray(grey.astype(np.uint16) * 257).save(path)
        wanted = np.repeat(grey[..., None], 3, axis=2)
    else:
        colours.convert(mode).save(path)
        wanted = np.asarray(colours.convert(mode).convert('RGB'))
    with Image.open(path) as stored:
        assert stored.mode == ('RGB' if mode == 'YCbCr' else mode)
    pixels = crop(open_image(path, (64, 48)), np.float32([0, 0, 64, 48]), (48, 64)).transpose(1, 2, 0)
    if path.suffix == '.png':
        np.testing.assert_array_equal(pixels, wanted)
    else:
        assert np.abs(pixels.astype(float) - wanted).mean() < 2  # JPEG's own loss


def test_to_rgb__refuses_floating_point():
    with pytest.raises(ValueError, match='floating-point'):
        to_rgb(Image.fromarray(np.zeros((4, 4), dtype=np.float32)))


def save_turned(path, orientation, size=(64, 48)):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return save_ramp(path, size, exif=exif, quality=100, subsampling=0)


def test_open_image__the_annotated_size_decides_about_exif(tmp_path):
    path = save_turned(tmp_path / 'a.jpg', 6)  # shown turned by 90 degrees clockwise
    stored = open_image(path, (64, 48))
    assert stored.size == (64, 48) and not stored.upright
    shown = open_image(path, (48, 64))
    assert shown.size == (48, 64) and shown.upright
    whole = crop(stored, np.float32([0, 0, 64, 48]), (48, 64)).transpose(1, 2, 0)
    turned = crop(shown, np.float32([0, 0, 48, 64]), (64, 48)).transpose(1, 2, 0)
    np.testing.assert_array_equal(turned, np.rot90(whole, -1))
    # The same place by either grid: (x, y) of the stored grid is (48 - y, x) of the shown grid.
    a = crop(open_image(path, (64, 48)), np.float32([8, 10, 18, 18]), (8, 10)).transpose(1, 2, 0)
    b = crop(open_image(path, (48, 64)), np.float32([30, 8, 38, 18]), (10, 8)).transpose(1, 2, 0)
    np.testing.assert_array_equal(b, np.rot90(a, -1))


def test_open_image__without_annotation_images_are_upright(tmp_path):
    opened = open_image(save_turned(tmp_path / 'a.jpg', 8))
    assert opened.size == (48, 64) and opened.upright
    assert open_image(save_turned(tmp_path / 'b.jpg', 1)).upright is False
    half = open_image(save_turned(tmp_path / 'c.jpg', 3))
    assert half.size == (64, 48) and half.upright


def test_open_image__another_size_is_refused(tmp_path):
    path = save_ramp(tmp_path / 'a.png', (64, 48))
    with pytest.raises(RuntimeError, match=r'a\.png has 64x48 pixels, but its annotation says 48x64'):
        open_image(path, (48, 64))


def test_crop__broken_files_are_named(tmp_path):
    (tmp_path / 'text.jpg').write_text('no image')
    with pytest.raises(RuntimeError, match=r'text\.jpg does not decode \(cannot identify image file\): replace it'):
        open_image(tmp_path / 'text.jpg')
    with pytest.raises(RuntimeError, match=r'none\.jpg does not exist'):
        open_image(tmp_path / 'none.jpg', (4, 4))
    for file in ('cut.jpg', 'cut.png'):
        path = save_ramp(tmp_path / file)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        opened = open_image(path, RAMP_SIZE)  # the header is there
        with pytest.raises(RuntimeError, match=rf'{file} does not decode \('):
            crop(opened, np.float32([0, 0, 100, 100]), (32, 32))
