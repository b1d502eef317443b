"""From a file to a crop: coordinates, formats, orientation, and files that do not decode."""

import struct
import tarfile
import zlib

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageOps

from object_aware.pixels import check_file, crop, crops_from, open_image, to_rgb
from tests.object_aware import fuzz_images

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
    opened = open_image(save_ramp(tmp_path / 'a.jpg'), RAMP_SIZE)
    decoded = []
    original = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, 'decode_jpeg', lambda *a, **k: decoded.append(original(*a, **k)) or decoded[-1])
    crop(opened, np.float32([0, 0, 640, 480]), (30, 40))
    assert decoded[0].shape == (60, 80, 3)
    crop(opened, np.float32([320, 240, 400, 300]), (60, 60))  # 80 x 60, the pixels that are looked at, whole MCUs
    assert decoded[1].shape == (96, 112, 3)


@pytest.mark.parametrize('subsampling', [0, 1, 2])
@pytest.mark.parametrize('restart', [0, 5])
def test_crop__equals_decode_all_crop_resize(tmp_path, rng, subsampling, restart):
    noise = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((333, 251), Image.Resampling.BICUBIC)
    image.save(tmp_path / 'a.jpg', quality=90, subsampling=subsampling, restart_marker_blocks=restart)
    with Image.open(tmp_path / 'a.jpg') as stored:
        everything = np.asarray(stored.convert('RGB'))
    opened = open_image(tmp_path / 'a.jpg', (333, 251))
    for k in range(20):
        low = rng.uniform(0, (200, 150)) * (k % 4 > 0)
        high = low + rng.uniform(20, 130, 2) if k % 5 else np.array([333.0, 251.0])
        window = np.minimum(np.float32([*low, *high]), np.float32([333, 251] * 2))
        pixels = crop(opened, window, (96, 90), flip=bool(k % 2))
        scale = min((window[2] - window[0]) / 90, (window[3] - window[1]) / 96)
        wanted = two_passes(everything, window, (96, 90))
        wanted = wanted[:, :, ::-1] if k % 2 else wanted
        if scale < 3:  # decoded at full scale: the same bits
            np.testing.assert_array_equal(pixels, wanted)
        else:
            assert np.abs(pixels.astype(float) - wanted).mean() < 1.5


def two_passes(pixels, window, out_size):
    """Pillow's bicubic resizing, rows first whatever its version prefers."""
    image, (x1, y1, x2, y2) = Image.fromarray(pixels), (float(c) for c in window)
    bicubic = Image.Resampling.BICUBIC
    image = image.resize((out_size[1], image.height), bicubic, box=(x1, 0, x2, image.height))
    image = image.resize((out_size[1], out_size[0]), bicubic, box=(0, y1, out_size[1], y2))
    return np.asarray(image).transpose(2, 0, 1)


def test_crop__large_windows_are_close_to_decode_all_crop_resize(pack):
    decibels = []
    for path in sorted((pack / 'det' / 'images').glob('*.jpg'))[:40]:
        with Image.open(path) as stored:
            everything = np.asarray(stored.convert('RGB'))
        height, width = everything.shape[:2]
        window = np.float32([3.3, 2.7, width - 1.4, height - 5.1])
        pixels = crop(open_image(path), window, (64, 64))  # three to six times smaller: decoded at 1/2 or 1/4
        error = np.mean((pixels.astype(float) - two_passes(everything, window, (64, 64))) ** 2)
        decibels.append(10 * np.log10(255**2 / error))
    assert min(decibels) > 38 and np.median(decibels) > 44, (min(decibels), np.median(decibels))


