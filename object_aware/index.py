"""The crop index: every object that can be cropped as a single centred object, with its others and a window, in one
file.

The file (see ``columns_file.py``) is mapped into memory: it opens at once whatever its size, and processes share it. It
is tied to what it was built from by ``content_hash``.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .byte_strings import ByteStrings
from .columns_file import ColumnsFile, read_columns, write_columns
from .messages import some
from .outputs import begins_with
from .windows import REASONS, WindowRules, draw_in_scene

VERSION = 2
_FORMAT = 'object_aware crop index'
_NO_MASKS = np.empty(0, dtype=np.int64)
_VERIFY_UP_TO = 1 << 26  # files up to this size are verified whenever they are opened (64 MiB: about 0.01 s)
_COLUMNS = {  # name: (dtype, shape per row, rows are of)
    'folder_of': ('<i4', (), 'scenes'),
    'name_offsets': ('<i8', (), 'scenes + 1'),
    'name_bytes': ('u1', (), 'bytes of names'),
    'sizes': ('<i4', (2,), 'scenes'),
    'tar_offset': ('<i8', (), 'scenes or none'),
    'tar_size': ('<i8', (), 'scenes or none'),
    'object_offsets': ('<i8', (), 'scenes + 1'),
    'boxes': ('<f4', (4,), 'objects'),
    'classes': ('<i4', (), 'objects'),
    'crowd': ('?', (), 'objects'),
    'outcome': ('u1', (), 'objects'),
    'mask_offsets': ('<i8', (), 'objects + 1 or none'),
    'mask_bytes': ('u1', (), 'bytes of masks'),
    'targets': ('<i8', (), 'crops'),
    'target_scenes': ('<i8', (), 'crops'),
    'windows': ('<f4', (4,), 'crops'),
}


def is_crop_index(path: str | os.PathLike[str]) -> bool:
    """Whether a file was written as a crop index, of any version, be it damaged: one that may be built anew."""
    path = Path(path)
    if begins_with(b'{"__metadata__":{"format":"%s"' % _FORMAT.encode(), skip=8)(path):
        return True
    try:
        with zipfile.ZipFile(path) as file:  # version 1
            return {'header.npy', 'windows.npy'} <= set(file.namelist())
    except zipfile.BadZipFile:
        return False


@dataclass(frozen=True, eq=False)
class CropIndex:
    """S scenes, N objects, T crops (objects that have a window), as columns.

    An index that was loaded is pickled as its path, so worker processes map the same file.

    Attributes:
        folder_of: (S,) int32 index into ``folders``.
        names: S byte strings (UTF-8): file name relative to its folder, or inside its tar file.
        sizes: (S, 2) int32 width, height.
        object_offsets: (S + 1,) int64: the objects of scene s are the rows ``offsets[s]:offsets[s + 1]``.
        boxes: (N, 4) float32 xyxy.
        classes: (N,) int32 index into ``class_names``; for tools that show them, never part of a sample.
        crowd: (N,) bool.
        outcome: (N,) uint8 index into ``REASONS``; crowds have 255.
        targets: (T,) int64 row in ``boxes`` of each crop's object; -1 for a crop of a scene without objects (overlap).
        target_scenes: (T,) int64 scene of each crop, non-decreasing.
        windows: (T, 4) float32 canonical window of each crop, xyxy scene pixels.
        out_size: (height, width) of the crops the windows were made for.
        rules: the rules that the windows obey.
        folders: image folders relative to ``base``; one that ends in ``.tar`` is a tar file of images.
        base: folder that holds all image folders.
        class_names: names of the classes.
        left_out: counts of what was left out when the scenes were read.
        content_hash: SHA-256 of the annotations, rules, crop size and version.
        mask_offsets: (N + 1,) int64, mask_bytes: (M,) uint8: the mask of object n is
            ``mask_bytes[mask_offsets[n]:mask_offsets[n + 1]]``, COCO's compressed run lengths at the scene's size;
            zero bytes where it has none.
        tar_offset: (S,) int64 where an image's bytes start in its tar file, -1 for a plain file; empty if all are.
        tar_size: (S,) int64 how many bytes they are, alike.
        path: the file that this was loaded from; with ``dataclasses.replace`` give None, for it is another index.
    """

    folder_of: np.ndarray
    names: ByteStrings
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
    mask_offsets: np.ndarray = field(default_factory=_NO_MASKS.copy)
    mask_bytes: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.uint8))
    tar_offset: np.ndarray = field(default_factory=_NO_MASKS.copy)
    tar_size: np.ndarray = field(default_factory=_NO_MASKS.copy)
    path: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.names, ByteStrings):
            object.__setattr__(self, 'names', ByteStrings.of(self.names))
        if not len(self.mask_offsets):
            object.__setattr__(self, 'mask_offsets', ByteStrings.empty(len(self.boxes)).offsets)

    def __len__(self) -> int:
        return len(self.targets)

    def __reduce__(self):
        if self.path is not None:
            return _reopen, (self.path, self.content_hash)
        return _rebuild, ({name: value for name, value in vars(self).items() if name != 'path'},)

    @property
    def masks(self) -> ByteStrings:
        """The masks of the N objects."""
        return ByteStrings(self.mask_offsets, self.mask_bytes)

    @property
    def name_offsets(self) -> np.ndarray:
        """(S + 1,) int64 where the names start in ``name_bytes``."""
        return self.names.offsets

    @property
    def name_bytes(self) -> np.ndarray:
        """uint8, all names one after the other."""
        return self.names.data

    @property
    def used_scenes(self) -> np.ndarray:
        """The scenes that have crops, ascending."""
        first = np.ones(len(self), dtype=bool)
        first[1:] = self.target_scenes[1:] != self.target_scenes[:-1]
        return self.target_scenes[first]

    def others(self, crop: int) -> np.ndarray:
        """(K, 4) boxes of all other objects of the scene of a crop, crowds among them."""
        scene, target = self.target_scenes[crop], self.targets[crop]
        start, stop = self.object_offsets[scene], self.object_offsets[scene + 1]
        if target < 0:
            return self.boxes[start:stop]
        return np.concatenate([self.boxes[start:target], self.boxes[target + 1 : stop]])

    def draw(self, number: int, rng: np.random.Generator) -> np.ndarray | None:
        """Draw a random window of a crop.

        Args:
            number: the crop, 0..T-1.
            rng: source of randomness.

        Returns:
            (4,) float32 xyxy in scene pixels that obeys the index's rules, or None if no try did; the crop's window in
            ``windows`` obeys them as well.
        """
        scene, target = int(self.target_scenes[number]), int(self.targets[number])
        width, height = self.sizes[scene].tolist()
        if target < 0:
            from .overlap import draw_overlap

            return draw_overlap(self.windows[number], (width, height), self.out_size, self.rules, rng)
        start, stop = int(self.object_offsets[scene]), int(self.object_offsets[scene + 1])
        return draw_in_scene(
            self.boxes[start:stop],
            target - start,
            (width, height),
            self.out_size,
            self.rules,
            rng,
            mask_offsets=self.mask_offsets[start : stop + 1],
            mask_bytes=self.mask_bytes,
        )

    def reason_counts(self) -> dict[str, int]:
        """How many objects were accepted, and how many dropped for each reason (crowds apart)."""
        counts = np.bincount(self.outcome, minlength=256)
        return {reason: int(count) for reason, count in zip(REASONS, counts)}

    def summary(self) -> str:
        """A few lines of text: what was accepted, what was dropped and why."""
        counts = self.reason_counts()
        objects = sum(counts.values())
        width = max(len(reason) for reason in (*counts, *self.left_out))
        lines = [
            f'{len(self.names):,} scenes, {objects:,} objects and {int(self.crowd.sum()):,} crowd regions; '
            f'crops of {self.out_size[0]}x{self.out_size[1]} (height x width) from {len(self.used_scenes):,} scenes'
        ]
        lines += [
            f'  {reason:<{width}}  {count:>10,}  {100 * count / max(objects, 1):5.1f} %'
            for reason, count in counts.items()
        ]
        whole = int(np.count_nonzero(self.targets < 0))
        if whole:
            lines.append(f'windows of whole scenes (overlap)  {whole:,}')
        left = {reason: count for reason, count in self.left_out.items() if count}
        if left:
            lines.append('left out or changed when the annotations were read:')
            lines += [f'  {reason:<{width}}  {count:>10,}' for reason, count in left.items()]
        return '\n'.join(lines)

    def image_folders(self, image_root: str | os.PathLike[str] | None = None) -> list[Path]:
        """The image folders (and tar files); ``image_root`` replaces ``base`` when the data moved.

        Raises:
            FileNotFoundError: one does not exist.
        """
        base = Path(self.base if image_root is None else image_root)
        folders = [base / folder for folder in self.folders]
        for folder in folders:
            if not (folder.is_file() if folder.suffix == '.tar' else folder.is_dir()):
                inner = '' if list(self.folders) == ['.'] else f' (the folder that holds {some(self.folders)})'
                what = 'Tar file' if folder.suffix == '.tar' else 'Image folder'
                raise FileNotFoundError(
                    f'{what} {folder} of the crop index does not exist: if the data moved, give image_root{inner}.'
                )
        return folders

    def image_bytes_location(
        self, scene: int, folders: Sequence[str | os.PathLike[str]] | None = None
    ) -> tuple[str, int, int | None]:
        """Where the bytes of a scene's image file are.

        Args:
            scene: number of the scene.
            folders: what :meth:`image_folders` gave; the folders below ``base`` if None.

        Returns:
            (path, offset, size): a plain file, 0 and None; or a tar file and the part of it that is the image file.
        """
        number = int(self.folder_of[scene])
        folder = os.fspath(Path(self.base, self.folders[number]) if folders is None else folders[number])
        if len(self.tar_offset) and self.tar_offset[scene] >= 0:
            return folder, int(self.tar_offset[scene]), int(self.tar_size[scene])
        return os.path.join(folder, self.names[scene].decode()), 0, None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index as one file, whole or not at all."""
        path = Path(path)
        header = dict(
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
        columns = {name: np.asarray(getattr(self, name), dtype) for name, (dtype, _, _) in _COLUMNS.items()}
        if not len(self.mask_bytes):
            columns['mask_offsets'] = _NO_MASKS
        write_columns(path, columns, dict(format=_FORMAT, version=str(VERSION), header=json.dumps(header)))

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, verify: bool | None = None) -> CropIndex:
        """Map an index file.

        Args:
            path: the file.
            verify: read the whole file and compare its checksums; by default if it has up to 64 MiB. Larger ones are
                verified by the preflight of a training.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is cut short, damaged, no crop index, or of another version.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f'Crop index {path} does not exist: build it with tools/build_crops.py.')
        remedy = 'build it anew with tools/build_crops.py.'
        with open(path, 'rb') as file:
            if file.read(4) == b'PK\x03\x04':
                raise ValueError(
                    f'Crop index {path} is an npz file of version 1, this code reads version {VERSION}: {remedy}'
                )
        try:
            content = read_columns(path)
        except ValueError as error:
            raise ValueError(f'{path} is not a crop index, or it is cut short or damaged ({error}): {remedy}') from None
        if content.metadata.get('format') != _FORMAT:
            raise ValueError(f'{path} is not a crop index: {remedy}')
        if content.metadata.get('version') != str(VERSION):
            version = content.metadata.get('version')
            raise ValueError(f'Crop index {path} has version {version}, this code reads version {VERSION}: {remedy}')
        if verify or (verify is None and path.stat().st_size <= _VERIFY_UP_TO):
            _verify(content, path, remedy)
        try:
            header = json.loads(content.metadata['header'])
            if header['reasons'] != list(REASONS):
                raise ValueError(f'Crop index {path} knows other outcomes than this code: {remedy}')
            _check_columns(content.columns, path, remedy)
            columns = {name: content.columns[name] for name in _COLUMNS}
            names = ByteStrings(columns.pop('name_offsets'), columns.pop('name_bytes'))
            beside = path.parent / header['base_from_here']
            return cls(
                **columns,
                names=names,
                out_size=tuple(header['out_size']),
                rules=WindowRules(**header['rules']),
                folders=tuple(header['folders']),
                base=os.path.normpath(beside if beside.is_dir() else header['base']),
                class_names=tuple(header['class_names']),
                left_out=header['left_out'],
                content_hash=header['content_hash'],
                path=os.path.abspath(path),
            )
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(
                f'Crop index {path} is damaged (its header cannot be read: {type(error).__name__} {error}): {remedy}'
            ) from None

    def verify(self) -> None:
        """Read the whole file that this was loaded from and compare its checksums.

        Raises:
            ValueError: it is damaged.
        """
        if self.path is not None:
            _verify(read_columns(self.path), Path(self.path), 'build it anew with tools/build_crops.py.')


def _verify(content: ColumnsFile, path: Path, remedy: str) -> None:
    damaged = content.damaged()
    if damaged:
        raise ValueError(f'Crop index {path} is damaged (wrong checksum of {some(damaged)}): {remedy}')


def _check_columns(columns: dict[str, np.ndarray], path: Path, remedy: str) -> None:
    rows: dict[str, int] = {}
    for name, (dtype, shape, of) in _COLUMNS.items():
        column = columns.get(name)
        if column is None or column.dtype != np.dtype(dtype) or column.shape[1:] != shape:
            raise ValueError(f'Crop index {path} is damaged (column {name} is missing or of a wrong kind): {remedy}')
        if of.endswith(' or none') and len(column) == 0:
            continue
        things, _, one = of.removesuffix(' or none').partition(' + ')
        length = len(column) - int(one or 0)
        if rows.setdefault(things, length) != length:
            raise ValueError(f'Crop index {path} is damaged (column {name} has a wrong length): {remedy}')
    for offsets, of in (('object_offsets', 'boxes'), ('name_offsets', 'name_bytes'), ('mask_offsets', 'mask_bytes')):
        last = int(columns[offsets][-1]) if len(columns[offsets]) else 0
        if last != len(columns[of]):
            raise ValueError(f'Crop index {path} is damaged (its {offsets} do not fit its {of}): {remedy}')


def _reopen(path: str, content_hash: str) -> CropIndex:
    index = CropIndex.load(path, verify=False)
    if index.content_hash != content_hash:
        raise ValueError(f'Crop index {path} was built anew while it was in use: start again.')
    return index


def _rebuild(fields: dict) -> CropIndex:
    return CropIndex(**fields)


def as_size(size: int | Sequence[int]) -> tuple[int, int]:
    """A crop size as (height, width), from one number or two."""
    pair = (size, size) if isinstance(size, (int, np.integer)) else tuple(size)
    if len(pair) != 2 or not all(isinstance(c, (int, np.integer)) and c > 0 for c in pair):
        raise ValueError(f'A crop size must be one or two (height, width) whole numbers above 0, not {size}.')
    return int(pair[0]), int(pair[1])
