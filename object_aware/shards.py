"""Shards: the scenes of a crop index as tar files with an index each, for corpora that no single disk or folder holds.

    DIR/crops-00000.tar            KEY.jpg, KEY.json, KEY.jpg, ...      any WebDataset reader streams it
    DIR/crops-00000.safetensors    the crop index of the same scenes, which knows where in the tar file each image is
    ...
    DIR/shards.json                written last: how many shards, and what is in each

Image files are copied byte by byte. Only scenes that have crops are written. Each scene goes to a shard drawn at random
(by the seed), so each shard is a random sample of the corpus, in random order, and all hold about as many crops.
The json of a scene holds its size, its objects' boxes and windows, and the name it had; no labels. Its masks are in the
index.

:class:`ShardedCropDataset` opens a rank's shards as one dataset, so a sample is still a function of (seed, epoch,
index), the sampler still forms groups of different scenes (of the rank's shards), and resume is exact.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .byte_strings import ByteStrings, offsets_of
from .index import CropIndex
from .messages import some
from .outputs import check_out, json_with
from .windows import REASONS

MANIFEST = 'shards.json'
_FORMAT = 'object_aware shards'
_VERSION = 1
_BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True)
class ShardPlan:
    """Which scenes go to which shard, as a function of (index, number of shards, seed) alone.

    Attributes:
        scenes: scenes of the index that have crops, in the order in which they are written.
        starts: (num_shards + 1,): shard k holds ``scenes[starts[k]:starts[k + 1]]``.
        content_hash: SHA-256 of all that decides what the shards hold.
    """

    scenes: np.ndarray
    starts: np.ndarray
    content_hash: str

    def __len__(self) -> int:
        return len(self.starts) - 1

    def of(self, shard: int) -> np.ndarray:
        """Scenes of a shard."""
        return self.scenes[self.starts[shard] : self.starts[shard + 1]]

    def hash_of(self, shard: int) -> str:
        """Content hash of a shard's index."""
        return hashlib.sha256(f'{self.content_hash} {shard}'.encode()).hexdigest()


