"""Groups of objects from different scenes (and, by choice, of different classes or sizes), as arrays.

An epoch's groups form a table (n, g) of object numbers: each row a group, each number at most once. Everything here is
a function of its arguments and of the generator given.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Runs(NamedTuple):
    """Items sorted by a key (scene or colour).

    Attributes:
        order: items, those of one key side by side; None if they already stand so.
        starts: (K + 1,) int64: the items of the k-th key are ``order[starts[k]:starts[k + 1]]``.
    """

    order: np.ndarray | None
    starts: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """(K,) items of each key."""
        return np.diff(self.starts)


def runs_of(keys: np.ndarray, members: np.ndarray | None = None) -> Runs:
    """Sort items by their keys (N,); nothing is copied where they stand sorted, as in a crop index.

    Args:
        keys: (N,) key of each item.
        members: (M,) the items to sort; None for all.
    """
    order = members
    keys = keys if members is None else keys[members]
    if len(keys) and not np.all(keys[1:] >= keys[:-1]):
        low, high = int(keys.min()), int(keys.max())
        narrow = (keys - low).astype(np.uint16) if high - low < 2**16 else keys  # NumPy sorts 16 bits by radix
        order = np.argsort(narrow, kind='stable').astype(_item_type(len(keys)))
        keys = keys[order]
        order = order if members is None else members[order]
    edges = np.flatnonzero(keys[1:] != keys[:-1]) + 1
    return Runs(order, np.concatenate([[0], edges, [len(keys)]] if len(keys) else [[0]]).astype(np.int64))


def count_groups(sizes: np.ndarray, group_size: int) -> int:
    """The most groups of objects from different scenes that can be formed, each object used at most once.

    n groups can be formed exactly if  sum over scenes of min(size, n) >= group_size * n:  a scene gives each group at
    most one object, and dealing the objects out scene by scene (:func:`deal_groups`) reaches the bound.

    Args:
        sizes: (S,) objects of each scene (or of each class).
        group_size: objects per group, g.
    """
    low, high = 0, int(sizes.sum()) // group_size
    while low < high:
        middle = (low + high + 1) // 2
        if int(np.minimum(sizes, middle).sum()) >= group_size * middle:
            low = middle
        else:
            high = middle - 1
    return low


def deal_groups(
    runs: Runs, group_size: int, groups: int, rng: np.random.Generator | None, rows: slice = slice(None)
) -> np.ndarray:
    """Arrange objects in ``groups`` groups, no two objects of a group from one run (scene).

    Lay the objects out run by run in ``group_size`` columns of n = groups; row j of these columns is group j. A run
    has at most n objects, so it stands in one column (where each row has one object) or runs over from one column into
    the next. So within a column the objects may be shuffled over the rows freely, except that a run that ran over must
    avoid its rows of the column before.

    Args:
        runs: the objects, scene by scene.
        group_size: objects per group, g.
        groups: how many groups, at most ``count_groups(runs.sizes, group_size)``.
        rng: shuffles runs and rows; None keeps a fixed order.
        rows: which rows of the table to return; the same rows stand in it whatever is asked for.

    Returns:
        (rows, g) int32 (int64 above 2^31 objects): each object at most once. Objects that are too many (of a run that
        holds more than n, or the remainder by g) are left out; with an ``rng`` others each time.

    Raises:
        ValueError: more groups than can be formed.
    """
    order, ends, kept = _lay_out(runs, group_size, groups, rng)
    kind = _item_type(len(order))
    column_rows = range(groups)[rows]
    table = np.empty((len(column_rows), group_size), dtype=order.dtype)
    before = np.empty(0, dtype=kind)
    for k in range(group_size):
        place = np.arange(groups, dtype=kind)  # row j of this column holds the object at place[j] of the column
        if rng is not None:
            rng.shuffle(place)
        run = int(np.searchsorted(ends, k * groups, side='right'))
        if k and run < len(ends) and ends[run] - kept[run] < k * groups:
            tail = int(ends[run] - kept[run]) - (k - 1) * groups  # the run fills the places tail.. of the column before
            head = int(ends[run]) - k * groups  # and the places ..head of this one
            taken = before >= tail
            clash = np.flatnonzero(taken & (place < head))
            if len(clash):
                free = np.flatnonzero(~taken & (place >= head))
                swap = free[: len(clash)] if rng is None else rng.choice(free, len(clash), replace=False)
                place[clash], place[swap] = place[swap], place[clash]
        table[:, k] = order[k * groups : (k + 1) * groups][place[rows]]
        before = place
    return table


def _lay_out(
    runs: Runs, group_size: int, groups: int, rng: np.random.Generator | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(g * n,) objects run by run in random order of the runs, at most n of each; end and length of each run in it."""
    sizes = runs.sizes
    rank = np.arange(len(sizes)) if rng is None else rng.permutation(len(sizes))
    kept = np.minimum(sizes, groups)[rank]
    ends = np.cumsum(kept)
    total = int(ends[-1]) if len(ends) else 0
    surplus = total - groups * group_size
    if surplus < 0:
        raise ValueError(f'{groups} groups of {group_size} cannot be formed of runs that allow {total} objects.')
    kind = _item_type(int(runs.starts[-1]))
    order = np.arange(total, dtype=kind)
    order += np.repeat((runs.starts[rank] - ends + kept).astype(kind), kept)
    if rng is not None:  # a run that is cut gives other objects each time
        for run in np.flatnonzero(sizes[rank] > groups):
            first = runs.starts[rank[run]]
            order[ends[run] - kept[run] : ends[run]] = first + rng.permutation(sizes[rank[run]])[:groups]
    if surplus:  # any objects may go: the order stays run by run
        drop = np.arange(total - surplus, total) if rng is None else rng.choice(total, surplus, replace=False)
        order = np.delete(order, drop)
        gone = np.searchsorted(ends, drop, side='right')
        np.subtract.at(kept, gone, 1)
        ends = np.cumsum(kept)
    if rng is not None:  # which of its objects stand left and right of an edge between columns
        for column in range(1, group_size if groups else 1):
            edge = column * groups
            run = int(np.searchsorted(ends, edge, side='right'))
            rng.shuffle(order[ends[run] - kept[run] : ends[run]])
    return order if runs.order is None else runs.order[order], ends, kept


