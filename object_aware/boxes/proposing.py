"""Proposals of a whole folder: in batches, over processes, resumable, as one COCO-format file.

Finished batches go to a part file beside the output, a line each; its first line says what it belongs to. A run that
was stopped goes on behind the last whole line. Batches are the same whatever was done before and by how many processes,
and so is the output.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from ..outputs import begins_with
from ..parallel import ordered_map
from .proposals import Proposals
from .reading import Picture

VERSION = 1
_HEAD = '{"info":{"description": "boxes without labels", "proposals": '
is_proposals = begins_with(_HEAD.encode())
"""Whether a file is as :func:`propose` wrote it; one that was edited and saved by another program is not."""
_UNREADABLE = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError, MemoryError)


class Proposer(Protocol):
    """Reads images as it wants them, and proposes boxes for a batch of them."""

    def read(self, path: str) -> Picture: ...

    def __call__(self, pictures: Sequence[Picture]) -> list[Proposals]: ...


@dataclass(frozen=True)
class Summary:
    """What was written.

    Attributes:
        images: images with an entry.
        boxes: boxes in all.
        unreadable: (name, reason) of images that do not decode; they have no entry.
        resumed: how many images a stopped run had done before.
        up_to_date: the file was there and nothing was done.
    """

    images: int
    boxes: int
    unreadable: list[tuple[str, str]]
    resumed: int = 0
    up_to_date: bool = False


@dataclass(frozen=True)
class _Work:
    """What every process needs: how to make the proposer, and where the images are."""

    make: Callable[[], Proposer]
    folder: str

    @functools.cached_property
    def proposer(self) -> Proposer:
        """That of this process, made at its first batch."""
        return self.make()


def propose(
    names: Sequence[str],
    folder: str | os.PathLike[str],
    make: Callable[[], Proposer],
    out: str | os.PathLike[str],
    settings: dict[str, Any],
    *,
    batch_size: int = 16,
    workers: int = 0,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Propose boxes for images and write them as one COCO-format file.

    Args:
        names: images relative to ``folder``.
        folder: image folder.
        make: makes the proposer; called once in each process, so it must be picklable (a ``functools.partial``).
        out: file to write.
        settings: all that decides the proposals, as plain JSON values; kept in the file. A part file of other settings
            or other images is begun anew, and so is an output.
        batch_size: images at a time.
        workers: processes; 0 does everything in this one.
        force: begin anew in any case.
        progress: called with (images done, images in all).

    Raises:
        ValueError: not one image could be read.
    """
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    header = dict(version=VERSION, settings=settings, batch_size=batch_size, images=_digest(names, folder))
    header = json.loads(json.dumps(header))
    part = out.with_name(out.name + '.part')
    if force:
        part.unlink(missing_ok=True)
    elif (done := _written(out, header)) is not None:
        return done
    batches = [list(names[start : start + batch_size]) for start in range(0, len(names), batch_size)]
    finished = _prepare_part(part, header)
    resumed = sum(len(batch) for batch in batches[:finished])
    count = resumed
    work = _Work(make, str(folder))
    with open(part, 'ab') as file:
        if progress is not None and finished:
            progress(count, len(names))
        # 'spawn': torch's threads do not survive a fork
        for lines in ordered_map(_batch, batches[finished:], workers=workers, shared=work, start_method='spawn'):
            file.write(json.dumps(lines, separators=(',', ':')).encode() + b'\n')
            file.flush()
            count += len(lines)
            if progress is not None:
                progress(count, len(names))
        os.fsync(file.fileno())
    summary = _write(out, part, header, resumed)
    part.unlink()
    return summary


def _batch(work: _Work, names: list[str]) -> list[dict[str, Any]]:
    """One batch: for each image its entry, or why there is none."""
    proposer = work.proposer
    entries: list[dict[str, Any]] = []
    pictures: list[Picture] = []
    for name in names:
        try:
            pictures.append(proposer.read(os.path.join(work.folder, name)))
            entries.append(dict(name=name))
        except _UNREADABLE as error:
            entries.append(dict(name=name, error=(str(error) or type(error).__name__).split(' <')[0].split(" '")[0]))
    found = iter(zip(pictures, proposer(pictures) if pictures else []))
    for entry in entries:
        if 'error' not in entry:
            picture, proposals = next(found)
            entry['size'] = list(picture.size)
            entry['boxes'] = [[round(float(c), 2) for c in box] for box in proposals.boxes]
            entry['scores'] = [round(float(score), 5) for score in proposals.scores]
            if proposals.masks is not None:
                entry['masks'] = [mask.decode('ascii') for mask in proposals.masks]
    return entries


