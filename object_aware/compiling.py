"""numba, imported in one place, and how its code is kept on disk.

Only what searches or draws windows needs numba, so this module is imported when the first window is wanted. Compiled
code is kept beside the source, or where that is read-only in the user's cache folder; NUMBA_CACHE_DIR names another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

try:
    from numba import njit, types
except ImportError as error:
    raise ImportError(
        f'Windows are found by compiled code, which needs numba, but numba cannot be imported ({error}): '
        'install it (pip install numba).'
    ) from error

__all__ = ['entry', 'jit', 'readonly', 'sources_hash', 'types']

jit = njit(nogil=True)
"""For functions that other compiled code calls; they are compiled into it."""


def readonly(dtype: types.Type, dimensions: int = 1) -> types.Array:
    """Type of a contiguous array argument that is not written to; writable arrays fit it too."""
    return types.Array(dtype, dimensions, 'C', readonly=True)


def entry(signature: Any) -> Callable:
    """Compile for one signature, or load it from disk.

    With one signature, processes that compile at the same time write the same files (each under another name first,
    then renamed). Where no folder can be written, every process compiles for itself.
    """

    def decorate(function: Callable) -> Callable:
        try:
            return njit(signature, cache=True, nogil=True)(function)
        except Exception:  # no place for a cache, or a broken one; a mistake in the function is raised again
            return njit(signature, nogil=True)(function)

    return decorate


def sources_hash(*names: str) -> str:
    """Hash of modules beside this one. numba compiles anew when the file of an entry changes, not when a file that it
    imports from does; an entry that refers to this hash from an enclosing function is compiled anew then too."""
    state = hashlib.sha256()
    for name in names:
        state.update(Path(__file__).with_name(f'{name}.py').read_bytes())
    return state.hexdigest()
