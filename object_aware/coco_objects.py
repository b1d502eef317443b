"""A piece of a COCO file's annotation list → columns. Runs in worker processes.

The ordinary way decodes typed structs; a piece in which anything is unusual (NaN, boxes that are none, ids that are
strings) is decoded once more without types, entry by entry, with the same result for sound entries.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from .byte_strings import ByteStrings
from .masks import encode_segmentation

LEFT_OUT = ('no box of four numbers', 'NaN or infinite', 'zero or negative size', 'outside the image')
"""Why a box is left out when it is read."""
ALTERED = ('clipped', 'bad mask', 'box of the mask')
"""What else is counted: boxes cut at the image's border, masks that cannot be read (the box is used), boxes that were
missing (that of the mask is used)."""

_CLIP_TOLERANCE = 1.0  # a box that reaches less far over the border is not counted as clipped (rounding), in pixels
_MAX_TABLE = 1 << 26  # entries of a table from ids to scenes


class _Annotation(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    id: int = -(2**62)
    iscrowd: int | bool = 0
    segmentation: msgspec.Raw = msgspec.Raw()


_pieces = msgspec.json.Decoder(list[_Annotation])
_polygons = msgspec.json.Decoder(list[list[float]])
NO_ID = -(2**62)


class Lookup:
    """From ids to rows: of images to scenes, of categories to classes.

    Args:
        ids: distinct ids; whole numbers in an int64 array, or a list of anything.
    """

    def __init__(self, ids: np.ndarray | Sequence[Hashable]) -> None:
        self.ids = ids
        self._table: np.ndarray | None = None
        self._rows: dict[Hashable, int] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __getstate__(self) -> np.ndarray | Sequence[Hashable]:
        return self.ids

    def __setstate__(self, ids: np.ndarray | Sequence[Hashable]) -> None:
        self.__init__(ids)

    def row(self, key: Hashable) -> int:
        """Row of one id, -1 if there is none."""
        if self._rows is None:
            ids = self.ids.tolist() if isinstance(self.ids, np.ndarray) else self.ids
            self._rows = {key: row for row, key in enumerate(ids)}
        return self._rows.get(key, -1)

    def rows(self, keys: np.ndarray) -> np.ndarray:
        """(K,) int32 rows of int64 ids, -1 where there is none."""
        if not isinstance(self.ids, np.ndarray):
            return np.array([self.row(key) for key in keys.tolist()], dtype=np.int32)
        if self._table is None:
            self._low, self._high = int(self.ids.min()), int(self.ids.max())
            if self._high - self._low < min(8 * len(self.ids) + 100_000, _MAX_TABLE):
                self._table = np.full(self._high - self._low + 1, -1, dtype=np.int32)
                self._table[self.ids - self._low] = np.arange(len(self.ids), dtype=np.int32)
                self._order = None
            else:
                self._order = np.argsort(self.ids).astype(np.int32)
                self._table = self.ids[self._order]
        if self._order is None:
            known = (keys >= self._low) & (keys <= self._high)
            return np.where(known, self._table[np.where(known, keys - self._low, 0)], -1).astype(np.int32)
        place = np.minimum(np.searchsorted(self._table, keys), len(self._table) - 1)
        return np.where(self._table[place] == keys, self._order[place], -1).astype(np.int32)


@dataclass(frozen=True)
class Context:
    """What all pieces of a file need.

    Attributes:
        path: the file.
        scenes: from image ids to rows of ``sizes``.
        classes: from category ids to classes.
        sizes: (S, 2) int32 width, height.
        masks: whether masks are read.
    """

    path: str
    scenes: Lookup
    classes: Lookup
    sizes: np.ndarray
    masks: bool


@dataclass
class Objects:
    """The objects of a piece, in the order of the file. Rows that are left out are gone.

    Attributes:
        scene_of, boxes, classes, crowd: as in ``Scenes``, of the piece.
        masks: their masks.
        ids: of all annotations of the piece, int64 (NO_ID where one has none) or a list of anything.
        absent, unknown: for image ids and category ids that the file does not define, how many annotations name them.
        counts: for each of LEFT_OUT and ALTERED how many.
        total: annotations in the piece.
    """

    scene_of: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray
    masks: ByteStrings
    ids: np.ndarray | list[Hashable]
    total: int
    counts: Counter[str] = field(default_factory=Counter)
    absent: Counter[Hashable] = field(default_factory=Counter)
    unknown: Counter[Hashable] = field(default_factory=Counter)

    @property
    def storable(self) -> bool:
        """Whether :meth:`as_columns` can be used: ordinary ids, and no error to report."""
        return isinstance(self.ids, np.ndarray) and not self.absent and not self.unknown

    def as_columns(self) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """Arrays and strings that a file can hold."""
        columns = {name: getattr(self, name) for name in ('scene_of', 'boxes', 'classes', 'crowd', 'ids')}
        offsets = self.masks.offsets if len(self.masks.data) else np.zeros(0, dtype=np.int64)
        columns |= dict(mask_offsets=offsets, mask_bytes=self.masks.data)
        return columns, dict(total=str(self.total), counts=json.dumps(self.counts))

    @classmethod
    def from_columns(cls, columns: dict[str, np.ndarray], strings: dict[str, str]) -> Objects:
        """The inverse of :meth:`as_columns`."""
        columns = dict(columns)
        offsets, data = columns.pop('mask_offsets'), columns.pop('mask_bytes')
        masks = ByteStrings(offsets, data) if len(data) else ByteStrings.empty(len(columns['boxes']))
        counts = Counter(json.loads(strings['counts']))
        return cls(**columns, masks=masks, total=int(strings['total']), counts=counts)


def read_piece(context: Context, piece: tuple[int, int]) -> Objects:
    """Decode the annotations in the byte range ``piece``.

    Raises:
        KeyError, TypeError, OverflowError: an entry without a field that it must have, or with a wrong one.
        ValueError: no JSON.
    """
    with open(context.path, 'rb') as file:
        file.seek(piece[0])
        text = b'[' + file.read(piece[1] - piece[0]) + b']'
    try:
        return _typed(context, _pieces.decode(text))
    except (msgspec.MsgspecError, OverflowError, UnicodeDecodeError):
        return untyped(context, json.loads(text))


def _typed(context: Context, entries: list[_Annotation]) -> Objects:
    count = len(entries)

    def column(values: Any, dtype: Any) -> np.ndarray:
        return np.fromiter(values, dtype, count)

    image_ids = column((e.image_id for e in entries), np.int64)
    category_ids = column((e.category_id for e in entries), np.int64)
    flat = itertools.chain.from_iterable([e.bbox for e in entries])
    boxes = np.fromiter(flat, np.float64, 4 * count).reshape(-1, 4)
    scene_of, classes = context.scenes.rows(image_ids), context.classes.rows(category_ids)
    segmentations = [e.segmentation for e in entries] if context.masks else []
    objects = Objects(
        scene_of,
        boxes,
        classes,
        column((e.iscrowd for e in entries), bool),
        ByteStrings.empty(count),
        column((e.id for e in entries), np.int64),
        count,
        absent=Counter(image_ids[scene_of < 0].tolist()),
        unknown=Counter(category_ids[classes < 0].tolist()),
    )
    return _finish(context, objects, np.ones(count, dtype=bool), segmentations)


def untyped(context: Context, entries: list[dict[str, Any]]) -> Objects:
    """Any list of annotations, as ``json.loads`` gives them; errors as in :func:`read_piece`."""
    scene_of, classes, boxes, shaped, crowd, segmentations = [], [], [], [], [], []
    absent: Counter[Hashable] = Counter()
    unknown: Counter[Hashable] = Counter()
    ids: list[Hashable] = []
    for entry in entries:
        scene, row = context.scenes.row(entry['image_id']), context.classes.row(entry['category_id'])
        if scene < 0:
            absent[entry['image_id']] += 1
        if row < 0:
            unknown[entry['category_id']] += 1
        box = entry.get('bbox')
        good = isinstance(box, (list, tuple)) and len(box) == 4 and all(isinstance(c, (int, float)) for c in box)
        segmentation = entry.get('segmentation')
        scene_of.append(scene)
        classes.append(row)
        shaped.append(good or (None if box in (None, []) and segmentation else False))
        boxes.append([float(c) for c in box] if good else [0.0] * 4)
        crowd.append(bool(entry.get('iscrowd', 0)))
        segmentations.append(segmentation)
        ids.append(entry.get('id', NO_ID))
        hash(ids[-1])
    whole = all(type(key) is int and abs(key) < 2**63 for key in ids)
    objects = Objects(
        np.array(scene_of, dtype=np.int32),
        np.array(boxes, dtype=np.float64).reshape(-1, 4),
        np.array(classes, dtype=np.int32),
        np.array(crowd, dtype=bool),
        ByteStrings.empty(len(entries)),
        np.array(ids, dtype=np.int64) if whole else ids,
        len(entries),
        absent=absent,
        unknown=unknown,
    )
    by_mask = [row for row, known in enumerate(shaped) if known is None and scene_of[row] >= 0]
    for row in by_mask:
        width, height = context.sizes[scene_of[row]].tolist()
        box = _box_of(segmentations[row], height, width)
        shaped[row] = box is not None
        if box is not None:
            objects.boxes[row] = box
            objects.counts['box of the mask'] += 1
    return _finish(context, objects, np.array(shaped, dtype=bool), segmentations if context.masks else [])


def _finish(context: Context, objects: Objects, shaped: np.ndarray, segmentations: Sequence[Any]) -> Objects:
    """Clean the boxes, drop what has none, and add the masks."""
    if objects.absent or objects.unknown:  # an error in the end; nothing of this is used
        return objects
    boxes, kept, counts = clean_boxes(objects.boxes, shaped, context.sizes[objects.scene_of])
    objects.counts.update(counts)
    rows = np.flatnonzero(kept)
    if segmentations:
        sizes = context.sizes[objects.scene_of]
        masks, bad = encode_masks([segmentations[row] for row in rows.tolist()], sizes[rows])
        objects.masks = masks
        objects.counts['bad mask'] += bad
    else:
        objects.masks = ByteStrings.empty(len(rows))
    objects.boxes = boxes[rows]
    objects.scene_of, objects.classes = objects.scene_of[rows], objects.classes[rows]
    objects.crowd = objects.crowd[rows]
    return objects


def clean_boxes(
    raw: np.ndarray, shaped: np.ndarray, sizes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """COCO boxes → boxes inside their images.

    Args:
        raw: (N, 4) float64 x, y, width, height.
        shaped: (N,) bool, False where there were no four numbers.
        sizes: (N, 2) width, height of each box's image.

    Returns:
        (N, 4) float32 xyxy clipped to the image, (N,) bool which are usable, and the counts of the rest.
    """
    finite = np.isfinite(raw).all(axis=1)
    raw = np.where(finite[:, None], raw, 0.0)
    positive = (raw[:, 2:] > 0).all(axis=1)
    corners = np.concatenate([raw[:, :2], raw[:, :2] + raw[:, 2:]], axis=1)
    limits = np.concatenate([sizes, sizes], axis=1)
    clipped = np.clip(corners, 0, limits).astype(np.float32)
    inside = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
    good = shaped & finite & positive & inside
    counts = (~shaped, shaped & ~finite, shaped & finite & ~positive, shaped & finite & positive & ~inside)
    left_out = {reason: int(np.count_nonzero(which)) for reason, which in zip(LEFT_OUT, counts)}
    over = (np.abs(corners - clipped) > _CLIP_TOLERANCE).any(axis=1)
    left_out['clipped'] = int(np.count_nonzero(good & over))
    return clipped, good, left_out


def encode_masks(segmentations: Sequence[Any], sizes: np.ndarray) -> tuple[ByteStrings, int]:
    """Masks of segmentations, and how many of them are bad (they get no mask).

    Args:
        segmentations: for each object what COCO has there, decoded or as raw JSON; None or empty for no mask.
        sizes: (N, 2) width, height of each object's image.
    """
    counts, bad = [], 0
    for segmentation, (width, height) in zip(segmentations, sizes.tolist()):
        try:
            decoded = _decoded(segmentation)
            encoded = encode_segmentation(decoded, height, width) if decoded else b''
            bad += bool(decoded) and not encoded
        except ValueError:
            encoded = b''
            bad += 1
        counts.append(encoded)
    return ByteStrings.of(counts), bad


def _decoded(segmentation: Any) -> Any:
    if not isinstance(segmentation, msgspec.Raw):
        return segmentation
    raw = memoryview(segmentation)
    if len(raw) <= 2:
        return None
    try:
        return _polygons.decode(raw)
    except msgspec.MsgspecError:
        return json.loads(bytes(raw))


def _box_of(segmentation: Any, height: int, width: int) -> list[float] | None:
    """x, y, width, height of what a segmentation covers; None if that cannot be read."""
    from pycocotools import mask as coco

    try:
        counts = encode_segmentation(segmentation, height, width)
    except ValueError:
        return None
    return coco.toBbox(dict(size=[height, width], counts=counts)).tolist() if counts else None
