"""The crop index: every object that can be cropped as a single centred object, with its others and a window, in one
file.

The file is an uncompressed ``.npz`` of plain columns (no pickles) and a JSON header. It is written under another name
and renamed, so a file that is there is whole. It is tied to what it was built from by ``content_hash``.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .scenes import Scenes
from .windows import REASONS, WindowRules, canonical_window

VERSION = 1
_FORMAT = 'object_aware crop index'
_COLUMNS = {  # name: (dtype kind, shape per row, rows are of)
    'folder_of': ('i', (), 'scenes'),
    'names': ('S', (), 'scenes'),
    'sizes': ('i', (2,), 'scenes'),
    'object_offsets': ('i', (), 'offsets'),
    'boxes': ('f', (4,), 'objects'),
    'classes': ('i', (), 'objects'),
    'crowd': ('b', (), 'objects'),
    'outcome': ('u', (), 'objects'),
    'targets': ('i', (), 'crops'),
    'target_scenes': ('i', (), 'crops'),
    'windows': ('f', (4,), 'crops'),
}


@dataclass(frozen=True)
class CropIndex:
    """S scenes, N objects, T crops (objects that have a window), as columns.

    Attributes:
        folder_of: (S,) int32 index into ``folders``.
        names: (S,) bytes (UTF-8) file name relative to its folder.
        sizes: (S, 2) int32 width, height.
        object_offsets: (S + 1,) int64: the objects of scene s are the rows ``offsets[s]:offsets[s + 1]``.
        boxes: (N, 4) float32 xyxy.
        classes: (N,) int32 index into ``class_names``; for tools that show them, never part of a sample.
        crowd: (N,) bool.
        outcome: (N,) uint8 index into ``REASONS``; crowds have 255.
        targets: (T,) int64 row in ``boxes`` of each crop's object.
        target_scenes: (T,) int64 scene of each crop.
        windows: (T, 4) float32 canonical window of each crop, xyxy scene pixels.
        out_size: (height, width) of the crops the windows were made for.
        rules: the rules that the windows obey.
        folders: image folders relative to ``base``.
        base: folder that holds all image folders.
        class_names: names of the classes.
        left_out: counts of boxes left out when the scenes were read.
        content_hash: SHA-256 of annotation files, rules, crop size and version.
    """

    folder_of: np.ndarray
    names: np.ndarray
    sizes: np.ndarray
    object_offsets: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray
    outcome: np.ndarray
    targets: np.ndarray
    target_scenes: np.ndarray
    windows: np.ndarray
    out_size: tuple[int, int]
    rules: WindowRules
    folders: tuple[str, ...]
    base: str
    class_names: tuple[str, ...]
    left_out: dict[str, int]
    content_hash: str

    def __len__(self) -> int:
        return len(self.targets)

    def others(self, crop: int) -> np.ndarray:
        """(K, 4) boxes of all other objects of the scene of a crop, crowds among them."""
        scene, target = self.target_scenes[crop], self.targets[crop]
        start, stop = self.object_offsets[scene], self.object_offsets[scene + 1]
        return np.concatenate([self.boxes[start:target], self.boxes[target + 1 : stop]])

    def reason_counts(self) -> dict[str, int]:
        """How many objects were accepted, and how many dropped for each reason (crowds apart)."""
        counts = np.bincount(self.outcome[~self.crowd], minlength=len(REASONS))
        return {reason: int(count) for reason, count in zip(REASONS, counts)}

    def summary(self) -> str:
        """A few lines of text: what was accepted, what was dropped and why."""
        counts = self.reason_counts()
        objects = sum(counts.values())
        width = max(len(reason) for reason in (*counts, *self.left_out))
        used = len(np.unique(self.target_scenes))
        lines = [
            f'{len(self.names):,} scenes, {objects:,} objects and {int(self.crowd.sum()):,} crowd regions; '
            f'crops of {self.out_size[0]}x{self.out_size[1]} (height x width) from {used:,} scenes'
        ]
        lines += [
            f'  {reason:<{width}}  {count:>10,}  {100 * count / max(objects, 1):5.1f} %'
            for reason, count in counts.items()
        ]
        left = {reason: count for reason, count in self.left_out.items() if count}
        if left:
            lines.append('boxes of the annotation files that were left out, or only cut at the border ("clipped"):')
            lines += [f'  {reason:<{width}}  {count:>10,}' for reason, count in left.items()]
        return '\n'.join(lines)

    def image_folders(self, image_root: str | os.PathLike[str] | None = None) -> list[Path]:
        """The image folders; ``image_root`` replaces ``base`` when the data moved.

        Raises:
            FileNotFoundError: a folder does not exist.
        """
        base = Path(self.base if image_root is None else image_root)
        folders = [base / folder for folder in self.folders]
        for folder in folders:
            if not folder.is_dir():
                inner = '' if list(self.folders) == ['.'] else f' (the folder that holds {", ".join(self.folders)})'
                raise FileNotFoundError(
                    f'Image folder {folder} of the crop index does not exist: '
                    f'if the data moved, give image_root{inner}.'
                )
        return folders

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index as one file, whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        header = dict(
            format=_FORMAT,
            version=VERSION,
            out_size=list(self.out_size),
            rules=self.rules.as_dict(),
            folders=list(self.folders),
            base=os.path.abspath(self.base),
            base_from_here=os.path.relpath(self.base, path.parent),
            class_names=list(self.class_names),
            left_out=self.left_out,
            content_hash=self.content_hash,
            reasons=list(REASONS),
        )
        columns = {name: getattr(self, name) for name in _COLUMNS}
        encoded = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
        temporary = path.with_name(f'.{path.name}.{os.getpid()}.part')
        try:
            with open(temporary, 'wb') as file:
                np.savez(file, header=encoded, **columns)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> CropIndex:
        """Read an index.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is cut short, damaged, no crop index, or of another version.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f'Crop index {path} does not exist: build it with tools/build_crops.py.')
        remedy = 'build it anew with tools/build_crops.py.'
        try:
            file = np.load(path, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile) or 'header' not in file.files:
                raise ValueError(f'{path} is not a crop index: {remedy}')
            with file:
                header = json.loads(file['header'].tobytes())
                columns = {name: file[name] for name in file.files if name in _COLUMNS}
        except (zipfile.BadZipFile, EOFError, OSError, KeyError, NotImplementedError, json.JSONDecodeError) as error:
            raise ValueError(f'Crop index {path} is cut short or damaged ({error}): {remedy}') from None
        except ValueError as error:  # NumPy: not its format, or a pickle
            if 'is not a crop index' in str(error):
                raise
            raise ValueError(f'{path} is not a crop index ({error}): {remedy}') from None
        if header.get('format') != _FORMAT:
            raise ValueError(f'{path} is not a crop index: {remedy}')
        if header.get('version') != VERSION or header.get('reasons') != list(REASONS):
            raise ValueError(
                f'Crop index {path} has version {header.get("version")}, this code reads version {VERSION}: {remedy}'
            )
        _check_columns(columns, path, remedy)
        beside = path.parent / header['base_from_here']
        return cls(
            **columns,
            out_size=tuple(header['out_size']),
            rules=WindowRules(**header['rules']),
            folders=tuple(header['folders']),
            base=os.path.normpath(beside if beside.is_dir() else header['base']),
            class_names=tuple(header['class_names']),
            left_out=header['left_out'],
            content_hash=header['content_hash'],
        )


