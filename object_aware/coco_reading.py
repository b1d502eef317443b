"""COCO annotation files of any size → columns.

The file is cut into pieces of whole annotations (``json_pieces.py``), which are decoded in worker processes
(``coco_objects.py``) and joined in the order of the file, so the result is the same whatever the number of processes.
Only the columns of the whole file are ever in memory, never its text.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from .byte_strings import ByteStrings
from .coco_objects import ALTERED, LEFT_OUT, NO_ID, Context, Lookup, Objects, read_piece, untyped
from .digests import digest_of
from .json_pieces import JsonFile, outline
from .messages import some
from .parallel import ordered_map
from .part_files import PartFiles

_LISTS = {'categories': 'an empty category list', 'images': 'no images', 'annotations': 'no objects'}
_PIECE = 1 << 23  # bytes of JSON that a process decodes at once
_WHOLE = 1 << 25  # files up to this size are read in one process
_MAX_SIDE = 2**31 - 1


@dataclass(frozen=True)
class CocoFile:
    """One annotation file, read. Fields as in ``Scenes``; objects are sorted by scene.

    Attributes:
        digest: of the file's bytes, in hex (see :func:`object_aware.digests.digest_of`).
    """

    names: ByteStrings
    sizes: np.ndarray
    boxes: np.ndarray
    scene_of: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray
    masks: ByteStrings
    class_names: list[str]
    left_out: dict[str, int]
    digest: str


class _Image(msgspec.Struct, gc=False):
    id: int
    file_name: str
    width: int
    height: int


_images = msgspec.json.Decoder(list[_Image])


def read_coco(
    annotation: Path,
    *,
    masks: bool = True,
    workers: int = 1,
    start_method: str | None = None,
    check_images: Callable[[ByteStrings], None] | None = None,
    parts: PartFiles | None = None,
    progress: Callable[[str], Callable[[int, int], None]] | None = None,
) -> CocoFile:
    """Read a COCO annotation file.

    Args:
        annotation: the file; it is there.
        masks: read masks, too.
        workers: processes; small files are read in this one.
        start_method: see :func:`object_aware.parallel.ordered_map`.
        check_images: called with the names of the images as soon as they are known; may raise.
        parts: keeps the pieces that are done, so that an interrupted reading goes on.
        progress: called with what begins ('scanning', 'reading'); gives a function of (bytes done, bytes in all).

    Raises:
        ValueError: the file is not sound; one sentence: what, where, what to do.
    """
    try:
        file = outline(annotation, _PIECE, progress and progress('scanning'))
        content = None
        if file is None:
            content = json.loads(annotation.read_bytes())
    except (ValueError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f'{annotation} is not a json file ({error}): give a COCO-format annotation file.') from None
    if content is not None and not isinstance(content, dict):
        content = {}
    lists = {k for k in _LISTS if k in file.pieces} if file else {k for k in _LISTS if isinstance(content.get(k), list)}
    if len(lists) < len(_LISTS):
        raise ValueError(
            f'{annotation} is not a COCO annotation file: it needs the lists "images", "annotations" and "categories".'
        )
    try:
        return _read(annotation, file, content, masks, workers, start_method, check_images, parts, progress)
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(
            f'{annotation} is not a sound COCO file: '
            f'an entry has a missing or wrong field ({type(error).__name__}: {error}).'
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f'{annotation} is not a json file ({error}): give a COCO-format annotation file.') from None


def _read(
    annotation: Path,
    file: JsonFile | None,
    content: dict[str, Any] | None,
    masks: bool,
    workers: int,
    start_method: str | None,
    check_images: Callable[[ByteStrings], None] | None,
    parts: PartFiles | None,
    progress: Callable[[str], Callable[[int, int], None]] | None,
) -> CocoFile:
    categories = content['categories'] if content else _entries(annotation, file, 'categories')
    for key, what in _LISTS.items():
        empty = not content[key] if content else _is_empty(annotation, file, key)
        if empty:
            raise ValueError(f'{annotation} has {what}: nothing can be cropped from it.')
    image_ids, names, sizes = _read_images(annotation, file, content)
    _refuse_twice(image_ids, 'image', annotation)
    class_ids = [item['id'] for item in categories]
    _refuse_twice(class_ids, 'category', annotation)
    class_names = [str(item['name']) for item in categories]
    _check_images(annotation, names, sizes)
    if check_images is not None:
        check_images(names)

    whole = all(type(key) is int and abs(key) < 2**62 for key in class_ids)
    classes = Lookup(np.array(class_ids, dtype=np.int64) if whole else class_ids)
    context = Context(str(annotation), Lookup(image_ids), classes, sizes, masks)
    if content is not None:
        objects: Iterable[Objects] = [untyped(context, content['annotations'])]
        ends = [1]
    else:
        pieces = file.pieces['annotations']
        small = pieces[-1][1] - pieces[0][0] <= _WHOLE
        objects = _resumed(parts, context, pieces, file.digest, 1 if small else workers, start_method)
        ends = [stop - pieces[0][0] for _, stop in pieces]
    found: list[Objects] = []
    done = progress and progress('reading')
    for part, end in zip(objects, ends):
        found.append(part)
        if done:
            done(end, ends[-1])
    digest = file.digest if file else digest_of(annotation)
    return _join(annotation, found, names, sizes, class_names, digest)


def _resumed(
    parts: PartFiles | None,
    context: Context,
    pieces: list[tuple[int, int]],
    digest: str,
    workers: int,
    start_method: str | None,
) -> Iterable[Objects]:
    """The pieces in order; those that an interrupted reading left are taken from their files."""
    if parts is None:
        yield from ordered_map(read_piece, pieces, workers=workers, shared=context, start_method=start_method)
        return
    names = [f'objects-{digest[:12]}-{int(context.masks)}-{start}-{stop}' for start, stop in pieces]
    kept = [parts.get(name) for name in names]
    todo = [piece for piece, old in zip(pieces, kept) if old is None]
    fresh = ordered_map(read_piece, todo, workers=workers, shared=context, start_method=start_method)
    for name, old in zip(names, kept):
        if old is not None:
            yield Objects.from_columns(*old)
        else:
            part = next(fresh)
            if part.storable:
                parts.put(name, *part.as_columns())
            yield part


def _entries(annotation: Path, file: JsonFile, key: str) -> list[dict[str, Any]]:
    start, stop = file.values[key]
    with open(annotation, 'rb') as stream:
        stream.seek(start)
        return json.loads(stream.read(stop - start))


def _is_empty(annotation: Path, file: JsonFile, key: str) -> bool:
    start, stop = file.values[key]
    with open(annotation, 'rb') as stream:
        stream.seek(start + 1)
        return stop - start < 1 << 20 and not stream.read(stop - start - 2).strip()


def _read_images(
    annotation: Path, file: JsonFile | None, content: dict[str, Any] | None
) -> tuple[np.ndarray | list[Hashable], ByteStrings, np.ndarray]:
    """(S ids, S names, (S, 2) int32 sizes)."""
    ids: list[Any] = []
    names: list[ByteStrings] = []
    sizes: list[np.ndarray] = []
    for text in [None] if content else _texts(annotation, file.pieces['images']):
        try:
            if text is None:
                raise msgspec.DecodeError
            entries = _images.decode(text)
            flat = np.array([(e.id, e.width, e.height) for e in entries], dtype=np.int64).reshape(-1, 3)
            listed = [e.file_name.replace('\\', '/').encode() for e in entries]
            ids.append(flat[:, 0])
            size = flat[:, 1:]
        except (msgspec.MsgspecError, OverflowError, UnicodeDecodeError):
            items = content['images'] if text is None else json.loads(text)
            ids.append([item['id'] for item in items])
            listed = [str(item['file_name']).replace('\\', '/').encode() for item in items]
            size = np.array([(int(item['width']), int(item['height'])) for item in items], dtype=np.int64).reshape(
                -1, 2
            )
        if len(size) and abs(size).max() > _MAX_SIDE:
            raise OverflowError('an image is wider or higher than 2^31 pixels')
        names.append(ByteStrings.of(listed))
        sizes.append(size.astype(np.int32))
    if all(isinstance(part, np.ndarray) for part in ids):
        known: np.ndarray | list[Hashable] = np.concatenate(ids)
    else:
        known = [key for part in ids for key in (part.tolist() if isinstance(part, np.ndarray) else part)]
    return known, ByteStrings.concatenate(names), np.concatenate(sizes)


def _texts(annotation: Path, pieces: list[tuple[int, int]]) -> Iterable[bytes]:
    with open(annotation, 'rb') as stream:
        for start, stop in pieces:
            stream.seek(start)
            yield b'[' + stream.read(stop - start) + b']'


def _refuse_twice(ids: np.ndarray | list[Hashable], what: str, annotation: Path) -> None:
    """Raises ValueError if an id stands there more than once."""
    if isinstance(ids, np.ndarray):
        if (ids[1:] > ids[:-1]).all():
            return
        ordered = np.sort(ids)
        again = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
        if not len(again):
            return
        first = ids[np.isin(ids, again)]
        twice = list(dict.fromkeys(first.tolist()))
    else:
        twice = [key for key, count in Counter(ids).items() if count > 1]
    if twice:
        raise ValueError(
            f'{annotation} has {len(twice)} {what} ids more than once ({some(twice)}): every id must be unique.'
        )


def _check_images(annotation: Path, names: ByteStrings, sizes: np.ndarray) -> None:
    hashes = np.fromiter(map(hash, names), np.int64, len(names))
    ordered = np.sort(hashes)
    again = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(again):
        counts = Counter(names[row] for row in np.flatnonzero(np.isin(hashes, again)))
        twice = [name.decode() for name, count in counts.items() if count > 1]
        if twice:
            raise ValueError(
                f'{annotation} lists {len(twice)} image files more than once ({some(twice)}): '
                'every image must stand there once.'
            )
    bad = np.flatnonzero((sizes <= 0).any(axis=1))
    if len(bad):
        raise ValueError(
            f'{annotation} gives images a width or height of zero or less '
            f'({some(names[row].decode() for row in bad[:4])}).'
        )


def _join(
    annotation: Path,
    found: list[Objects],
    names: ByteStrings,
    sizes: np.ndarray,
    class_names: list[str],
    digest: str,
) -> CocoFile:
    """The pieces as one, sorted by scene."""
    ids = [part.ids for part in found]
    if all(isinstance(part, np.ndarray) for part in ids):
        given = np.concatenate(ids)
        _refuse_twice(given[given != NO_ID], 'annotation', annotation)
        del given
    else:
        listed = [key for part in ids for key in (part.tolist() if isinstance(part, np.ndarray) else part)]
        _refuse_twice([key for key in listed if key != NO_ID], 'annotation', annotation)
    absent: Counter[Hashable] = sum((part.absent for part in found), Counter())
    if absent:
        raise ValueError(
            f'{annotation}: {sum(absent.values())} annotations name {len(absent)} images that are not in its image '
            f'list (image ids {some(sorted(absent, key=str))}): the file is damaged or was cut; make it anew.'
        )
    unknown = {key for part in found for key in part.unknown}
    if unknown:
        raise ValueError(
            f'{annotation}: annotations use category ids that it does not define ({some(sorted(unknown, key=str))}).'
        )
    counts = dict.fromkeys((*LEFT_OUT, *ALTERED), 0)
    for part in found:
        for reason, count in part.counts.items():
            counts[reason] += count
    scene_of = np.concatenate([part.scene_of for part in found])
    if not len(scene_of):
        listed = ', '.join(f'{count} {reason}' for reason, count in counts.items() if count)
        total = sum(part.total for part in found)
        raise ValueError(f'{annotation} has no usable box: all {total} are left out ({listed}).')
    # Sorted by scene, column by column, so that little stands in memory twice.
    order = None if (scene_of[1:] >= scene_of[:-1]).all() else np.argsort(scene_of, kind='stable').astype(np.int32)
    columns = dict(scene_of=scene_of if order is None else scene_of[order])
    for name in ('boxes', 'classes', 'crowd'):
        column = np.concatenate([getattr(part, name) for part in found])
        columns[name] = column if order is None else column[order]
        for part in found:
            setattr(part, name, None)
    masks = ByteStrings.concatenate([part.masks for part in found])
    return CocoFile(
        names=names,
        sizes=sizes,
        masks=masks if order is None else masks.take(order),
        class_names=class_names,
        left_out=counts,
        digest=digest,
        **columns,
    )
