"""Reading checkpoint files without ever running code from them.

``torch.load(weights_only=True)`` reads tensors and plain containers and refuses everything else (before PyTorch 2.6,
:mod:`mixedae.checkpoints.old_torch` does). MMEngine's training
checkpoints hold a little more: the log history (``HistoryBuffer``, numpy arrays and scalars), the arguments of old
training scripts (``argparse.Namespace``). Those classes are harmless and are named here; whatever else a file asks for
is refused. There is no unsafe fallback; only a file that is named in the environment variable ``TRUST`` is read whole.

Damage is noticed too. ``torch.save`` writes a zip file with a CRC-32 of every record, which ``torch.load`` does not
look at; here it is verified. Beside a file of any other format a digest may lie (``FILE.sha256``, as ``sha256sum``
writes it); where it does, it must fit.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import pickle
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.utils import digit_version
from torch import Tensor

from mixedae.checkpoints import old_torch
from mixedae.checkpoints.numpy_pickle import load_numpy_pickle

STATE_DICT_KEYS = ('state_dict', 'model', 'module')
"""Where a checkpoint keeps its weights: MMEngine's word, facebookresearch's and timm's, DeepSpeed's."""

TRUST = 'MIXEDAE_TRUST_CHECKPOINTS'
"""Environment variable: files that may run code while they are read, separated as in ``PATH``."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or does not fit; the text is one sentence for the user."""


def _history_buffer_method(owner: Any, name: str) -> Any:
    """Stands in for ``getattr``, which pickle uses to name HistoryBuffer's statistics methods (``min``, ``mean``, ...).

    ``getattr`` itself would lead from any class to ``__globals__`` and so to running code; this gives the four
    statistics and nothing else.
    """
    if owner is HistoryBuffer and name in ('min', 'max', 'mean', 'current'):
        return getattr(HistoryBuffer, name)
    raise pickle.UnpicklingError(f'Unsupported global: GLOBAL builtins.getattr({owner!r}, {name!r}) was refused')


def _harmless_classes() -> list:
    """What a checkpoint may name besides tensors and plain containers."""
    core = np._core if hasattr(getattr(np, '_core', None), 'multiarray') else np.core  # numpy 1.26 has an empty _core
    multiarray = core.multiarray
    numbers = ['?', 'b', 'h', 'i', 'l', 'q', 'B', 'H', 'I', 'L', 'Q', 'e', 'f', 'd', 'U', 'S']
    return [
        HistoryBuffer,
        argparse.Namespace,
        slice,
        (_history_buffer_method, 'builtins.getattr'),
        np.ndarray,
        np.dtype,
        (multiarray._reconstruct, 'numpy.core.multiarray._reconstruct'),
        (multiarray._reconstruct, 'numpy._core.multiarray._reconstruct'),
        (multiarray.scalar, 'numpy.core.multiarray.scalar'),
        (multiarray.scalar, 'numpy._core.multiarray.scalar'),
        *{type(np.dtype(code)) for code in numbers},
    ]


def _load(path: Path, map_location: str | torch.device | None) -> Any:
    """``torch.load`` that refuses everything but tensors, plain containers and ``_harmless_classes``."""
    if trusted(path):
        return torch.load(path, map_location=map_location, weights_only=False)
    harmless = _harmless_classes()
    if digit_version(torch.__version__) < digit_version('2.6'):
        named = [entry if isinstance(entry, tuple) else (entry, None) for entry in harmless]
        names = {name or f'{thing.__module__}.{thing.__qualname__}': thing for thing, name in named}
        return old_torch.load(path, map_location, names, tuple(thing for thing, _ in named if isinstance(thing, type)))
    with torch.serialization.safe_globals(harmless):
        return torch.load(path, map_location=map_location, weights_only=True)


def trusted(path: str | Path) -> bool:
    """Has the user named this very file in ``TRUST``?"""
    named = [entry for entry in os.environ.get(TRUST, '').split(os.pathsep) if entry]
    return any(Path(entry).expanduser().resolve() == Path(path).resolve() for entry in named)


def verify_file(path: str | Path) -> None:
    """Compares a file with the checksums that it carries: CRC-32 of each record (zip), ``FILE.sha256`` beside it.

    Files of ``torch.save`` before PyTorch 1.6 carry none.

    Raises:
        CheckpointError: it is damaged.
    """
    path = Path(path)
    beside = path.with_name(f'{path.name}.sha256')
    if beside.is_file():
        with open(path, 'rb') as file:
            digest = (
                hashlib.file_digest(file, 'sha256').hexdigest() if hasattr(hashlib, 'file_digest') else _sha256(file)
            )
        if beside.read_text(errors='replace').split()[:1] != [digest]:
            raise CheckpointError(f'{path} is damaged: its SHA-256 is not the one in {beside.name}; copy it again.')
    with open(path, 'rb') as file:
        if file.read(4) != b'PK\x03\x04':
            return
    try:
        with zipfile.ZipFile(path) as archive:
            for record in archive.infolist():
                if record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1:
                    raise CheckpointError(f'{path} is not a PyTorch checkpoint: its records are compressed or locked.')
                with archive.open(record) as content:
                    while content.read(1 << 22):
                        pass
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, struct.error) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f'{path} is not a readable PyTorch checkpoint, or is damaged ({str(error).rstrip(".")}): copy it again, or '
            'take an older one.'
        ) from None


