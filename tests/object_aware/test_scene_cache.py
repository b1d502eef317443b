"""Decoded scenes in memory: the same samples, nothing read any more, and a limit."""

import pickle
import shutil

import numpy as np
import pytest
import torch
from mmengine.dataset import default_collate
from PIL import Image
from torch.utils.data import DataLoader

from object_aware import ImageDataset, ObjectCropDataset, build_crop_index, read_scenes
from object_aware.pixels import ImageError, crop, decode_all, decoded_bytes, open_image

SIZE = (403, 287)  # width, height; no scale divides them

KINDS = {
    'a.jpg': dict(subsampling=2, quality=92),
    'restart.jpg': dict(subsampling=1, restart_marker_blocks=3),
    'full.jpg': dict(subsampling=0),
    'grey.jpg': dict(mode='L'),
    'cmyk.jpg': dict(mode='CMYK'),
    'progressive.jpg': dict(progressive=True),
    'a.png': dict(),
    'palette.png': dict(mode='P'),
    'alpha.png': dict(mode='RGBA'),
    'a.webp': dict(lossless=True),
}


def save(path, rng, mode='RGB', orientation=None, **options):
    coarse = rng.integers(0, 256, (SIZE[1] // 6 + 2, SIZE[0] // 6 + 2, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC).convert(mode)
    if orientation is not None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options['exif'] = exif
    image.save(path, **options)
    return path


def windows(rng, size, count=12):
    for k in range(count):
        low = rng.uniform(0, 0.6, 2) * (k % 4 > 0)
        high = low + rng.uniform(0.1, 0.4, 2) if k % 3 else np.ones(2)
        yield np.float32(np.concatenate([low, high]) * np.array(size * 2))


@pytest.mark.parametrize('file', KINDS)
def test_decode_all__crops_are_the_same_bytes(tmp_path, rng, file):
    opened = open_image(save(tmp_path / file, rng, **KINDS[file]))
    for out_size in ((24, 20), (50, 50), (96, 128)):  # scales 8 to 1
        decoded = decode_all(opened, out_size)
        assert decoded.data == b'' and opened.data
        for number, window in enumerate(windows(rng, opened.size)):
            flip = bool(number % 2)
            np.testing.assert_array_equal(crop(decoded, window, out_size, flip), crop(opened, window, out_size, flip))


@pytest.mark.parametrize('orientation', range(2, 9))
def test_decode_all__turned_images(tmp_path, rng, orientation):
    opened = open_image(save(tmp_path / 'a.jpg', rng, orientation=orientation))
    assert opened.size == (SIZE[::-1] if orientation > 4 else SIZE)
    decoded = decode_all(opened, (30, 60))
    for window in windows(rng, opened.size):
        np.testing.assert_array_equal(crop(decoded, window, (30, 60)), crop(opened, window, (30, 60)))


def test_decoded_bytes(tmp_path, rng):
    jpeg, png = (open_image(save(tmp_path / file, rng)) for file in ('a.jpg', 'a.png'))
    for out_size, scales in (((200, 200), 1), ((95, 95), 2), ((47, 47), 3), ((20, 20), 4)):  # 287 / 1.5 / 95 = 2.01
        decoded = decode_all(jpeg, out_size).decoded
        assert sorted(decoded) == [1, 2, 4, 8][:scales]
        assert decoded_bytes(SIZE, out_size) == sum(pixels.nbytes for pixels in decoded.values())
    assert decoded_bytes(SIZE, (200, 200)) == 3 * SIZE[0] * SIZE[1]
    assert {scale: pixels.shape for scale, pixels in decode_all(png, (20, 20)).decoded.items()} == {0: (287, 403, 3)}


def test_decode_all__damaged(tmp_path, rng):
    path = save(tmp_path / 'a.jpg', rng)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match='end too early'):
        decode_all(open_image(path), (32, 32))


def samples(dataset, epochs=(0, 5)):
    return [dataset[(k, epoch)] for epoch in epochs for k in range(len(dataset))]


def assert_equal(found, wanted):
    assert len(found) == len(wanted) > 0
    for a, b in zip(found, wanted):
        assert torch.equal(a['inputs'], b['inputs'])
        for name, value in b['data_samples'].items():
            assert np.array_equal(a['data_samples'][name], value), name


def test_object_crop_dataset__cached(coco_scenes, tmp_path):
    index = tmp_path / 'crops.safetensors'
    build_crop_index(read_scenes([coco_scenes]), 48).save(index)
    wanted = samples(ObjectCropDataset(index))
    dataset = ObjectCropDataset(index, max_bad_files=9, cache_gib=0.01)
    used = dataset.index.sizes[dataset.index.used_scenes].astype(int)
    assert len(dataset.cache) == len(used)
    assert 3 * used.prod(1).sum() <= dataset.cache.num_bytes <= 4 * used.prod(1).sum()
    for folder in dataset.folders:
        shutil.rmtree(folder)  # from here on no file can be read
    assert_equal(samples(dataset), wanted)
    loader = DataLoader(dataset, 3, num_workers=2, collate_fn=default_collate, multiprocessing_context='fork')
    found = torch.cat([batch['inputs'] for batch in loader])
    assert torch.equal(found, torch.stack([sample['inputs'] for sample in wanted[: len(dataset)]]))
    copied = pickle.loads(pickle.dumps(dataset))
    assert len(copied.cache) == 0 and len(pickle.dumps(dataset.cache)) < 1000
    with pytest.raises(ImageError, match='does not exist'):
        copied[0]


def test_image_dataset__cached(tmp_path, rng):
    folder = tmp_path / 'images'
    folder.mkdir()
    for file in ('a.jpg', 'a.png', 'b.jpg'):
        save(folder / file, rng)
    (folder / 'b.jpg').write_bytes((folder / 'b.jpg').read_bytes()[:-3000])
    (folder / 'c.jpg').write_bytes(b'no image')
    plain, dataset = (ImageDataset(folder, size=40, max_bad_files=9, cache_gib=gib) for gib in (0, 0.01))
    assert plain.cache is None and len(dataset) == 4 and len(dataset.cache) == 2

    def outcome(source, key):
        try:
            return source[key]['inputs'].tolist()
        except ImageError as error:
            return str(error)

    keys = [(index, epoch) for epoch in range(6) for index in range(4)]
    found = {key: outcome(dataset, key) for key in keys}
    assert found == {key: outcome(plain, key) for key in keys}
    assert 'does not decode' in found[(3, 0)] and any('does not decode' in found[(2, epoch)] for epoch in range(6))
    assert_equal([dataset[(3, 0, 1)]], [plain[(1, 0)]])  # a spare takes its place


def test_scene_cache__limit(tmp_path, rng):
    for number in range(4):
        save(tmp_path / f'{number}.jpg', rng)
    needed = 4 * decoded_bytes(SIZE, (40, 40)) / 2**30
    assert len(ImageDataset(tmp_path, size=40, cache_gib=needed).cache) == 4
    with pytest.raises(ValueError, match='already 3 of them take more: raise cache_gib'):
        ImageDataset(tmp_path, size=40, cache_gib=needed * 0.6)
