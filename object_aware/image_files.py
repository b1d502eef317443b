"""Image files of a folder: which there are, which are missing, how large they are."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from PIL import Image

from .messages import some

SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')


def list_image_files(folder: str | os.PathLike[str]) -> list[str]:
    """Names of all images in a folder and its subfolders, relative, with forward slashes; folder by folder, sorted."""
    names = []
    for inner, folders, files in os.walk(folder):
        folders.sort()
        parent = os.path.relpath(inner, folder).replace(os.sep, '/')
        prefix = '' if parent == '.' else parent + '/'
        names += [prefix + file for file in sorted(files) if file.lower().endswith(SUFFIXES)]
    return names


def missing_files(folder: str | os.PathLike[str], names: Iterable[str]) -> list[str]:
    """Those of ``names`` that are not in ``folder``. Lists each folder once, opens no file."""
    present: dict[str, set[str]] = {}
    missing = []
    for name in names:
        parent, base = os.path.split(name)
        if parent not in present:
            directory = os.path.join(folder, parent)
            present[parent] = set(os.listdir(directory)) if os.path.isdir(directory) else set()
        if base not in present[parent]:
            missing.append(name)
    return missing


def check_images(folder: str | os.PathLike[str], names: Sequence[str], source: str | os.PathLike[str]) -> None:
    """Raise FileNotFoundError if images are not in their folder."""
    missing = missing_files(folder, names)
    if missing:
        raise FileNotFoundError(
            f'{len(missing)} of {len(names)} images of {source} are not in {folder} ({some(missing)}): '
            'is this the right image folder?'
        )


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(width, height) of an image from its header, of the pixels as stored.

    Raises:
        ValueError: it is no image; it names the file.
    """
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f'Image {path} cannot be read ({str(error).split(" <")[0]}).') from None