def _sha256(file: Any) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(1 << 22):
        digest.update(chunk)
    return digest.hexdigest()


def read_file(path: str | Path, map_location: str | torch.device | None = 'cpu', *, verify: bool = True) -> dict:
    """Reads a whole checkpoint (weights, optimiser, meta, ...) without running code from it.

    Args:
        path: a ``.pth`` / ``.pt`` / ``.bin`` file of :func:`torch.save`, or a ``.safetensors`` file.
        map_location: as for :func:`torch.load`; ``'meta'`` reads everything but the numbers of the tensors.
        verify: compare it with its checksums first (:func:`verify_file`).

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is not a checkpoint, is damaged, or asks for code to be run.
    """
    text = str(path)
    if re.match(r'^[a-z][a-z0-9+.-]+://', text):
        raise CheckpointError(f'Checkpoints are read from local files only: download {text} and give its path.')
    path = Path(text).expanduser()
    if not path.is_file():
        what = 'is a folder, not a checkpoint file' if path.is_dir() else 'does not exist'
        raise FileNotFoundError(f'The checkpoint {path} {what}.')
    if verify:
        verify_file(path)
    if path.suffix == '.pkl' and not _is_torch_file(path):
        return _read_pickle(path)
    if path.suffix == '.safetensors':
        return {'state_dict': _read_safetensors(path, map_location)}
    try:
        checkpoint = _load(path, map_location)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_explain(path, str(error))) from None
    except Exception as error:  # a damaged pickle fails in any way there is (tests/checkpoints/fuzz.py)
        # torch's first sentence at most: a number or an empty text say nothing
        reason = re.split(r'[.\n]', str(error).strip())[0]
        reason = reason if ' ' in reason else type(error).__name__
        raise CheckpointError(f'{path} is not a readable PyTorch checkpoint, or is damaged ({reason}).') from None
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f'{path} holds a {type(checkpoint).__name__}, not a dictionary of weights.')
    return checkpoint


def read_checkpoint(path: str | Path, map_location: str | torch.device | None = 'cpu') -> dict[str, Tensor]:
    """The weights of a checkpoint file, by name. See :func:`read_file` for the errors."""
    return state_dict_of(read_file(path, map_location), path)


def state_dict_of(checkpoint: dict, path: str | Path = 'The checkpoint') -> dict[str, Tensor]:
    """Finds the weights in a checkpoint that has been read: under one of ``STATE_DICT_KEYS``, or at the top."""
    inside = next((key for key in STATE_DICT_KEYS if isinstance(checkpoint.get(key), dict)), None)
    state_dict = checkpoint if inside is None else checkpoint[inside]
    weights = {name: value for name, value in state_dict.items() if isinstance(value, Tensor)}
    if not weights:
        found = ', '.join(map(str, list(checkpoint)[:5])) or 'nothing'
        raise CheckpointError(f'{path} holds no weights: its entries are {found}.')
    return weights


def _is_torch_file(path: Path) -> bool:
    """Written by :func:`torch.save`: a zip file, or its old form, which begins with its magic number."""
    magic = pickle.dumps(torch.serialization.MAGIC_NUMBER, protocol=2)
    with open(path, 'rb') as file:
        return file.read(len(magic)) == magic or zipfile.is_zipfile(path)


def _read_pickle(path: Path) -> dict:
    """detectron2's files: a pickle of numpy arrays."""
    try:
        checkpoint = load_numpy_pickle(path)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_explain(path, str(error))) from None
    except Exception as error:  # a damaged pickle fails in any way there is
        raise CheckpointError(f'{path} is not a readable pickle, or is damaged ({type(error).__name__}).') from None
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f'{path} holds a {type(checkpoint).__name__}, not a dictionary of weights.')
    return checkpoint


def _read_safetensors(path: Path, map_location: str | torch.device | None) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise CheckpointError(f'Reading {path} needs the package safetensors: pip install safetensors.') from None
    try:
        return load_file(path, device=str(map_location or 'cpu'))
    except SafetensorError as error:
        raise CheckpointError(f'{path} is not a readable safetensors file ({error}).') from None


def _explain(path: Path, message: str) -> str:
    """One sentence for what the safe unpickler said (its own text advises to switch the safety off)."""
    asked = re.search(r'GLOBAL (\S+)', message)
    if asked:
        return (
            f'{path} was refused: it asks for {asked.group(1)}, which is not needed to store weights and could run '
            'code; nothing of it was run. Ask its author for a file that holds only tensors, or, if you would run a '
            f'program of theirs as well, name the file in {TRUST}.'
        )
    reason = re.search(r'(Unsupported operand \d+|[Ii]nvalid load key[^\n]*|Invalid magic number[^\n]*)', message)
    return f'{path} is not a PyTorch checkpoint that can be read safely ({reason.group(1) if reason else "no pickle"}).'
