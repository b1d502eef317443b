"""Which image files a folder holds, which of a list are missing, how large one is."""

import pytest
from PIL import Image

from object_aware.image_files import check_images, image_size, list_image_files, missing_files


@pytest.fixture
def folder(tmp_path):
    for name in ('b/2.jpg', 'b/1.PNG', 'b/no.txt', 'a-b/3.webp', 'a/4.jpeg', 'z.tif', 'b/inner/5.bmp'):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def test_list_image_files__folder_by_folder_sorted(folder):
    assert list_image_files(folder) == ['z.tif', 'a/4.jpeg', 'a-b/3.webp', 'b/1.PNG', 'b/2.jpg', 'b/inner/5.bmp']


def test_missing_files__looks_into_subfolders(folder):
    names = ['b/2.jpg', 'z.tif', '2.jpg', 'b/z.tif', 'c/2.jpg', 'b/inner/5.bmp', 'b/inner']
    assert missing_files(folder, names) == ['2.jpg', 'b/z.tif', 'c/2.jpg']


def test_check_images__names_the_source(folder):
    check_images(folder, ['z.tif'], 'list.json')
    with pytest.raises(FileNotFoundError, match=r'2 of 3 images of list.json are not in .* \(x.jpg, y.jpg\): is this'):
        check_images(folder, ['x.jpg', 'z.tif', 'y.jpg'], 'list.json')


def test_image_size__as_stored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees
    Image.new('RGB', (40, 30)).save(tmp_path / 'turned.jpg', exif=exif)
    assert image_size(tmp_path / 'turned.jpg') == (40, 30)
    (tmp_path / 'bad.jpg').write_bytes(b'no picture')
    with pytest.raises(ValueError, match=r'Image .*bad\.jpg cannot be read'):
        image_size(tmp_path / 'bad.jpg')
