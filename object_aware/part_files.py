"""Finished pieces of long work, kept in a folder, so that work which was interrupted goes on."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .columns_file import read_columns, write_columns

_KEY = 'parts.json'
_SUFFIX = '.part.safetensors'


class PartFiles:
    """A folder of pieces, tied to what they were made from. It is made with the first piece.

    Args:
        folder: the folder.
        key: says what the pieces were made from; pieces of another key are thrown away.
    """

    def __init__(self, folder: str | os.PathLike[str], key: str) -> None:
        self.folder = Path(folder)
        self.key = key
        self._lock = threading.Lock()
        try:
            found = json.loads((self.folder / _KEY).read_text())['key']
        except (OSError, ValueError, KeyError, TypeError):
            found = None
        if found != key:
            self.remove()

    def __len__(self) -> int:
        """How many pieces are there."""
        return sum(1 for _ in self.folder.glob(f'*{_SUFFIX}'))

    def get(self, name: str) -> tuple[dict[str, np.ndarray], dict[str, str]] | None:
        """Columns and strings of a piece; None if it is not there, or was damaged when the machine stopped."""
        try:
            content = read_columns(self.folder / f'{name}{_SUFFIX}')
        except (OSError, ValueError):
            return None
        return None if content.damaged() else (content.columns, content.metadata)

    def put(self, name: str, columns: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
        """Keep a piece."""
        with self._lock:
            if not (self.folder / _KEY).is_file():
                self.folder.mkdir(parents=True, exist_ok=True)
                (self.folder / _KEY).write_text(json.dumps(dict(key=self.key)))
        write_columns(self.folder / f'{name}{_SUFFIX}', columns, metadata, sync=False)

    def remove(self) -> None:
        """Throw all pieces away. Leaves a folder alone that holds anything else."""
        if not self.folder.is_dir():
            return
        for file in self.folder.iterdir():
            if file.name == _KEY or file.name.endswith((_SUFFIX, '.part')):
                file.unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            shutil.rmtree(self.folder)