def count_coloured_groups(
    scene_of: np.ndarray, colour_of: np.ndarray, group_size: int, seed: int = 0
) -> tuple[int, Runs]:
    """How many groups of different scenes and different colours can be formed, and of which objects.

    Take objects as edges between their scene and their colour; a group is a matching of g edges. g * n edges split
    into n such matchings exactly if no scene and no colour has more than n of them (de Werra's theorem on equitable
    edge colourings of bipartite graphs; :func:`deal_coloured_groups` finds them). So if no scene is larger than
    what the colours allow, that number is the largest possible one. Larger scenes are first cut down to it, one after
    the other, to objects of colours that have room; several such scenes may cost a group or two.

    Args:
        scene_of, colour_of: (N,) scene and colour of each object.
        group_size: objects per group, g.
        seed: which objects of a scene too large are kept.

    Returns:
        (n, the objects that take part, colour by colour).
    """
    runs, colour_runs = runs_of(scene_of), runs_of(colour_of)
    counts = colour_runs.sizes
    most = min(count_groups(runs.sizes, group_size), count_groups(counts, group_size))
    if most == 0 or runs.sizes.max() <= most:
        return most, colour_runs
    colour = np.unique(colour_of, return_inverse=True)[1]

    def cut(groups: int) -> tuple[int, list[tuple[np.ndarray, np.ndarray]]]:
        """Objects that can be used, and of each scene too large (its objects, how many of each colour)."""
        large = [_items(runs, run) for run in np.flatnonzero(runs.sizes > groups)]
        cells = [np.bincount(colour[items], minlength=len(counts)) for items in large]
        small = counts - sum(cells)
        room = np.maximum(groups - small, 0)
        takes = []
        for cell in cells:
            take = _fill(np.minimum(cell, room), room, groups)
            room -= take
            takes.append(take)
        return int(np.minimum(small, groups).sum() + sum(takes).sum()), list(zip(large, takes))

    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if cut(middle)[0] >= group_size * middle else (low, middle - 1)
    rng = np.random.default_rng(seed)
    keep = np.ones(len(scene_of), dtype=bool)
    for items, take in cut(low)[1]:
        keep[items] = False
        for k in np.flatnonzero(take):
            keep[rng.choice(items[colour[items] == k], take[k], replace=False)] = True
    return low, runs_of(colour_of, np.flatnonzero(keep))


def _items(runs: Runs, run: int) -> np.ndarray:
    items = np.arange(runs.starts[run], runs.starts[run + 1])
    return items if runs.order is None else runs.order[items]


def _fill(most: np.ndarray, room: np.ndarray, total: int) -> np.ndarray:
    """Take up to ``total`` out of ``most`` (C,), from where most room is, so that what is left is even."""
    if int(most.sum()) <= total:
        return most
    low, high = 0, int(room.max())  # the least room that may be left, as low as possible: take what is above
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if np.clip(room - middle, 0, most).sum() <= total else (middle + 1, high)
    take = np.clip(room - low, 0, most)
    rest = np.flatnonzero((take < most) & (room - take == low))[: total - int(take.sum())]
    take[rest] += 1
    return take


def deal_coloured_groups(
    scene_of: np.ndarray,
    colour_of: np.ndarray,
    colour_runs: Runs,
    group_size: int,
    groups: int,
    rng: np.random.Generator | None,
) -> np.ndarray:
    """Groups of different scenes *and* different colours (classes or size bins).

    The objects are dealt by colour (:func:`deal_groups`), so the colours of a group differ. Where a group holds a scene
    twice (in large data about as often in all as an object has others in its scene), it is split anew together with
    a group that does not hold that scene: see :func:`_split`.

    Args:
        scene_of, colour_of: (N,) scene and colour of each object.
        colour_runs: the objects, colour by colour; no scene of more than ``groups`` objects.
        group_size: objects per group, g.
        groups: how many, at most what :func:`count_coloured_groups` gives.
        rng: source of randomness; None takes fixed choices.

    Returns:
        (groups, g) object numbers.
    """
    table = deal_groups(colour_runs, group_size, groups, rng)
    picks = np.random.default_rng(0) if rng is None else rng
    left = repeating_rows(scene_of, table).tolist()
    while left:  # each turn lowers the number of repeats in the two groups together, so it ends
        row = left.pop()
        scenes = scene_of[table[row]]
        twice = scenes[(scenes[:, None] == scenes[None, :]).sum(axis=1) > 1]
        if not len(twice):
            continue
        other = _row_without(table, scene_of, int(twice[0]), picks)
        both = np.concatenate([table[row], table[other]])
        first = _split(scene_of[both].tolist(), colour_of[both].tolist())
        table[row], table[other] = both[first], both[~first]
        left += [row, other]  # a scene that stood three times still stands twice in one of them
    return table


