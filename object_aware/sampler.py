"""A sampler whose consecutive indices form mixing groups of objects from different scenes."""

from __future__ import annotations

from collections.abc import Iterator, Sized

import numpy as np
from mmengine.dist import get_dist_info, sync_random_seed
from mmengine.logging import print_log
from torch.utils.data import Sampler

from mixedae.registry import DATA_SAMPLERS


def count_groups(scene_sizes: np.ndarray, group_size: int) -> int:
    """The most groups of objects from different scenes that can be formed, each object used at most once.

    n groups can be formed exactly if  sum over scenes of min(size, n) >= group_size * n:  a scene gives each group at
    most one object, and dealing the objects out scene by scene (:func:`deal_groups`) reaches the bound.
    """
    low, high = 0, int(scene_sizes.sum()) // group_size
    while low < high:
        middle = (low + high + 1) // 2
        if int(np.minimum(scene_sizes, middle).sum()) >= group_size * middle:
            low = middle
        else:
            high = middle - 1
    return low


def deal_groups(scene_ids: np.ndarray, group_size: int, rng: np.random.Generator | None) -> np.ndarray:
    """Arrange objects in groups from different scenes.

    Lay the objects out scene by scene in ``group_size`` columns of n; row j of these columns is group j. A scene has at
    most n objects, so it stands in one column (where each row has one object) or runs over from one column into the
    next. So within a column the objects may be shuffled over the rows freely, except that a scene that ran over must
    avoid its rows of the column before.

    Args:
        scene_ids: (N,) scene of each object.
        group_size: objects per group, g.
        rng: shuffles scenes, objects and rows; None keeps a fixed order.

    Returns:
        (n, g) int64 indices, n = ``count_groups``; each index at most once; each row from g different scenes. Objects
        that are too many (of a scene that holds more than n, or the remainder by g) are left out; with an ``rng``
        others each time.
    """
    scenes, scene_of, sizes = np.unique(scene_ids, return_inverse=True, return_counts=True)
    groups = count_groups(sizes, group_size)
    if groups == 0:
        return np.empty((0, group_size), dtype=np.int64)
    count = len(scene_ids)
    scene_rank = np.arange(len(scenes)) if rng is None else rng.permutation(len(scenes))
    within = np.arange(count) if rng is None else rng.permutation(count)
    order = within[np.argsort(scene_rank[scene_of[within]], kind='stable')]  # scene by scene
    ranked_sizes = np.empty(len(scenes), dtype=np.int64)
    ranked_sizes[scene_rank] = sizes
    position = np.arange(count) - np.repeat(np.cumsum(ranked_sizes) - ranked_sizes, ranked_sizes)
    order = order[position < groups]  # no scene in a group twice
    surplus = len(order) - groups * group_size
    if surplus:  # any objects may go: the order stays scene by scene
        last = np.arange(len(order) - surplus, len(order))
        order = np.delete(order, last if rng is None else rng.choice(len(order), surplus, replace=False))
    columns = order.reshape(group_size, groups)
    table = np.empty((groups, group_size), dtype=np.int64)
    taken = np.empty(0, dtype=np.int64)  # rows of the scene that runs over from the column before
    for k, column in enumerate(columns):
        running = k > 0 and scene_of[column[0]] == scene_of[columns[k - 1][-1]]
        head = int(np.count_nonzero(scene_of[column] == scene_of[column[0]])) if running else 0
        rows = np.arange(groups) if rng is None else rng.permutation(groups)
        if head:
            free = rows[~np.isin(rows, taken)][:head]
            rows = np.concatenate([free, rows[~np.isin(rows, free)]])
        table[rows, k] = column
        taken = rows[scene_of[column] == scene_of[column[-1]]]
    if rng is not None:
        table = rng.permuted(table, axis=1)  # which image of its group an object is, is random too
    return table


@DATA_SAMPLERS.register_module()
class GroupSampler(Sampler):
    """Yields (index, epoch) so that each consecutive ``group_size`` come from different scenes.

    Every epoch is arranged anew, as a function of (seed, epoch) alone. Each object comes at most once per epoch. Groups
    are split evenly over the ranks, in whole groups; what is left over is dropped. Objects of a scene that holds more
    objects than there can be groups are dropped too (others in each epoch) and their number is logged. A dataset
    without ``scene_ids`` has one scene per index.

    Args:
        dataset: has a length, and ``scene_ids`` (len,) if several of its items may come from one scene.
        group_size: images that are mixed together, g.
        seed: seed of the order; None takes one that all ranks agree on.
        shuffle: False keeps one fixed order.
        rank, world_size: of this process; asked of the process group if None.

    Attributes:
        num_groups: groups per epoch and rank.
        num_dropped: objects per epoch that no rank sees.

    Raises:
        ValueError: a group size below 1, or too few scenes for one group on each rank.
    """

    def __init__(
        self,
        dataset: Sized,
        group_size: int = 4,
        seed: int | None = 0,
        shuffle: bool = True,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        if group_size < 1:
            raise ValueError(f'group_size must be at least 1, not {group_size}.')
        if rank is None or world_size is None:
            rank, world_size = get_dist_info()
        self.rank, self.world_size = rank, world_size
        self.group_size = int(group_size)
        self.seed = int(sync_random_seed() if seed is None else seed)
        self.shuffle = shuffle
        self.epoch = 0
        scene_ids = getattr(dataset, 'scene_ids', None)
        self.scene_ids = np.arange(len(dataset)) if scene_ids is None else np.asarray(scene_ids)
        if len(self.scene_ids) != len(dataset):
            raise ValueError(f'The dataset has {len(dataset)} items but {len(self.scene_ids)} scene_ids.')
        sizes = np.unique(self.scene_ids, return_counts=True)[1]
        groups = count_groups(sizes, self.group_size)
        self.num_groups = groups // world_size
        if self.num_groups == 0:
            raise ValueError(
                f'{len(dataset)} items of {len(sizes)} scenes give {groups} groups of {group_size} different scenes, '
                f'but {world_size} are needed (one for each process): take more scenes or a smaller group.'
            )
        self.num_dropped = len(dataset) - self.num_groups * world_size * self.group_size
        surplus = int(np.maximum(sizes - groups, 0).sum())
        if surplus:
            print_log(
                f'GroupSampler: {surplus} of {len(dataset)} items are left out in each epoch, because scenes with '
                f'more than {groups} items cannot be grouped with different scenes only.',
                logger='current',
            )

    def __len__(self) -> int:
        return self.num_groups * self.group_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rng = np.random.default_rng((self.seed, self.epoch)) if self.shuffle else None
        table = deal_groups(self.scene_ids, self.group_size, rng)
        if rng is not None:
            rng.shuffle(table, axis=0)
        mine = table[self.rank * self.num_groups : (self.rank + 1) * self.num_groups]
        return iter([(index, self.epoch) for index in mine.reshape(-1).tolist()])

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration arranges; MMEngine calls it."""
        self.epoch = int(epoch)

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