def test_crops_from__each_is_what_crop_gives(tmp_path, rng):
    Image.fromarray(rng.integers(0, 256, (400, 600, 3), dtype=np.uint8)).save(tmp_path / 'a.jpg', quality=80)
    Image.fromarray(rng.integers(0, 256, (400, 600, 3), dtype=np.uint8)).save(tmp_path / 'a.png')
    windows = np.float32([[10, 10, 60, 70], [30.5, 20, 99.25, 80], [500, 300, 590, 399], [0, 0, 600, 400]])
    for file in ('a.jpg', 'a.png'):
        opened = open_image(tmp_path / file)
        together = crops_from(opened, windows, (40, 40), [False, True, False, True])
        for k, window in enumerate(windows):
            np.testing.assert_array_equal(together[k], crop(opened, window, (40, 40), flip=bool(k % 2)))


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
    assert stored.size == (64, 48) and stored.orientation == 1
    shown = open_image(path, (48, 64))
    assert shown.size == (48, 64) and shown.orientation == 6
    whole = crop(stored, np.float32([0, 0, 64, 48]), (48, 64)).transpose(1, 2, 0)
    turned = crop(shown, np.float32([0, 0, 48, 64]), (64, 48)).transpose(1, 2, 0)
    np.testing.assert_array_equal(turned, np.rot90(whole, -1))
    # The same place by either grid: (x, y) of the stored grid is (48 - y, x) of the shown grid.
    a = crop(open_image(path, (64, 48)), np.float32([8, 10, 18, 18]), (8, 10)).transpose(1, 2, 0)
    b = crop(open_image(path, (48, 64)), np.float32([30, 8, 38, 18]), (10, 8)).transpose(1, 2, 0)
    np.testing.assert_array_equal(b, np.rot90(a, -1))


def test_open_image__without_annotation_images_are_upright(tmp_path):
    opened = open_image(save_turned(tmp_path / 'a.jpg', 8))
    assert opened.size == (48, 64) and opened.orientation == 8
    assert open_image(save_turned(tmp_path / 'b.jpg', 1)).orientation == 1
    half = open_image(save_turned(tmp_path / 'c.jpg', 3))
    assert half.size == (64, 48) and half.orientation == 3


@pytest.mark.parametrize('orientation', range(1, 9))
def test_crop__every_orientation(tmp_path, orientation):
    path = save_turned(tmp_path / 'a.jpg', orientation, (150, 110))
    with Image.open(path) as image:
        shown = np.asarray(ImageOps.exif_transpose(image))
    opened = open_image(path)
    assert opened.size == shown.shape[1::-1]
    window = np.float32([60.25, 50.5, 101, 97.75])
    wanted = two_passes(shown, window, (31, 29))
    np.testing.assert_array_equal(crop(opened, window, (31, 29)), wanted)


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
    (tmp_path / 'zero.jpg').touch()
    with pytest.raises(RuntimeError, match=r'zero\.jpg does not decode \(the file is empty\)'):
        open_image(tmp_path / 'zero.jpg')
    for file in ('cut.jpg', 'cut.png'):
        path = save_ramp(tmp_path / file)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        opened = open_image(path, RAMP_SIZE)  # the header is there
        with pytest.raises(RuntimeError, match=rf'{file} does not decode \('):
            crop(opened, np.float32([0, 0, 640, 480]), (32, 32))


