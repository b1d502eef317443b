"""Content hashes of inputs: of a file, or of all files of a folder."""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path

BLOCK = 1 << 24
"""Bytes of a file that are hashed at once. SHA-256 is slow, so blocks are hashed side by side."""


class BlockDigest:
    """SHA-256 of the SHA-256 of each block of a file, over several threads.

    Args:
        threads: how many.
    """

    def __init__(self, threads: int = 2) -> None:
        self._pool = concurrent.futures.ThreadPoolExecutor(threads)
        self._waiting: deque[concurrent.futures.Future] = deque()
        self._threads = threads
        self._state = hashlib.sha256()

    def __enter__(self) -> BlockDigest:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def update(self, block: bytes) -> None:
        """Add the next block: ``BLOCK`` bytes, the last one maybe fewer."""
        self._waiting.append(self._pool.submit(hashlib.sha256, block))
        while len(self._waiting) > self._threads:
            self._state.update(self._waiting.popleft().result().digest())

    def hexdigest(self) -> str:
        """The digest of all blocks so far, in hex."""
        while self._waiting:
            self._state.update(self._waiting.popleft().result().digest())
        return self._state.hexdigest()


def digest_of(path: str | os.PathLike[str], progress: Callable[[int, int], None] | None = None) -> str:
    """Digest, in hex, of what a file holds; for a folder, of the names and contents of all files in it.

    Args:
        path: file or folder.
        progress: called with (bytes done, bytes in all) of a file.
    """
    path = Path(path)
    if path.is_dir():
        state = hashlib.sha256()
        for file in sorted(file for file in path.rglob('*') if file.is_file()):
            state.update(f'{file.relative_to(path).as_posix()}\0{digest_of(file)}\0'.encode())
        return state.hexdigest()
    size, done = os.path.getsize(path), 0
    with open(path, 'rb') as file, BlockDigest() as digest:
        while block := file.read(BLOCK):
            digest.update(block)
            done += len(block)
            if progress is not None:
                progress(done, size)
        return digest.hexdigest()