def _check_columns(columns: dict[str, np.ndarray], path: Path, remedy: str) -> None:
    rows: dict[str, int] = {}
    for name, (kind, shape, of) in _COLUMNS.items():
        column = columns.get(name)
        if column is None or column.dtype.kind != kind or column.shape[1:] != shape:
            raise ValueError(f'Crop index {path} is damaged (column {name} is missing or of a wrong kind): {remedy}')
        if rows.setdefault(of, len(column)) != len(column):
            raise ValueError(f'Crop index {path} is damaged (column {name} has a wrong length): {remedy}')
    if rows['offsets'] != rows['scenes'] + 1 or columns['object_offsets'][-1] != rows['objects']:
        raise ValueError(f'Crop index {path} is damaged (its object offsets do not fit its objects): {remedy}')


def as_size(size: int | Sequence[int]) -> tuple[int, int]:
    """A crop size as (height, width), from one number or two."""
    pair = (size, size) if isinstance(size, (int, np.integer)) else tuple(size)
    if len(pair) != 2 or not all(isinstance(c, (int, np.integer)) and c > 0 for c in pair):
        raise ValueError(f'A crop size must be one or two (height, width) whole numbers above 0, not {size}.')
    return int(pair[0]), int(pair[1])


def content_hash(
    annotation_files: Sequence[str | os.PathLike[str]], out_size: int | Sequence[int], rules: WindowRules
) -> str:
    """SHA-256 of all that decides what an index holds.

    Compare it with ``CropIndex.content_hash`` to see if an index is up to date.
    """
    state = hashlib.sha256(json.dumps([VERSION, list(as_size(out_size)), rules.as_dict()], sort_keys=True).encode())
    for file in annotation_files:
        state.update(hashlib.sha256(Path(file).read_bytes()).digest())
    return state.hexdigest()


