"""Choosing among the sets of weights in one file: raw or averaged, teacher or student."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from mixedae.checkpoints.facts import ONE_FILE, Facts, facts_of
from mixedae.checkpoints.reading import CheckpointError, read_file

AVERAGED = ('state_dict_ema', 'model_ema', 'teacher')
"""Moving averages: timm's and DeiT's words, DINO's teacher. Their authors evaluate these, so they come first."""

RAW = ('state_dict', 'model', 'module', 'student', 'ema_state_dict')
"""Weights as trained. MMEngine's ``ema_state_dict`` stands last: its EMA hook swaps the two when it saves, so that the
averaged weights are in ``state_dict`` and ``ema_state_dict`` holds the raw ones."""


@dataclass
class Weights:
    """One set of weights of a file.

    Attributes:
        state_dict: tensors by their names in the file.
        source: the file.
        key: where in the file they stood, '' for its top.
        others: further sets that it holds.
        facts: what the file says of itself.
    """

    state_dict: dict[str, Tensor]
    source: str
    key: str = ''
    others: tuple[str, ...] = ()
    facts: Facts = field(default_factory=Facts)


def open_weights(path: str | Path, weights: str = 'auto') -> Weights:
    """Reads a checkpoint file, or a folder of Hugging Face, and chooses its weights.

    Args:
        path: a file that :func:`mixedae.checkpoints.read_file` reads, or a folder with ``model.safetensors``.
        weights: ``'auto'``: the first of ``AVERAGED`` and ``RAW`` that the file has; else its key in the file, e.g.
            ``'student'``.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file cannot be read, or does not hold these weights.
    """
    path = Path(path).expanduser() if '://' not in str(path) else path
    if isinstance(path, Path) and path.is_dir():
        found = [name for name in ONE_FILE if (path / name).is_file()]
        if (path / 'model.safetensors.index.json').is_file() and not found:
            raise CheckpointError(f'{path} holds weights in several files; join them into one model.safetensors first.')
        if not found:
            raise FileNotFoundError(f'The folder {path} holds none of {", ".join(ONE_FILE)}.')
        path = path / found[0]
    checkpoint = read_file(path)
    key, others = choose(checkpoint, weights, path)
    tensors = tensors_of(checkpoint[key] if key else checkpoint)
    if not tensors:
        raise CheckpointError(f'{path} holds no weights: its entries are {", ".join(map(str, list(checkpoint)[:5]))}.')
    return Weights(tensors, str(path), key, others, facts_of(checkpoint, path))


def choose(checkpoint: Mapping, weights: str = 'auto', path: str | Path = 'The checkpoint') -> tuple[str, tuple]:
    """Key of the weights in a checkpoint that has been read ('' for its top), and the keys of the further sets."""
    known = [key for key in (*AVERAGED, *RAW) if isinstance(checkpoint.get(key), Mapping)]
    sets = [key for key in known if tensors_of(checkpoint[key])]
    if weights == 'auto':
        return (sets[0], tuple(sets[1:])) if sets else ('', ())
    if weights not in sets:  # a word of its own, e.g. I-JEPA's target_encoder
        named = [key for key, value in checkpoint.items() if isinstance(value, Mapping) and tensors_of(value)]
        if weights not in named:
            has = f'it has {", ".join(sets or named)}' if sets or named else 'it has one set only: leave the choice out'
            raise CheckpointError(f'{path} holds no weights under {weights!r}; {has}.')
    return weights, tuple(key for key in sets if key != weights)


def tensors_of(entries: Mapping) -> dict[str, Tensor]:
    """The tensors of a mapping, by name."""
    return {name: value for name, value in entries.items() if isinstance(value, Tensor) and isinstance(name, str)}
