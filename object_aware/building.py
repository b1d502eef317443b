"""From scenes to a crop index: decide for every object on its window, or why there is none."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from .digests import digest_of
from .index import VERSION, CropIndex, as_size
from .parallel import ordered_threads
from .part_files import PartFiles
from .scenes import Scenes, Selection
from .windows import REASONS, WindowRules, decide, prepare

EMPTY_SCENES = ('skip', 'overlap')
"""What becomes of scenes without any object that has a window."""

_CHUNK = 8192  # objects that are decided at once, more where one scene has more


def content_hash(
    annotation_files: Sequence[str | os.PathLike[str]],
    out_size: int | Sequence[int],
    rules: WindowRules,
    *,
    empty_scenes: str = 'skip',
    selection: Selection | None = None,
    digests: Sequence[str] | None = None,
) -> str:
    """SHA-256 of all that decides what an index holds.

    Compare it with ``CropIndex.content_hash`` to see if an index is up to date.

    Args:
        annotation_files: what the scenes were read from, files or folders.
        out_size, rules, empty_scenes: as in :func:`build_crop_index`.
        selection: which detections or proposals are taken.
        digests: those of the files where they are known already.
    """
    if digests is None or len(digests) != len(annotation_files):
        digests = [digest_of(file) for file in annotation_files]
    chosen = {key: value for key, value in vars(selection or Selection()).items() if key != 'image_list'}
    content = [VERSION, list(as_size(out_size)), rules.as_dict(), empty_scenes, chosen, list(digests)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def build_crop_index(
    scenes: Scenes,
    out_size: int | Sequence[int],
    rules: WindowRules | None = None,
    progress: Callable[[int, int], None] | None = None,
    *,
    empty_scenes: str = 'skip',
    workers: int = 1,
    parts: PartFiles | None = None,
) -> CropIndex:
    """Find for every object the canonical window, or why there is none.

    Args:
        scenes: what :func:`object_aware.read_scenes` returned.
        out_size: (height, width) of the crops in pixels, or one number for both.
        rules: the rules of the windows; the defaults of :class:`WindowRules` if None.
        progress: called with (objects done, objects in all).
        empty_scenes: 'skip' scenes without a crop, or take each by the 'overlap' rule: its crop is the largest centred
            window, and windows that overlap it well are drawn.
        workers: threads; the result does not depend on them.
        parts: keeps what is done, so that an interrupted build goes on.

    Raises:
        ValueError: no object has a window.
    """
    if empty_scenes not in EMPTY_SCENES:
        raise ValueError(f'empty_scenes must be one of {", ".join(EMPTY_SCENES)}, not {empty_scenes!r}.')
    size = as_size(out_size)
    rules = rules or WindowRules()
    identity = content_hash(
        scenes.annotation_files,
        size,
        rules,
        empty_scenes=empty_scenes,
        selection=scenes.selection,
        digests=scenes.digests or None,
    )
    offsets = scenes.object_offsets
    count = len(scenes.boxes)
    outcome = np.full(count, 255, dtype=np.uint8)
    rows, windows = [], []
    prepare()
    for first, last, chosen, found in _decide(scenes, offsets, size, rules, workers, parts, identity):
        outcome[first:last] = chosen
        rows.append(first + np.flatnonzero(chosen == 0))
        windows.append(found)
        if progress is not None:
            progress(last, count)
    targets = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)
    target_scenes = scenes.scene_of[targets].astype(np.int64)
    crops = np.concatenate([np.zeros((0, 4), dtype=np.float32), *windows])
    if empty_scenes == 'overlap':
        targets, target_scenes, crops = _with_empty_scenes(scenes, size, rules, targets, target_scenes, crops)
    base = os.path.commonpath([os.path.abspath(folder) for folder in scenes.folders])
    index = CropIndex(
        folder_of=scenes.folder_of,
        names=scenes.names,
        sizes=scenes.sizes,
        object_offsets=offsets,
        boxes=scenes.boxes,
        classes=scenes.classes,
        crowd=scenes.crowd,
        outcome=outcome,
        targets=targets,
        target_scenes=target_scenes,
        windows=crops,
        out_size=size,
        rules=rules,
        folders=tuple(os.path.relpath(os.path.abspath(folder), base) for folder in scenes.folders),
        base=base,
        class_names=scenes.class_names,
        left_out=scenes.left_out,
        content_hash=identity,
        mask_offsets=scenes.mask_offsets,
        mask_bytes=scenes.mask_bytes,
    )
    if not len(index):
        counts = ', '.join(f'{number} {reason}' for reason, number in index.reason_counts().items() if number)
        raise ValueError(
            f'None of {count} objects has a window under these rules ({counts}): '
            'loosen the rules or take a smaller crop size.'
        )
    return index


def _chunks(offsets: np.ndarray) -> Iterable[tuple[int, int]]:
    """Ranges of scenes with about ``_CHUNK`` objects each; they depend on the scenes alone."""
    count = int(offsets[-1])
    ends = np.searchsorted(offsets, np.arange(_CHUNK, count + _CHUNK, _CHUNK), side='left')
    ends = np.unique(np.minimum(ends, len(offsets) - 1)).tolist()
    return zip([0, *ends[:-1]], ends)


def _decide(
    scenes: Scenes,
    offsets: np.ndarray,
    size: tuple[int, int],
    rules: WindowRules,
    workers: int,
    parts: PartFiles | None,
    identity: str,
) -> Iterable[tuple[int, int, np.ndarray, np.ndarray]]:
    """(first object, last object + 1, outcomes, windows of the accepted) of each chunk, in order."""

    def work(chunk: tuple[int, int]) -> tuple[int, int, np.ndarray, np.ndarray]:
        low, high = chunk
        first, last = int(offsets[low]), int(offsets[high])
        name = f'windows-{identity[:12]}-{low}-{high}'
        kept = parts.get(name) if parts is not None else None
        if kept is not None:
            return first, last, kept[0]['outcome'], kept[0]['windows']
        masks = scenes.masks.between(first, last) if len(scenes.mask_bytes) else None
        outcome, windows = decide(
            scenes.boxes[first:last],
            scenes.crowd[first:last],
            offsets[low : high + 1] - first,
            scenes.sizes[low:high],
            None if masks is None else masks.offsets,
            None if masks is None else masks.data,
            size,
            rules,
        )
        windows = windows[outcome == REASONS.index('accepted')]
        if parts is not None:
            parts.put(name, dict(outcome=outcome, windows=windows), {})
        return first, last, outcome, windows

    return ordered_threads(work, _chunks(offsets), workers=workers)


def _with_empty_scenes(
    scenes: Scenes,
    size: tuple[int, int],
    rules: WindowRules,
    targets: np.ndarray,
    target_scenes: np.ndarray,
    windows: np.ndarray,
) -> tuple[np.ndarray, ...]:
    """The crops with one more for each scene that has none and is large enough."""
    from .overlap import overlap_windows

    empty = np.ones(len(scenes), dtype=bool)
    empty[target_scenes] = False
    added = np.flatnonzero(empty)
    found = overlap_windows(scenes.sizes[added], size, rules)
    good = np.isfinite(found).all(axis=1)
    added, found = added[good], found[good].astype(np.float32)
    target_scenes = np.concatenate([target_scenes, added])
    order = np.argsort(target_scenes, kind='stable')
    targets = np.concatenate([targets, np.full(len(added), -1, dtype=np.int64)])
    return targets[order], target_scenes[order], np.concatenate([windows, found])[order]
