"""A rank's shards as one dataset."""

from __future__ import annotations

import bisect
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import get_dist_info
from torch.utils.data import Dataset

from mixedae.registry import DATASETS

from .dataset import Key, ObjectCropDataset, sample_or_spare, split_key
from .quarantine import Quarantine, default_limit
from .shards import missing_shards, read_manifest, shards_of_rank


@DATASETS.register_module()
class ShardedCropDataset(Dataset):
    """The object crops of the shards rank, rank + world_size, ... of a folder, which may be a disk of this machine.

    Use it with ``GroupSampler(local_data=True)``: each rank groups the crops of its own shards, and all ranks take as
    many groups as the one with the fewest has. Shards hold random scenes, so the ranks' data are alike. A sample is a
    function of (seed, epoch, index) and of which shards the rank has; so another number of processes sees other
    samples.

    Args:
        shard_dir: folder written by tools/shard_crops.py. Of the tar files only the rank's own need be there.
        size, seed, flip_prob, quarantine_file, max_bad_files: as for :class:`ObjectCropDataset`.
        rank, world_size: of this process; if None asked of the process group, or of torchrun's environment.

    Attributes:
        parts: the rank's :class:`ObjectCropDataset`, one for each shard.
        shards: their numbers.
        scene_ids: (len,) int32 scene of each crop, counted through all parts.
        class_ids: (len,) int32, window_areas: (len,) float32: for a sampler that groups by them.

    Raises:
        FileNotFoundError: no manifest, or files of the rank's shards are missing.
        ValueError: fewer shards than ranks, files of another size than the manifest says, or what
            :class:`ObjectCropDataset` refuses.
    """

    def __init__(
        self,
        shard_dir: str | os.PathLike[str],
        size: int | Sequence[int] | None = None,
        seed: int = 0,
        flip_prob: float = 0.5,
        rank: int | None = None,
        world_size: int | None = None,
        quarantine_file: str | os.PathLike[str] | None = None,
        max_bad_files: int | None = None,
    ) -> None:
        if rank is None or world_size is None:
            rank, world_size = get_dist_info()
            if world_size == 1:  # checks before training run before the process group is there
                rank, world_size = (
                    int(os.environ.get(name, given)) for name, given in (('RANK', 0), ('WORLD_SIZE', 1))
                )
        entries = read_manifest(shard_dir)['shards']
        self.shards = shards_of_rank(len(entries), rank, world_size)
        missing_shards(shard_dir, [entries[shard] for shard in self.shards])
        self.seed = int(seed)
        self.parts = [
            ObjectCropDataset(
                Path(shard_dir) / entries[shard]['index'],
                size,
                # Each shard counts its crops from 0: another seed for each, or crops of equal number look alike.
                seed=int(np.random.SeedSequence((self.seed, shard)).generate_state(1, np.uint64)[0] >> 1),
                flip_prob=flip_prob,
            )
            for shard in self.shards
        ]
        self.size = self.parts[0].size
        scenes = np.cumsum([0, *(len(part.index.names) for part in self.parts)])
        self._scene_starts = scenes[:-1].tolist()
        self._ends = np.cumsum([len(part) for part in self.parts]).tolist()
        self.scene_ids = np.concatenate(
            [part.scene_ids.astype(np.int32) + np.int32(start) for part, start in zip(self.parts, self._scene_starts)]
        )
        limit = default_limit(int(scenes[-1])) if max_bad_files is None else max_bad_files
        self.quarantine = Quarantine(quarantine_file, limit)

    def __len__(self) -> int:
        return self._ends[-1]

    @property
    def class_ids(self) -> np.ndarray:
        """(len,) int32 class of each crop's object, -1 where it has none."""
        indices = [part.index for part in self.parts]
        return np.concatenate([np.where(i.targets < 0, -1, i.classes[i.targets]).astype(np.int32) for i in indices])

    @property
    def window_areas(self) -> np.ndarray:
        """(len,) float32 area of each crop's own window in scene pixels."""
        return np.concatenate([np.prod(p.index.windows[:, 2:] - p.index.windows[:, :2], axis=1) for p in self.parts])

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """As of :class:`ObjectCropDataset`, with ``scene`` counted through all parts and the ``shard`` number."""
        return sample_or_spare(self._load, key, len(self), self.quarantine)

    def draw(self, key: Key) -> tuple[int, np.ndarray, bool]:
        """(crop number, (4,) float32 window, flip?) of a key, without reading pixels."""
        index, epoch = split_key(key, len(self))
        part, local = self.locate(index)
        _, window, flip = self.parts[part].draw((local, epoch))
        return index, window, flip

    def locate(self, index: int) -> tuple[int, int]:
        """(part, number of the crop in that part)."""
        part = bisect.bisect_right(self._ends, index)
        return part, index - (self._ends[part - 1] if part else 0)

    def _load(self, index: int, epoch: int) -> dict[str, Any]:
        part, local = self.locate(index)
        sample = self.parts[part]._load(local, epoch)
        data = sample['data_samples']
        data['scene'] += self._scene_starts[part]
        data['shard'] = self.shards[part]
        return sample

    def preflight(self, progress: Callable[[int, int], None] | None = None, thorough: bool = False) -> None:
        """Look at every image of the rank's shards before hours are spent.

        Raises:
            ValueError: more than ``max_bad_files`` are broken.
        """
        total = sum(len(part.index.names) for part in self.parts)
        for part, start in zip(self.parts, self._scene_starts):
            part.quarantine = self.quarantine
            part.preflight(
                None if progress is None else lambda done, _, start=start: progress(start + done, total), thorough
            )
