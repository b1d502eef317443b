"""Cutting a JPEG: the pixels are exactly those of the whole file, for all kinds that are cut."""

import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from object_aware.decoding import DecodeError, check_jpeg, check_kind, check_png, cut_jpeg, decode_cut, jpeg_scale
from object_aware.jpeg_layout import read_layout


def encoded(rng, size, mode='RGB', **options):
    coarse = rng.integers(0, 256, (size[1] // 6 + 2, size[0] // 6 + 2, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, 'JPEG', **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    'options',
    [
        dict(subsampling=0),
        dict(subsampling=1, optimize=True),
        dict(subsampling=2, restart_marker_blocks=4),
        dict(subsampling=2, restart_marker_rows=1, quality=98),
        dict(mode='L', quality=50),
        dict(keep_rgb=True),
    ],
)
@pytest.mark.parametrize('scale', [1, 2, 4, 8])
def test_decode_cut__equals_the_whole(rng, options, scale):
    size = (203, 147)
    data = encoded(rng, size, **options)
    layout = read_layout(data)
    assert (layout.width, layout.height) == size
    whole = simplejpeg.decode_jpeg(
        data, 'RGB', min_height=-(-147 // scale), min_width=-(-203 // scale), min_factor=scale
    )
    for _ in range(12):
        x1, x2 = np.sort(rng.uniform(0, size[0], 2))
        y1, y2 = np.sort(rng.uniform(0, size[1], 2))
        region = decode_cut(data, layout, (x1, y1, x2, y2), scale)
        left, top = region.left // scale, region.top // scale
        assert region.left % scale == region.top % scale == 0
        a, b, c, d = int(x1 / scale), int(y1 / scale), int(np.ceil(x2 / scale)), int(np.ceil(y2 / scale))
        np.testing.assert_array_equal(
            region.pixels[b - top : d - top, a - left : c - left], whole[b : min(d, whole.shape[0]), a:c]
        )


def test_cut_jpeg__is_small_and_a_sound_file(rng):
    data = encoded(rng, (640, 480), quality=95)
    cut, left, top = cut_jpeg(data, read_layout(data), (300, 200, 340, 230))
    assert len(cut) < len(data) / 20
    with Image.open(io.BytesIO(cut)) as image:
        assert (left, top) == (288, 192) and image.size == (64, 48)
        image.load()
    check_jpeg(cut, read_layout(cut))


def test_read_layout__other_kinds_are_not_walked(rng):
    data = encoded(rng, (64, 48))
    assert read_layout(encoded(rng, (64, 48), progressive=True)) is None
    assert read_layout(encoded(rng, (64, 48), mode='CMYK')) is None
    assert read_layout(b'\x89PNG' + data) is None
    for end in range(0, data.index(b'\xff\xda') + 4, 7):
        assert read_layout(data[:end]) is None
    twelve = bytearray(data)
    twelve[data.index(b'\xff\xc0') + 4] = 12  # bits per sample
    assert read_layout(bytes(twelve)) is None


def test_jpeg_scale():
    assert [jpeg_scale((0, 0, side, side), (100, 100), 1.5) for side in (299, 300, 599, 600, 1199, 1200, 9000)] == [
        1, 2, 2, 4, 4, 8, 8,
    ]  # fmt: skip
    assert jpeg_scale((0, 0, 1000, 290), (100, 100), 1.5) == 1  # by the side that is enlarged most


def test_check_jpeg__finds_what_is_missing_or_left_over(rng):
    data = encoded(rng, (320, 240), quality=90)
    layout = read_layout(data)
    check_jpeg(data, layout)
    check_jpeg(data + b'anything behind the end', layout)
    with pytest.raises(DecodeError, match='end too early'):
        check_jpeg(data[:-200], layout)
    middle = (layout.scan + len(data)) // 2
    for changed in (data[:middle] + data[middle + 400 :], data[:middle] + data[middle - 400 :]):
        with pytest.raises(DecodeError):
            check_jpeg(changed, layout)


def test_check_kind__scans_and_pixels():
    with pytest.raises(DecodeError, match='9000x9000 are more pixels than'):
        check_kind(b'', (9000, 9000))
    with pytest.raises(DecodeError, match='more than 200 scans'):
        check_kind(b'\xff\xd8' + b'\xff\xda\0\x08' * 201, (10, 10))


def test_check_png__every_chunk(rng):
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(buffer, 'PNG')
    data = buffer.getvalue()
    check_png(data)
    for place in range(20, len(data) - 12, 97):
        changed = bytearray(data)
        changed[place] ^= 4
        with pytest.raises(DecodeError):
            check_png(bytes(changed))
    with pytest.raises(DecodeError, match='end too early'):
        check_png(data[:-12])
