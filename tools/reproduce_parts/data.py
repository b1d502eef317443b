"""Which folders the experiments read, and that no image of an evaluation is in pre-training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tools.demo_parts.layout import DataError, Layout, Scenes, find_layout

CAMVID_UNLABELLED = 11


@dataclass(frozen=True)
class Data:
    """The pack's parts: scenes to pre-train on, labelled images, two segmentation sets, two detection sets."""

    root: Path
    layout: Layout  # scenes for pre-training, super12, ADE20K
    camvid: Path
    labelled: Path
    person_train: Scenes
    person_val: Scenes

    @property
    def pretrain(self) -> tuple[Scenes, ...]:
        return self.layout.pretrain

    def camvid_classes(self) -> list[str]:
        return (self.camvid / 'classes.txt').read_text(encoding='utf-8').split()


def find_data(root: str | Path) -> Data:
    """Look a folder over.

    Raises:
        DataError: a part is missing, or pre-training would see an image of an evaluation.
    """
    root = Path(root).resolve()
    layout = find_layout(root)
    if not layout.detection or not layout.segmentation:
        raise DataError(f'{root} must hold det/ and seg/ (docs/results.md names all parts that are needed)')
    camvid, labelled, extra = root / 'seg_camvid', root / 'cls', root / 'pretrain'
    wanted = [
        *(camvid / kind / split for kind in ('images', 'annotations') for split in ('train', 'val')),
        camvid / 'classes.txt',
        *(labelled / split for split in ('train', 'val')),
        *(extra / 'annotations' / f'person_{split}.json' for split in ('train', 'val')),
    ]
    for path in wanted:
        if not path.exists():
            raise DataError(f'{path} is missing: docs/results.md names all parts that are needed')
    person = [Scenes(extra / 'annotations' / f'person_{split}.json', extra / 'images') for split in ('train', 'val')]
    data = Data(root, layout, camvid, labelled, *person)
    check_apart(data)
    return data


def check_apart(data: Data) -> None:
    """No scene of pre-training is a test image of any evaluation, nor a copy of one under another name.

    Raises:
        DataError: the first one that is.
    """
    seen: dict[bytes, Path] = {}
    for scenes in data.pretrain:
        seen.update((digest(path), path) for path in image_paths(scenes))
    for path, source in tested_images(data):
        scene = seen.get(digest(path))
        if scene is not None:
            named = '' if scene == path else f', as {scene}'
            raise DataError(
                f'{path} is tested by {source} and would be seen in pre-training{named}: take it out of one'
            )


def tested_images(data: Data) -> Iterator[tuple[Path, str]]:
    """Each test image, and where it is tested."""
    for val in (data.layout.detection.val, data.person_val):
        yield from ((path, val.annotations.name) for path in image_paths(val))
    for folder in (data.layout.segmentation.val_images, data.camvid / 'images' / 'val', data.labelled / 'val'):
        yield from ((path, str(folder)) for path in sorted(folder.rglob('*')) if path.is_file())


def digest(path: Path) -> bytes:
    """Of a file's content."""
    return hashlib.blake2b(path.read_bytes(), digest_size=16).digest()


def image_paths(scenes: Scenes) -> list[Path]:
    """The image files of a COCO annotation file."""
    content = json.loads(scenes.annotations.read_text(encoding='utf-8'))
    folder = scenes.images.resolve()
    return [folder / image['file_name'] for image in content['images']]