def plan_shards(index: CropIndex, num_shards: int, seed: int = 0) -> ShardPlan:
    """Deal the scenes to shards of about the same number of crops.

    Raises:
        ValueError: less than one shard, or fewer scenes with crops than shards.
    """
    used = index.used_scenes
    if not 1 <= num_shards <= len(used):
        raise ValueError(f'{len(used)} scenes with crops cannot fill {num_shards} shards.')
    scenes = np.random.default_rng(seed).permutation(used)
    low, high = _crop_range(index, scenes)
    before = np.concatenate([[0], np.cumsum(high - low)])
    numbers = np.arange(num_shards + 1)
    starts = np.searchsorted(before, numbers * before[-1] // num_shards, side='left')
    starts = np.maximum.accumulate(starts - numbers) + numbers  # a scene for each shard, few and large as they may be
    starts = np.minimum(starts, len(scenes) - num_shards + numbers)
    state = json.dumps([_FORMAT, _VERSION, index.content_hash, len(scenes), num_shards, seed])
    return ShardPlan(scenes, starts, hashlib.sha256(state.encode()).hexdigest())


def shard_name(shard: int, suffix: str) -> str:
    """File name of a shard."""
    return f'crops-{shard:05d}{suffix}'


def write_shards(
    index: CropIndex,
    out_dir: str | os.PathLike[str],
    num_shards: int,
    *,
    seed: int = 0,
    image_root: str | os.PathLike[str] | None = None,
    part: tuple[int, int] = (0, 1),
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any] | None:
    """Write the shards that are not there yet. The same arguments give the same tar files, byte for byte.

    Each file is written under another name and renamed, a shard's index after its tar file, so a shard whose index is
    there is whole, and an interrupted call goes on with the next shard.

    Args:
        index: the crop index to split.
        out_dir: folder of the shards; made if it is not there.
        num_shards: how many.
        seed: of the dealing.
        image_root: where the images are if they moved (see ``CropIndex.image_folders``).
        part: (k, n): write only the shards k, k + n, ..., so that n processes or machines can share the work; whoever
            finishes last writes the manifest.
        progress: called with (scenes done, scenes of this part).

    Returns:
        The manifest, or None if other parts' shards are still missing.

    Raises:
        ValueError: the folder holds other shards, or the numbers make no sense.
        FileNotFoundError: an image is missing.
        FileExistsError: a shard would overwrite what is read.
    """
    out = Path(out_dir)
    if not 0 <= part[0] < part[1]:
        raise ValueError(f'part must be k of n with 0 <= k < n, not {part[0]} of {part[1]}.')
    plan = plan_shards(index, num_shards, seed)
    folders = index.image_folders(image_root)
    read = [*folders, *([index.path] if index.path else [])]
    for shard in range(num_shards):
        for suffix in ('.tar', '.safetensors'):
            check_out(out / shard_name(shard, suffix), read)
    check_out(out / MANIFEST, read, 'a manifest of shards', json_with('format', 'shards'))
    out.mkdir(parents=True, exist_ok=True)
    mine = range(part[0], num_shards, part[1])
    present = {shard: _present(out, plan, shard) for shard in mine}
    total, done = sum(len(plan.of(shard)) for shard in mine), 0
    for shard in mine:
        scenes = plan.of(shard)
        if present[shard] is None:
            _write_shard(index, out, plan, shard, folders, lambda n, done=done: progress and progress(done + n, total))
        elif progress is not None:
            progress(done + len(scenes), total)
        done += len(scenes)
    entries = [present.get(shard) or _present(out, plan, shard) for shard in range(num_shards)]
    if not all(entries):
        return None
    manifest = dict(
        format=_FORMAT,
        version=_VERSION,
        content_hash=plan.content_hash,
        index_hash=index.content_hash,
        seed=seed,
        out_size=list(index.out_size),
        shards=entries,
    )
    _write_whole(out / MANIFEST, json.dumps(manifest, indent=1).encode())
    return manifest


def read_manifest(shard_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest of a folder of shards.

    Raises:
        FileNotFoundError: there is none, so the folder is not complete.
        ValueError: it cannot be read.
    """
    path = Path(shard_dir) / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f'{path} does not exist: write the shards with tools/shard_crops.py, all of them.')
    try:
        manifest = json.loads(path.read_bytes())
        if manifest['format'] != _FORMAT or manifest['version'] != _VERSION or not manifest['shards']:
            raise ValueError('another format or version')
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f'{path} is no manifest of shards ({error}): write the shards anew.') from None
    return manifest


def shards_of_rank(num_shards: int, rank: int, world_size: int) -> list[int]:
    """Shards rank, rank + world_size, ...

    Raises:
        ValueError: there are fewer shards than ranks.
    """
    if num_shards < world_size:
        raise ValueError(f'{num_shards} shards cannot feed {world_size} processes: write at least as many shards.')
    return list(range(rank, num_shards, world_size))


def take_scenes(index: CropIndex, scenes: np.ndarray) -> CropIndex:
    """The part of an index that is about some scenes, in their order. Images stay where they are.

    Args:
        index: the whole.
        scenes: (K,) numbers of scenes, each at most once.
    """
    scenes = np.asarray(scenes, dtype=np.int64)
    first, last = index.object_offsets[scenes], index.object_offsets[scenes + 1]
    rows = _ranges(first, last)
    offsets = offsets_of(last - first)
    low, high = _crop_range(index, scenes)
    crops = _ranges(low, high)
    scene_of_crop = np.repeat(np.arange(len(scenes)), high - low)
    moved = offsets[scene_of_crop] - first[scene_of_crop]
    targets = index.targets[crops]
    masks = index.masks.take(rows)
    tars = len(index.tar_offset) > 0
    return replace(
        index,
        folder_of=index.folder_of[scenes],
        names=index.names.take(scenes),
        sizes=index.sizes[scenes],
        object_offsets=offsets,
        boxes=index.boxes[rows],
        classes=index.classes[rows],
        crowd=index.crowd[rows],
        outcome=index.outcome[rows],
        mask_offsets=masks.offsets,
        mask_bytes=masks.data,
        tar_offset=index.tar_offset[scenes] if tars else index.tar_offset,
        tar_size=index.tar_size[scenes] if tars else index.tar_size,
        targets=np.where(targets < 0, -1, targets + moved),
        target_scenes=scene_of_crop,
        windows=index.windows[crops],
        path=None,
    )


def scene_record(index: CropIndex, scene: int) -> dict[str, Any]:
    """What the json beside a scene's image says: name, size, and of each object box, window (or None) and outcome."""
    start, stop = int(index.object_offsets[scene]), int(index.object_offsets[scene + 1])
    (low,), (high,) = _crop_range(index, np.array([scene]))
    window_of = {int(index.targets[crop]): index.windows[crop].tolist() for crop in range(low, high)}
    outcomes = index.outcome[start:stop].tolist()
    objects = [
        dict(
            box=index.boxes[row].tolist(),
            window=window_of.get(row),
            outcome='crowd' if index.crowd[row] else REASONS[outcome],
        )
        for row, outcome in zip(range(start, stop), outcomes)
    ]
    record = dict(
        name=index.names[scene].decode(),
        width=int(index.sizes[scene, 0]),
        height=int(index.sizes[scene, 1]),
        objects=objects,
    )
    return record if -1 not in window_of else dict(record, window=window_of[-1])  # a crop of a scene without objects


def _crop_range(index: CropIndex, scenes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last + 1 of the crops of each scene; crops stand in order of their scenes."""
    return tuple(np.searchsorted(index.target_scenes, scenes, side=side) for side in ('left', 'right'))


def _ranges(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """All numbers of the ranges first[k]..last[k] - 1, one range after the other."""
    lengths = last - first
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(first - ends + lengths, lengths)


def _present(out: Path, plan: ShardPlan, shard: int) -> dict[str, Any] | None:
    """The manifest's entry of a shard that is there and whole, None if it is not there."""
    tar, path = out / shard_name(shard, '.tar'), out / shard_name(shard, '.safetensors')
    if not path.is_file() or not tar.is_file():
        return None
    try:
        index = CropIndex.load(path)
    except ValueError:
        return None  # damaged: written anew
    if index.content_hash != plan.hash_of(shard):
        raise ValueError(f'{path} belongs to other shards (of another index, number or seed): take an empty folder.')
    size = tar.stat().st_size
    if size < int(index.tar_offset.max() + index.tar_size[index.tar_offset.argmax()]) + 2 * _BLOCK:
        return None
    return dict(
        tar=tar.name, index=path.name, scenes=len(index.names), crops=len(index), bytes=size,
        index_bytes=path.stat().st_size,
    )  # fmt: skip


def _write_shard(
    index: CropIndex, out: Path, plan: ShardPlan, shard: int, folders: Sequence[Path], progress: Callable[[int], Any]
) -> None:
    scenes = plan.of(shard)
    tar_path = out / shard_name(shard, '.tar')
    temporary = tar_path.with_name(f'.{tar_path.name}.{os.getpid()}.part')
    names, offsets, sizes = [], [], []
    try:
        with open(temporary, 'wb') as file:
            with tarfile.open(fileobj=file, mode='w', format=tarfile.USTAR_FORMAT) as tar:
                for done, (scene, image) in enumerate(zip(scenes.tolist(), _images(index, scenes, folders)), 1):
                    key = f'{scene:09d}'
                    names.append((key + _suffix(index.names[scene])).encode())
                    offsets.append(_add(tar, names[-1].decode(), image))
                    sizes.append(len(image))
                    _add(tar, f'{key}.json', json.dumps(scene_record(index, scene)).encode())
                    progress(done)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, tar_path)
    finally:
        temporary.unlink(missing_ok=True)
    part = replace(
        take_scenes(index, scenes),
        folder_of=np.zeros(len(scenes), dtype=np.int32),
        names=ByteStrings.of(names),
        tar_offset=np.array(offsets, dtype=np.int64),
        tar_size=np.array(sizes, dtype=np.int64),
        folders=(tar_path.name,),
        base=str(out),
        left_out={},
        content_hash=plan.hash_of(shard),
    )
    part.save(out / shard_name(shard, '.safetensors'))


def _images(index: CropIndex, scenes: np.ndarray, folders: Sequence[Path]) -> Iterator[bytes]:
    """Bytes of each scene's image file."""
    for scene in scenes.tolist():
        path, offset, size = index.image_bytes_location(scene, folders)
        try:
            with open(path, 'rb') as file:
                file.seek(offset)
                image = file.read() if size is None else file.read(size)
        except FileNotFoundError:
            raise FileNotFoundError(
                f'Image {path} of the crop index does not exist: give image_root if the data moved.'
            ) from None
        if not image or (size is not None and len(image) != size):
            raise ValueError(f'Image {path} (scene {scene}) is cut short: mend it, or build the index without it.')
        yield image


def _suffix(name: bytes) -> str:
    """The ending that tells a WebDataset reader how to decode a file."""
    suffix = os.path.splitext(name.decode())[1].lower()
    return suffix if suffix and suffix != '.json' else '.img'


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> int:
    """Append a file with no time, owner or other trace of this machine; the offset of its first byte."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = len(content), 0o644, 0
    offset = tar.offset + _BLOCK  # its header is one block
    tar.addfile(entry, io.BytesIO(content))
    return offset


def _write_whole(path: Path, content: bytes) -> None:
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.part')
    try:
        with open(temporary, 'wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def missing_shards(shard_dir: str | os.PathLike[str], shards: Sequence[dict[str, Any]]) -> None:
    """Check that the files of some shards are there and as large as the manifest says.

    Raises:
        FileNotFoundError: one is not there.
        ValueError: one has another size.
    """
    folder = Path(shard_dir)
    absent = [name for shard in shards for name in (shard['tar'], shard['index']) if not (folder / name).is_file()]
    if absent:
        raise FileNotFoundError(f'{len(absent)} files of shards are not in {folder} ({some(absent)}): copy them there.')
    for shard in shards:
        for name, size in ((shard['tar'], shard['bytes']), (shard['index'], shard['index_bytes'])):
            found = (folder / name).stat().st_size
            if found != size:
                raise ValueError(
                    f'{folder / name} has {found:,} bytes and {MANIFEST} says {size:,}: copy it there again.'
                )