def build_crop_index(
    scenes: Scenes,
    out_size: int | Sequence[int],
    rules: WindowRules | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CropIndex:
    """Find for every object the canonical window, or why there is none.

    Args:
        scenes: what :func:`object_aware.read_scenes` returned.
        out_size: (height, width) of the crops in pixels, or one number for both.
        rules: the rules of the windows; the defaults of :class:`WindowRules` if None.
        progress: called with (objects done, objects in all).

    Raises:
        ValueError: no object has a window.
    """
    size = as_size(out_size)
    rules = rules or WindowRules()
    count = len(scenes.boxes)
    outcome = np.full(count, 255, dtype=np.uint8)
    offsets = scenes.object_offsets
    targets, windows = [], []
    boxes = scenes.boxes.astype(np.float64)
    for scene, (start, stop) in enumerate(itertools.pairwise(offsets)):
        scene_size = (int(scenes.sizes[scene, 0]), int(scenes.sizes[scene, 1]))
        for row in range(start, stop):
            if scenes.crowd[row]:
                continue
            others = np.concatenate([boxes[start:row], boxes[row + 1 : stop]])
            window, reason = canonical_window(boxes[row], others, scene_size, size, rules)
            outcome[row] = REASONS.index(reason)
            if window is not None:
                targets.append(row)
                windows.append(window)
        if progress is not None and stop > start:
            progress(int(stop), count)
    base = os.path.commonpath([os.path.abspath(folder) for folder in scenes.folders])
    target_rows = np.array(targets, dtype=np.int64)
    index = CropIndex(
        folder_of=scenes.folder_of,
        names=scenes.names,
        sizes=scenes.sizes,
        object_offsets=offsets,
        boxes=scenes.boxes,
        classes=scenes.classes,
        crowd=scenes.crowd,
        outcome=outcome,
        targets=target_rows,
        target_scenes=scenes.scene_of[target_rows].astype(np.int64),
        windows=np.array(windows, dtype=np.float32).reshape(-1, 4),
        out_size=size,
        rules=rules,
        folders=tuple(os.path.relpath(os.path.abspath(folder), base) for folder in scenes.folders),
        base=base,
        class_names=scenes.class_names,
        left_out=scenes.left_out,
        content_hash=content_hash(scenes.annotation_files, size, rules),
    )
    if not len(index):
        counts = ', '.join(f'{number} {reason}' for reason, number in index.reason_counts().items() if number)
        raise ValueError(
            f'None of {count} objects has a window under these rules ({counts}): '
            'loosen the rules or take a smaller crop size.'
        )
    return index