def test_crop__a_cut_jpeg_serves_windows_above_the_cut_and_no_others(tmp_path, rng):
    noise = rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / 'sound.jpg')
    sound = open_image(tmp_path / 'sound.jpg')
    cut = sound._replace(data=sound.data[: len(sound.data) // 2])
    above, across = np.float32([100, 10, 300, 200]), np.float32([100, 200, 300, 300])
    np.testing.assert_array_equal(crop(cut, above, (64, 64)), crop(sound, above, (64, 64)))
    with pytest.raises(RuntimeError, match='its data end too early'):
        crop(cut, across, (64, 64))


def test_crop__damage_that_pillow_passes_over_is_refused(tmp_path, rng):
    noise = Image.fromarray(rng.integers(0, 256, (96, 128, 3), dtype=np.uint8))
    whole = np.float32([0, 0, 128, 96])
    for file, options in [('a.jpg', {}), ('a.jpg', dict(progressive=True)), ('a.jpg', dict(restart_marker_blocks=2))]:
        noise.save(tmp_path / file, **options)
        data = bytearray((tmp_path / file).read_bytes())
        middle = len(data) // 2
        data[middle : middle + 40] = b'\xff\x00' * 20  # ones, which no Huffman code begins with so many of
        (tmp_path / file).write_bytes(data)
        with Image.open(tmp_path / file) as image:
            image.load()  # Pillow finds nothing
        with pytest.raises(RuntimeError, match=r'a\.jpg does not decode'):
            crop(open_image(tmp_path / file), whole, (32, 32))
    noise.save(tmp_path / 'a.png')
    data = bytearray((tmp_path / 'a.png').read_bytes())
    data[-20] ^= 1  # the checksum of the pixels
    (tmp_path / 'a.png').write_bytes(data)
    with pytest.raises(RuntimeError, match='wrong checksum'):
        crop(open_image(tmp_path / 'a.png'), whole, (32, 32))


def test_crop__a_jpeg_of_100_megapixels_is_cut_a_png_of_that_size_is_refused(tmp_path):
    Image.new('L', (10000, 10000), 77).save(tmp_path / 'a.jpg', quality=30)
    opened = open_image(tmp_path / 'a.jpg')
    np.testing.assert_array_equal(crop(opened, np.float32([9000, 9500, 9300, 9900]), (64, 64)), 77)
    np.testing.assert_array_equal(crop(opened, np.float32([0, 0, 10000, 10000]), (64, 64)), 77)
    with pytest.raises(RuntimeError, match='10000x10000 are more pixels than'):
        crop(opened._replace(layout=None), np.float32([0, 0, 100, 100]), (64, 64))
    header = struct.pack('>IIBBBBB', 10000, 10000, 8, 2, 0, 0, 0)  # a bomb: the size of a header costs nothing
    chunk = b'IHDR' + header
    png = b'\x89PNG\r\n\x1a\n' + struct.pack('>I', 13) + chunk + struct.pack('>I', zlib.crc32(chunk))
    (tmp_path / 'a.png').write_bytes(png + b'\0\0\0\0IEND\xaeB`\x82')
    with pytest.raises(RuntimeError, match='more pixels than'):
        crop(open_image(tmp_path / 'a.png'), np.float32([0, 0, 100, 100]), (64, 64))


def test_open_image__a_part_of_a_tar_file_and_unicode_paths(tmp_path):
    path = save_ramp(tmp_path / 'Größe 像.jpg')
    data = path.read_bytes()
    with tarfile.open(tmp_path / 'shard é.tar', 'w') as tar:
        tar.add(path, 'x/1.jpg')
    with tarfile.open(tmp_path / 'shard é.tar') as tar:
        offset = tar.getmember('x/1.jpg').offset_data
    inside = open_image((str(tmp_path / 'shard é.tar'), offset, len(data)), RAMP_SIZE)
    assert inside.data == data
    window = np.float32([10, 20, 300, 200])
    np.testing.assert_array_equal(crop(inside, window, (20, 20)), crop(open_image(path), window, (20, 20)))
    with pytest.raises(RuntimeError, match='its data end too early'):
        open_image((str(tmp_path / 'shard é.tar'), offset, 10**7))


def test_check_file__header_end_and_all(tmp_path, rng):
    noise = Image.fromarray(rng.integers(0, 256, (700, 800, 3), dtype=np.uint8))
    noise.save(tmp_path / 'a.jpg', quality=90)
    assert (tmp_path / 'a.jpg').stat().st_size > 1 << 18
    check_file(tmp_path / 'a.jpg', (800, 700))
    check_file(tmp_path / 'a.jpg', (800, 700), thorough=True)
    with pytest.raises(RuntimeError, match='its annotation says 700x800'):
        check_file(tmp_path / 'a.jpg', (700, 800))
    sound = (tmp_path / 'a.jpg').read_bytes()
    (tmp_path / 'cut.jpg').write_bytes(sound[: len(sound) // 2])
    with pytest.raises(RuntimeError, match='its data end too early'):
        check_file(tmp_path / 'cut.jpg', (800, 700))
    (tmp_path / 'hole.jpg').write_bytes(sound[:200000] + bytes(1000) + sound[201000:])
    check_file(tmp_path / 'hole.jpg', (800, 700))
    with pytest.raises(RuntimeError, match='does not decode'):
        check_file(tmp_path / 'hole.jpg', (800, 700), thorough=True)


def test_fuzz__mutated_files_are_refused_or_read_as_pillow_reads_them():
    outcomes, findings = fuzz_images.fuzz(220, seed=3, limit=100)
    assert not findings
    assert sum(outcomes.values()) == 2 * 220
    assert outcomes['fast', 'as Pillow'] > 40 and outcomes['fast', 'refused'] > 40