def _digest(names: Sequence[str], folder: str | os.PathLike[str]) -> str:
    """SHA-256 of names and file sizes."""
    state = hashlib.sha256()
    for name in names:
        try:
            size = os.stat(os.path.join(folder, name)).st_size
        except OSError:
            size = -1
        state.update(f'{name}\0{size}\n'.encode())
    return state.hexdigest()


def _prepare_part(part: Path, header: dict[str, Any]) -> int:
    """Make the part file ready to be added to; gives the number of batches that it holds."""
    if part.is_file():
        whole, batches = 0, -1
        with open(part, 'rb') as file:
            for line in file:
                if not line.endswith(b'\n'):
                    break  # the process was killed within this line
                if batches < 0 and line.rstrip(b'\n') != _header_line(header):
                    break
                whole += len(line)
                batches += 1
        if batches >= 0:
            os.truncate(part, whole)
            return batches
    part.write_bytes(_header_line(header) + b'\n')
    return 0


def _header_line(header: dict[str, Any]) -> bytes:
    return json.dumps(header, sort_keys=True).encode()


def _written(out: Path, header: dict[str, Any]) -> Summary | None:
    """The summary of an output that belongs to these settings and images, else None."""
    if not out.is_file():
        return None
    try:
        content = json.loads(out.read_bytes())
        if content['info']['proposals'] != header:
            return None
        unreadable = [(entry['file_name'], entry['reason']) for entry in content['unreadable']]
        return Summary(len(content['images']), len(content['annotations']), unreadable, up_to_date=True)
    except (ValueError, KeyError, TypeError):
        return None


def _write(out: Path, part: Path, header: dict[str, Any], resumed: int) -> Summary:
    """The part file as COCO's annotation format, streamed: a million images would not fit in memory as objects."""
    temporary = out.with_name(f'.{out.name}.{os.getpid()}.tmp')
    unreadable, images, boxes = [], 0, 0
    try:
        with open(temporary, 'w', encoding='utf-8') as file:
            file.write(_HEAD + json.dumps(header))
            file.write('},\n"categories":[{"id":1,"name":"object"}],\n"images":[')
            for entry in _entries(part):
                if 'error' in entry:
                    unreadable.append((entry['name'], entry['error']))
                    continue
                images += 1
                width, height = entry['size']
                record = dict(id=images, file_name=entry['name'], width=width, height=height)
                file.write((',\n' if images > 1 else '\n') + json.dumps(record))
            file.write('],\n"annotations":[')
            image = 0
            for entry in _entries(part):
                if 'error' in entry:
                    continue
                image += 1
                for record in _records(entry, image, boxes):
                    file.write((',\n' if boxes else '\n') + json.dumps(record))
                    boxes += 1
            lost = [dict(file_name=name, reason=reason) for name, reason in unreadable]
            file.write('],\n"unreadable":' + json.dumps(lost) + '}\n')
            file.flush()
            os.fsync(file.fileno())
        if not images:
            raise ValueError(
                f'None of the {len(unreadable)} images could be read (first: {unreadable[0][0]}: {unreadable[0][1]}).'
            )
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
    return Summary(images, boxes, unreadable, resumed)


def _entries(part: Path):
    with open(part, 'rb') as file:
        next(file)
        for line in file:
            yield from json.loads(line)


def _records(entry: dict[str, Any], image: int, done: int):
    width, height = entry['size']
    masks = entry.get('masks') or [''] * len(entry['boxes'])
    for number, ((x1, y1, x2, y2), score, mask) in enumerate(zip(entry['boxes'], entry['scores'], masks), start=1):
        side = [round(x2 - x1, 2), round(y2 - y1, 2)]
        record = dict(id=done + number, image_id=image, category_id=1, bbox=[x1, y1, *side], score=score, iscrowd=0)
        if mask:
            from pycocotools import mask as coco

            record['segmentation'] = dict(size=[height, width], counts=mask)
            record['area'] = int(coco.area(dict(size=[height, width], counts=mask.encode())))
        else:
            record['area'] = round(side[0] * side[1], 2)
        yield record
