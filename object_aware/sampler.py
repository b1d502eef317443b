"""Samplers whose consecutive indices form mixing groups of objects from different scenes."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator, Sequence, Sized
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_reduce, get_dist_info, sync_random_seed
from mmengine.logging import print_log
from torch.utils.data import Sampler

from mixedae.registry import DATA_SAMPLERS

from .grouping import (
    count_coloured_groups,
    count_groups,
    deal_coloured_groups,
    deal_groups,
    draw_spares,
    runs_of,
    size_bins,
)

_BLOCK = 1 << 14  # groups of all ranks that are turned into keys at once
_KINDS = ('scene', 'class', 'size')


@DATA_SAMPLERS.register_module()
class GroupSampler(Sampler):
    """Yields (index, epoch, spare, ...) so that each consecutive ``group_size`` come from different scenes.

    Every epoch is arranged anew, as a function of (seed, epoch) alone. Each object comes at most once per epoch. The
    groups of an epoch are dealt to the ranks in turn, the same number to each; what is left over is dropped. A dataset
    without ``scene_ids`` has one scene per index.

    Scenes that hold more objects than there can be groups give as many as there are groups (others in each epoch).
    No arrangement forms more groups of different scenes.

    ``differ='class'``: the objects of a group are of different classes too, as far as the commonest class allows: a
    class gives each group one object, so of a class with more than 1/g of the objects some are left out (others in
    each epoch). The number of groups is again the largest possible one (see
    :func:`object_aware.grouping.count_coloured_groups`). Labels order the groups then, no sample holds one.
    ``differ='size'``: the objects are sorted by the area of their windows into ``size_bins`` bins of equal number; the
    members of a group come from different bins.

    **Resume.** Our training loops need nothing of the sampler for it: they leave out the keys of what was done,
    whatever the sampler is (:mod:`mixedae.engine.batches`). Any other loop tells the sampler where it was, because only
    the loop knows: loader workers run ahead of it. After ``set_position(epoch, samples_done)`` the next iteration goes
    on there. ``state_dict(epoch, samples_done)`` also holds what the order depends on, and ``load_state_dict`` refuses
    a state of other data or settings.

    Args:
        dataset: has a length, and ``scene_ids`` (len,) if several of its items may come from one scene. For 'class' it
            has ``class_ids`` (len,), for 'size' ``window_areas`` (len,), or a crop index as ``index``.
        group_size: images that are mixed together, g.
        seed: seed of the order; None takes one that all ranks agree on.
        shuffle: False keeps one fixed order.
        rank, world_size: of this process; asked of the process group if None.
        differ: what differs within a group besides the scene: 'scene' (nothing), 'class' or 'size'; or as a tuple,
            ('scene', 'class').
        size_bins: bins of ``differ='size'``; ``group_size`` if None.
        spares: stand-ins that each key carries after index and epoch; the dataset takes the first good one in place of
            a broken image. They are of scenes that neither the group nor any other spare of it comes from, so scenes
            differ whichever are taken (classes and sizes may not). -1 where there is no such scene.
        local_data: each rank has a dataset of its own (shards), so it takes all of its groups; all ranks take as many
            as the one with the fewest has.

    Attributes:
        num_groups: groups per epoch and rank.
        num_dropped: objects per epoch that no rank sees (with ``local_data``: this rank's).

    Raises:
        ValueError: a group size below 1, too few scenes or classes for one group on each rank, or unknown settings.
    """

    def __init__(
        self,
        dataset: Sized,
        group_size: int = 4,
        seed: int | None = 0,
        shuffle: bool = True,
        rank: int | None = None,
        world_size: int | None = None,
        differ: str | Sequence[str] = 'scene',
        size_bins: int | None = None,
        spares: int = 4,
        local_data: bool = False,
    ) -> None:
        if group_size < 1:
            raise ValueError(f'group_size must be at least 1, not {group_size}.')
        if spares < 0:
            raise ValueError(f'spares must be at least 0, not {spares}.')
        if rank is None or world_size is None:
            rank, world_size = get_dist_info()
        self.rank, self.world_size = rank, world_size
        self.group_size = int(group_size)
        self.seed = int(sync_random_seed() if seed is None else seed)
        self.shuffle = bool(shuffle)
        self.differ = _colour_kind(differ)
        self.size_bins = self.group_size if size_bins is None else int(size_bins)
        self.spares = int(spares)
        self.local_data = bool(local_data)
        self.epoch = 0
        self._start = 0  # groups of this rank that the next iteration leaves out
        self._checksum: int | None = None

        scene_ids = getattr(dataset, 'scene_ids', None)
        self.scene_ids = np.arange(len(dataset)) if scene_ids is None else np.asarray(scene_ids)
        if len(self.scene_ids) != len(dataset):
            raise ValueError(f'The dataset has {len(dataset)} items but {len(self.scene_ids)} scene_ids.')
        if len(self.scene_ids) and self.scene_ids.min() < 0:
            self.scene_ids = np.unique(self.scene_ids, return_inverse=True)[1]
        self._runs = runs_of(self.scene_ids)  # by scene, or by colour
        groups = count_groups(self._runs.sizes, self.group_size)
        scenes = colours = len(self._runs.sizes)
        self._colour_of: np.ndarray | None = None
        if self.differ != 'scene':
            self._colour_of = _colours(dataset, self.differ, self.size_bins)
            groups, self._runs = count_coloured_groups(self.scene_ids, self._colour_of, self.group_size, self.seed)
            colours = len(self._runs.sizes)
        self._groups = groups  # of all ranks together, what is left over among them
        self.num_groups = self._agree(groups if self.local_data else groups // world_size)
        if self.num_groups == 0:
            raise ValueError(self._too_few(len(dataset), scenes, colours, groups))
        used = self.num_groups * self.group_size * (1 if self.local_data else world_size)
        self.num_dropped = len(dataset) - used
        surplus = len(dataset) - groups * self.group_size
        if surplus >= self.group_size:
            what = {'scene': 'scenes', 'class': 'scenes or classes', 'size': 'scenes or sizes'}[self.differ]
            print_log(
                f'GroupSampler: {surplus} of {len(dataset)} items are left out in each epoch, because {what} with '
                f'more than {groups} items cannot be grouped with different {what} only.',
                logger='current',
            )

    def __len__(self) -> int:
        return self.num_groups * self.group_size

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        start, self._start = self._start, 0
        return self._keys(self.epoch, start)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration arranges; MMEngine calls it.

        A position set in this very epoch stays.
        """
        if int(epoch) != self.epoch:
            self.epoch, self._start = int(epoch), 0

    def set_position(self, epoch: int, samples_done: int) -> None:
        """Let the next iteration go on in an epoch after so many samples of this rank; later ones begin at the front.

        Raises:
            ValueError: ``samples_done`` is negative, more than an epoch holds, or cuts a group.
        """
        if not 0 <= samples_done <= len(self) or samples_done % self.group_size:
            raise ValueError(
                f'samples_done must be a multiple of the group size {self.group_size} in 0..{len(self)}, '
                f'not {samples_done}.'
            )
        if samples_done == len(self):
            epoch, samples_done = epoch + 1, 0
        self.epoch, self._start = int(epoch), samples_done // self.group_size

    def state_dict(self, epoch: int | None = None, samples_done: int | None = None) -> dict[str, Any]:
        """A position, and all that the order of the samples depends on, as plain values.

        Args:
            epoch: epoch that training is in; None: where the next iteration begins.
            samples_done: samples of each rank that training has consumed in that epoch.
        """
        if (epoch is None) != (samples_done is None):
            raise ValueError('state_dict takes epoch and samples_done together, or neither.')
        if epoch is None or samples_done is None:
            epoch, samples_done = self.epoch, self._start * self.group_size
        return dict(epoch=int(epoch), samples_done=int(samples_done), world_size=self.world_size, **self._settings())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a state stands.

        With another number of processes (not with ``local_data``) the epoch goes on at the first group that none of
        them had, so that still no object comes twice.

        Raises:
            ValueError: the state is of other data or other settings, so its position means nothing here.
        """
        settings = self._settings()
        wrong = [name for name in settings if name not in state or state[name] != settings[name]]
        if wrong:
            raise ValueError(
                'The state of the sampler does not fit: '
                + ', '.join(f'{name} was {state.get(name, "not there")} and is {settings[name]}' for name in wrong)
                + '. Resume with the same data and sampler, or start anew from the weights alone.'
            )
        done = int(state['samples_done'])
        if state['world_size'] != self.world_size:
            if self.local_data:
                raise ValueError(
                    f'The state of the sampler is of {state["world_size"]} processes and there are {self.world_size}: '
                    'with data of its own for each process their number must stay.'
                )
            groups = -(-(done // self.group_size) * state['world_size'] // self.world_size)
            done = min(groups, self.num_groups) * self.group_size
        self.set_position(int(state['epoch']), done)

    def check_batch_size(self, batch_size: int) -> None:
        """Refuse a batch size of a process that would cut groups.

        Raises:
            ValueError: it is not a multiple of the group size.
        """
        if batch_size % self.group_size:
            raise ValueError(
                f'The batch size {batch_size} of each process is not a multiple of the group size {self.group_size}: '
                'change one of them.'
            )

    def arrange(self, epoch: int) -> np.ndarray:
        """(num_groups, g) indices of this rank's groups in an epoch; the order within a group is not yet drawn."""
        rng = self._rng(epoch) if self.shuffle else None
        step = 1 if self.local_data else self.world_size
        rows = slice(0, self.num_groups, 1) if self.local_data else slice(self.rank, self.num_groups * step, step)
        if self._colour_of is None:
            return deal_groups(self._runs, self.group_size, self._groups, rng, rows)
        table = deal_coloured_groups(self.scene_ids, self._colour_of, self._runs, self.group_size, self._groups, rng)
        return np.ascontiguousarray(table[rows])

    def _keys(self, epoch: int, start: int) -> Iterator[tuple[int, ...]]:
        """Keys of an epoch from this rank's group ``start`` on; a block at a time, so no list of them all is made."""
        table = self.arrange(epoch)
        ranks = 1 if self.local_data else self.world_size
        offset = 0 if self.local_data else self.rank
        for block in range(start * ranks // _BLOCK, -(-len(table) * ranks // _BLOCK)):
            # This rank's part of a block of all ranks' groups: what is drawn for a group is the same on any rank.
            low, high = (-(-(block * _BLOCK + shift - offset) // ranks) for shift in (0, _BLOCK))
            rows = np.arange(max(low, 0), min(high, len(table)))
            keys = table[rows][:, :, None]  # (groups, g, index and spares)
            if self.spares:
                keys = np.concatenate([keys, draw_spares(table, self.scene_ids, rows, self.spares)], axis=2)
            if self.shuffle:
                draws = self._rng(epoch, block).random((_BLOCK, self.group_size), dtype=np.float32)
                order = draws[rows * ranks + offset - block * _BLOCK].argsort(axis=1, kind='stable')
                keys = np.take_along_axis(keys, order[:, :, None], axis=1)
            index, *spares = keys[rows >= start].reshape(-1, keys.shape[2]).T.tolist()
            yield from zip(index, itertools.repeat(epoch), *spares)

    def _rng(self, epoch: int, *part: int) -> np.random.Generator:
        # (seed, epoch) for the arrangement, (seed, epoch, 1, block) for the order within the groups of a block.
        return np.random.default_rng((self.seed, epoch, *((1, *part) if part else ())))

    def _agree(self, groups: int) -> int:
        """The fewest groups of all ranks, where each counts its own data."""
        if not self.local_data or self.world_size == 1 or get_dist_info()[1] == 1:
            return groups
        fewest = torch.tensor(groups)
        all_reduce(fewest, op='min')
        return int(fewest)

    def _too_few(self, items: int, scenes: int, colours: int, groups: int) -> str:
        what, different = f'{items} items of {scenes} scenes', f'{self.group_size} different scenes'
        if self.differ != 'scene':
            kind = {'class': 'classes', 'size': 'sizes'}[self.differ]
            what, different = f'{what} and {colours} {kind}', f'{different} and {kind}'
        needed = 1 if self.local_data else self.world_size
        return (
            f'{what} give {groups} groups of {different}, but {needed} are needed (one for each process): '
            'take more scenes or a smaller group.'
        )

    def _settings(self) -> dict[str, Any]:
        if self._checksum is None:
            self._checksum = zlib.crc32(np.ascontiguousarray(self.scene_ids, dtype=np.int64))
            if self._colour_of is not None:
                self._checksum = zlib.crc32(np.ascontiguousarray(self._colour_of, dtype=np.int64), self._checksum)
        return dict(
            group_size=self.group_size,
            seed=self.seed,
            shuffle=self.shuffle,
            differ=self.differ,
            size_bins=self.size_bins,
            local_data=self.local_data,
            # Each rank's own data differ, and rank 0 writes the state for all: then nothing of the data stands in it.
            items=0 if self.local_data else len(self.scene_ids),
            checksum=0 if self.local_data else self._checksum,
        )


def _colour_kind(differ: str | Sequence[str]) -> str:
    kinds = (differ,) if isinstance(differ, str) else tuple(differ)
    unknown = [kind for kind in kinds if kind not in _KINDS]
    besides = [kind for kind in kinds if kind != 'scene']
    if unknown or len(besides) > 1:
        raise ValueError(f"differ must be 'scene', 'class' or 'size' (one of them besides the scene), not {differ!r}.")
    return besides[0] if besides else 'scene'


def _colours(dataset: Sized, kind: str, bins: int) -> np.ndarray:
    """(len,) int32 class, or size bin, of each item."""
    index = getattr(dataset, 'index', None)
    if kind == 'class':
        classes = getattr(dataset, 'class_ids', None)
        if classes is None and index is not None:  # an overlap crop (target -1) has no object: a class of its own
            classes = np.where(index.targets < 0, -1, index.classes[index.targets])
        if classes is None:
            raise ValueError(f'{type(dataset).__name__} has no class_ids, so groups cannot differ by class.')
        return np.asarray(classes).astype(np.int32)
    areas = getattr(dataset, 'window_areas', None)
    if areas is None and index is not None:
        areas = np.prod(index.windows[:, 2:] - index.windows[:, :2], axis=1)
    if areas is None:
        raise ValueError(f'{type(dataset).__name__} has no window_areas, so groups cannot differ by size.')
    return size_bins(np.asarray(areas), bins)


@DATA_SAMPLERS.register_module()
class InfiniteGroupSampler(GroupSampler):
    """A :class:`GroupSampler` for loops that count iterations: epoch follows epoch in one endless iteration.

    So the loader's workers are not started anew for each epoch, and a batch may reach over the edge of two epochs
    (groups never do): no group is dropped at the edge, and a data set may be smaller than a batch. ``len`` is one
    epoch, as that of MMEngine's InfiniteSampler. With an EpochBasedTrainLoop an epoch would never end. For loops that
    are not ours a position is a number of samples, ``skip(iterations * batch_size)``: newer MMEngines' own
    IterBasedTrainLoop calls it on resume.
    """

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        first, start, self._start = self.epoch, self._start, 0
        return itertools.chain.from_iterable(
            self._keys(epoch, start if epoch == first else 0) for epoch in itertools.count(first)
        )

    def set_epoch(self, epoch: int) -> None:
        """Nothing: the loop's epoch is not the sampler's. Use ``set_position`` or ``skip``."""

    def skip(self, num_samples: int) -> None:
        """Let the next iteration begin after so many samples of this rank, counted from the first epoch's start."""
        self.set_position(*divmod(int(num_samples), len(self)))