def _row_without(table: np.ndarray, scene_of: np.ndarray, scene: int, rng: np.random.Generator) -> int:
    """A random group that does not hold a scene. There is one if the scene has no more objects than there are groups
    and some group holds it twice."""
    for row in rng.integers(len(table), size=8).tolist():
        if scene not in scene_of[table[row]]:
            return row
    return int(rng.choice(np.flatnonzero(~(scene_of[table] == scene).any(axis=1))))


def _split(scenes: list[int], colours: list[int]) -> np.ndarray:
    """Split 2g objects into two halves of g so that of each scene and of each colour the halves hold numbers that
    differ by at most one. So what stands twice in both together stands once in each.

    Pair objects of the same scene, and objects of the same colour, as far as they go. Each object is in at most one
    pair of either kind, so the pairs link the objects to paths and even rings; along these the halves take turns.

    Returns:
        (2g,) bool: the first half.
    """
    links: list[list[int]] = [[] for _ in scenes]
    for keys in (scenes, colours):
        waiting: dict[int, int] = {}
        for k, key in enumerate(keys):
            partner = waiting.pop(key, None)
            if partner is None:
                waiting[key] = k
            else:
                links[k].append(partner)
                links[partner].append(k)
    half = np.zeros(len(scenes), dtype=bool)
    seen: set[int] = set()
    side = True  # the half that the next path of odd length gives one more
    for begin in sorted(range(len(scenes)), key=lambda k: len(links[k])):  # ends of paths before rings
        length, node, turn = 0, begin, side
        while node is not None and node not in seen:
            seen.add(node)
            half[node] = turn
            length, turn = length + 1, not turn
            node = next((k for k in links[node] if k not in seen), None)
        if length % 2:
            side = not side
    return half


def repeating_rows(keys: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Rows of a table (n, g) in which a key stands twice; ``keys`` (N,) of each object."""
    found = []
    for start in range(0, len(table), 1 << 18):
        block = np.sort(keys[table[start : start + (1 << 18)]], axis=1)
        found.append(start + np.flatnonzero((block[:, 1:] == block[:, :-1]).any(axis=1)))
    return np.concatenate(found) if found else np.empty(0, dtype=np.int64)


def draw_spares(
    table: np.ndarray, scene_of: np.ndarray, rows: np.ndarray, spares: int, max_tries: int = 16
) -> np.ndarray:
    """Stand-ins for objects whose image turns out to be broken: from scenes that are in the group in no other way.

    The s-th spares of a group are the members of another group of the table, one of the next ``max_tries`` that shares
    no scene with the group and its spares so far. So whichever members of a group are replaced, by whichever of their
    own spares, its scenes differ.

    Args:
        table: (n, g) the groups.
        scene_of: (N,) scene of each object, not negative.
        rows: (b,) the groups to draw for.
        spares: spares of each object.
        max_tries: how many other groups are looked at for one set of spares.

    Returns:
        (b, g, spares) object numbers, -1 where no group with other scenes was found.
    """
    width = table.shape[1]
    drawn = np.full((len(rows), width, spares), -1, dtype=np.int64)
    seen = np.full((len(rows), width * (spares + 1)), -1, dtype=np.int64)
    seen[:, :width] = scene_of[table[rows]]
    for s in range(spares):
        left = np.arange(len(rows))
        for step in range(1 + s * max_tries, 1 + (s + 1) * max_tries):
            candidates = table[(rows[left] + step) % len(table)]  # (left, g)
            scenes = scene_of[candidates]
            good = ~(scenes[:, :, None] == seen[left][:, None, :]).any(axis=(1, 2))
            drawn[left[good], :, s] = candidates[good]
            seen[left[good], (s + 1) * width : (s + 2) * width] = scenes[good]
            left = left[~good]
            if not len(left):
                break
    return drawn


def size_bins(sizes: np.ndarray, bins: int) -> np.ndarray:
    """(N,) int32 bin of each object: 0 for the smallest N / bins of them, and so on; equal sizes in order of number."""
    rank = np.empty(len(sizes), dtype=np.int64)
    rank[np.argsort(sizes, kind='stable')] = np.arange(len(sizes))
    return (rank * bins // max(len(sizes), 1)).astype(np.int32)


def _item_type(count: int) -> type:
    return np.int32 if count < 2**31 else np.int64
