"""All that can be wrong with the data, found before the first stage: each check raises one sentence."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from tools.demo_parts.layout import DataError, Layout, Scenes

# Decoding finds files that were cut short, which their headers do not show; about 300 photographs of 400 px a second.
# Above this number a check would take longer than it saves, so headers have to do.
DECODE_UP_TO = 20_000


def check_data(layout: Layout, progress: Callable[[int, int], None] | None = None) -> dict[str, int]:
    """Check every part of a layout.

    Returns:
        how many scenes, label maps and images it looked at.

    Raises:
        DataError: what is wrong, where, and what to do.
    """
    from mixedae.engine.data_checks import check_coco, read_coco
    from mixedae.engine.label_checks import check_segmentation
    from object_aware.scenes import read_scenes

    images: list[Path] = []
    try:
        parts: list[tuple[Scenes, tuple[str, ...] | None]] = [(scenes, None) for scenes in layout.pretrain]
        if layout.detection:
            parts = [(s, layout.detection.classes if s == layout.detection.train else None) for s, _ in parts]
            parts.append((layout.detection.val, layout.detection.classes))
        for scenes, classes in parts:
            check_coco(scenes.annotations, scenes.images, classes, loads_masks=classes is not None)
            images += [scenes.images / image['file_name'] for image in read_coco(scenes.annotations)['images']]
        read_scenes([(scenes.annotations, scenes.images) for scenes in layout.pretrain])
        if layout.segmentation:
            s = layout.segmentation
            for folder, labels in ((s.train_images, s.train_labels), (s.val_images, s.val_labels)):
                check_segmentation(folder, labels, len(s.classes), image_suffix=s.image_suffix, reduce_zero_label=True)
                images += sorted(folder.rglob(f'*{s.image_suffix}')) + sorted(labels.rglob('*.png'))
    except (ValueError, OSError) as error:
        raise DataError(str(error)) from None
    images = list(dict.fromkeys(images))
    if len(images) <= DECODE_UP_TO:
        check_decodes(images, progress)
    return {'images': len(images), 'decoded': len(images) if len(images) <= DECODE_UP_TO else 0}


def check_decodes(images: list[Path], progress: Callable[[int, int], None] | None = None) -> None:
    """Decode every image to its last pixel."""
    for number, path in enumerate(images, start=1):
        try:
            with Image.open(path) as image:
                image.load()
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            reason = str(error).split(' <')[0]
            raise DataError(
                f'the image {path} does not decode ({reason}): replace it, or take it out of the annotations'
            ) from None
        if progress is not None:
            progress(number, len(images))


def check_once(layout: Layout, stamp: Path) -> str:
    """`check_data`, unless this very data passed it before; says in words what was done."""
    state = data_state(layout)
    if stamp.is_file() and stamp.read_text(encoding='utf-8') == state:
        return 'checked before, unchanged'
    from object_aware.progress import Progress

    counts = check_data(layout, Progress('images') if sys.stderr.isatty() else None)
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(state, encoding='utf-8')
    return f'{counts["images"]:,} images and label maps ' + ('decode' if counts['decoded'] else 'have sound headers')


def data_state(layout: Layout) -> str:
    """A hash over names, sizes and times of change of all files of a layout."""
    digest = hashlib.sha256()
    for path in dict.fromkeys(layout.files()):
        files = [path] if path.is_file() else sorted(p for p in path.rglob('*') if p.is_file())
        for file in files:
            status = file.stat()
            digest.update(json.dumps([str(file), status.st_size, status.st_mtime_ns]).encode())
    return digest.hexdigest()
