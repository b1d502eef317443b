"""Decoded scenes in memory, for small data sets and fast devices."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from mmengine.logging import print_log

from .pixels import ImageError, OpenImage, decode_all, decoded_bytes


class SceneCache:
    """Scenes decoded once, before the loader's processes are forked, which then share them.

    All that is left to do for a sample is to draw a window and to resize it. Samples are the same, byte for byte.
    Scenes that do not decode are not held: they fail where they are asked for, as without a cache. Processes that are
    spawned get nothing of it, they decode each time.

    Args:
        read: scene → its :class:`OpenImage`.
        sizes: (scene, (width, height)) of every scene to hold.
        out_size: (height, width) of the crops.
        limit_gib: GiB that they may take.

    Raises:
        ValueError: they take more.
    """

    def __init__(
        self,
        read: Callable[[int], OpenImage],
        sizes: Iterable[tuple[int, tuple[int, int]]],
        out_size: tuple[int, int],
        limit_gib: float,
    ) -> None:
        started, needed, scenes = time.perf_counter(), 0, []
        for scene, size in sizes:
            needed += decoded_bytes(size, out_size)
            scenes.append(scene)
            if needed > limit_gib * 2**30:
                raise ValueError(
                    f'The scenes do not fit into the {limit_gib:g} GiB of memory that cache_gib allows, already '
                    f'{len(scenes):,} of them take more: raise cache_gib if there is the memory, or set it to 0 to '
                    'decode scenes each time.'
                )
        self._images: dict[int, OpenImage] = {}
        for scene in scenes:
            try:
                self._images[scene] = decode_all(read(scene), out_size)
            except ImageError:
                continue
        self.num_bytes = sum(part.nbytes for image in self._images.values() for part in image.decoded.values())
        print_log(
            f'{len(self._images):,} scenes are decoded and kept in memory: {self.num_bytes / 2**20:,.0f} MiB, '
            f'{time.perf_counter() - started:.1f} s.',
            logger='current',
        )

    def __len__(self) -> int:
        return len(self._images)

    def __getstate__(self) -> dict[str, Any]:
        return dict(_images={}, num_bytes=0)

    def get(self, scene: int) -> OpenImage | None:
        """A scene with its pixels, ready for ``crop``; None if it is not held."""
        return self._images.get(scene)
