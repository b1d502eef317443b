"""Reading checkpoints safely where ``torch.load(weights_only=True)`` cannot: before PyTorch 2.6.

There it has no allow-list with names, so that MMEngine's training checkpoints cannot be read, and a way around it is
known (CVE-2025-32434). Here ``torch.load`` gets an unpickler that finds nothing but what is named, and sets the state
of nothing but plain containers, arrays and tensors.
"""

from __future__ import annotations

import builtins
import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

REBUILD = ('_rebuild_tensor', '_rebuild_tensor_v2', '_rebuild_parameter', '_rebuild_sparse_tensor')
TYPES = ('float16', 'bfloat16', 'float32', 'float64', 'uint8', 'int8', 'int16', 'int32', 'int64', 'bool', 'device')
BUILTINS = ('set', 'frozenset', 'bytearray', 'complex', 'slice')


def _encode(text: Any, encoding: Any = 'latin1') -> bytes:
    """Stands in for ``_codecs.encode``, by which torch.save stores bytes."""
    if not isinstance(text, str) or encoding != 'latin1':
        raise pickle.UnpicklingError('Unsupported global: GLOBAL _codecs.encode was refused')
    return text.encode('latin1')


def _tensor_names() -> dict[str, Any]:
    names = {f'torch._utils.{name}': getattr(torch._utils, name) for name in REBUILD}
    names |= {f'torch.{name}': getattr(torch, name) for name in TYPES}
    names |= {f'builtins.{name}': getattr(builtins, name) for name in BUILTINS}
    names |= {'torch.Size': torch.Size, 'torch.Tensor': Tensor, 'torch.nn.parameter.Parameter': nn.Parameter}
    names |= {'torch.serialization._get_layout': torch.serialization._get_layout}
    return names | {'collections.OrderedDict': OrderedDict, '_codecs.encode': _encode}


def load(path: Path, map_location: Any, names: Mapping[str, Any], with_state: tuple[type, ...]) -> Any:
    """``torch.load`` of a file that may name tensors, plain containers and ``names``, and nothing else.

    Args:
        path: a file of :func:`torch.save`.
        map_location: as for :func:`torch.load`.
        names: what else may be named: ``'module.name'`` and what it stands for.
        with_state: classes whose objects may be given a state.

    Raises:
        pickle.UnpicklingError: the file asks for more, or is an archive of TorchScript, which is a program.
    """
    known = {**_tensor_names(), **names}
    stateful = (OrderedDict, Tensor, nn.Parameter, *with_state)

    class Unpickler(pickle._Unpickler):  # the one in Python: the one in C has no place to look at states
        dispatch = dict(pickle._Unpickler.dispatch)

        def find_class(self, module: str, name: str) -> Any:
            full = f'{"builtins" if module == "__builtin__" else module}.{name}'
            if full not in known:
                raise pickle.UnpicklingError(f'Unsupported global: GLOBAL {full} was refused')
            return known[full]

        def load_build(self) -> None:
            if type(self.stack[-2]) not in stateful:
                raise pickle.UnpicklingError(f'Unsupported global: GLOBAL {type(self.stack[-2]).__name__} was refused')
            super().load_build()

        dispatch[pickle.BUILD[0]] = load_build

    source: Path | io.BytesIO = path
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.rpartition('/')[2] == 'constants.pkl' for name in archive.namelist()):
                raise pickle.UnpicklingError('Unsupported global: GLOBAL torch.jit was refused')
    else:  # from memory, because from a file torch would first take it for a tar archive, and unpack that
        source = io.BytesIO(path.read_bytes())
    ours = SimpleNamespace(
        __name__=__name__, Unpickler=Unpickler, load=lambda file, **options: Unpickler(file, **options).load()
    )
    return torch.load(source, map_location=map_location, pickle_module=ours, weights_only=False)
