"""Reading detectron2's ``.pkl`` files: a pickle of numpy arrays, of which nothing but arrays and containers is built.

numpy's own unpickling is not used either: an array in a pickle is a call of ``_reconstruct`` and a state, and both are
answered here by stand-ins that accept plain numbers of a plain shape and refuse the rest.
"""

from __future__ import annotations

import collections
import math
import pickle
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

NUMBER_TYPES = {
    f'{kind}{size}' for kind, sizes in {'f': (2, 4, 8), 'i': (1, 2, 4, 8), 'u': (1,)}.items() for size in sizes
}
NUMBER_TYPES.add('b1')
DAMAGED = 'an array is damaged or is not of plain numbers'


class _Type:
    """Stands in for ``numpy.dtype``."""

    def __init__(self, name: Any = None, *flags: Any) -> None:
        if name not in NUMBER_TYPES:
            raise pickle.UnpicklingError(f'Unsupported global: GLOBAL numpy.dtype({name!r}) was refused')
        self.name = name
        self.order = '<'

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ('<', '>', '|', '='):
            raise pickle.UnpicklingError('an array has a damaged type')
        self.order = state[1]

    def make(self) -> np.dtype:
        return np.dtype(self.name).newbyteorder(self.order if self.order in '<>' else '=')


class _Array:
    """Stands in for ``numpy.ndarray``."""

    value: np.ndarray

    def __setstate__(self, state: Any) -> None:
        try:
            _, shape, kind, column_major, raw = state
        except (TypeError, ValueError):
            raise pickle.UnpicklingError(DAMAGED) from None
        self.fill(raw, kind, shape, 'F' if column_major else 'C')

    def fill(self, raw: Any, kind: Any, shape: Any, order: Any) -> None:
        raw = raw.encode('latin1') if isinstance(raw, str) else raw
        good = isinstance(kind, _Type) and isinstance(raw, bytes | bytearray) and isinstance(shape, tuple)
        good = good and order in ('C', 'F') and all(isinstance(side, int) and side >= 0 for side in shape)
        if not good or math.prod(shape) * kind.make().itemsize != len(raw):
            raise pickle.UnpicklingError(DAMAGED)
        flat = np.frombuffer(raw, dtype=kind.make())
        # torch knows the machine's byte order alone; a copy, because bytes cannot be written to
        self.value = flat.reshape(shape, order=order).astype(kind.make().newbyteorder('='))


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _frombuffer(raw: Any = None, kind: Any = None, shape: Any = None, order: Any = None, *_: Any) -> _Array:
    """How protocol 5 stores arrays."""
    array = _Array()
    array.fill(raw, kind, shape, order)
    return array


def _empty_bytes(*arguments: Any) -> bytes:
    """Stands in for ``bytes``, by which protocols 0 to 2 store nothing but ``b''``."""
    if arguments:
        raise pickle.UnpicklingError('Unsupported global: GLOBAL builtins.bytes was refused')
    return b''


def _scalar(kind: Any, raw: Any = b'') -> Any:
    raw = raw.encode('latin1') if isinstance(raw, str) else raw
    if not isinstance(kind, _Type) or not isinstance(raw, bytes) or len(raw) != kind.make().itemsize:
        raise pickle.UnpicklingError('a number is damaged')
    return np.frombuffer(raw, dtype=kind.make())[0].item()


def _encode(text: Any, encoding: Any = 'latin1') -> bytes:
    """Stands in for ``_codecs.encode``, by which old protocols store bytes."""
    if not isinstance(text, str) or encoding not in ('latin1', 'latin-1'):
        raise pickle.UnpicklingError('Unsupported global: GLOBAL _codecs.encode was refused')
    return text.encode('latin1')


_ANSWERS = {
    ('_codecs', 'encode'): _encode,
    ('__builtin__', 'bytes'): _empty_bytes,
    ('builtins', 'bytes'): _empty_bytes,
    ('collections', 'OrderedDict'): collections.OrderedDict,
    ('numpy', 'ndarray'): _Array,
    ('numpy', 'dtype'): _Type,
    ('numpy.core.numeric', '_frombuffer'): _frombuffer,
    ('numpy._core.numeric', '_frombuffer'): _frombuffer,
    **{
        (f'numpy.{core}.multiarray', name): answer
        for core in ('core', '_core')
        for name, answer in (('_reconstruct', _reconstruct), ('scalar', _scalar))
    },
}


class _SafeUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ANSWERS:
            raise pickle.UnpicklingError(f'Unsupported global: GLOBAL {module}.{name} was refused')
        return _ANSWERS[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError('it refers to another file')


def load_numpy_pickle(file: BinaryIO | str | Path) -> Any:
    """What a pickle of containers and numpy arrays holds, arrays as tensors.

    Raises:
        pickle.UnpicklingError: it is damaged, or asks for anything else.
    """
    if isinstance(file, str | Path):
        with open(file, 'rb') as stream:
            return load_numpy_pickle(stream)
    return _to_tensors(_SafeUnpickler(file, encoding='latin1').load())


def _to_tensors(value: Any) -> Any:
    if isinstance(value, _Array):
        if not hasattr(value, 'value'):
            raise pickle.UnpicklingError('an array has no content')
        return torch.from_numpy(np.ascontiguousarray(value.value).reshape(value.value.shape))
    if isinstance(value, dict):
        return {key: _to_tensors(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_tensors(item) for item in value]
    return value
