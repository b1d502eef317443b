"""The state of every random generator of a process, as plain tensors and numbers that a checkpoint can hold."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_world_size


def get_random_state() -> dict[str, Any]:
    """State of Python's, NumPy's and torch's global generators; of the current CUDA device too, where there is one."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    version, words, next_gauss = random.getstate()
    state = dict(
        python=dict(version=version, words=torch.tensor(words, dtype=torch.int64), gauss=next_gauss),
        numpy=dict(
            kind=kind,
            keys=torch.from_numpy(keys.astype(np.int64)),
            position=int(position),
            has_gauss=int(has_gauss),
            gauss=float(gauss),
        ),
        torch=torch.get_rng_state(),
    )
    if torch.cuda.is_available():
        state['cuda'] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Restores what :func:`get_random_state` returned."""
    python, numpy = state['python'], state['numpy']
    random.setstate((python['version'], tuple(python['words'].tolist()), python['gauss']))
    np.random.set_state(  # noqa: NPY002
        (
            numpy['kind'],
            numpy['keys'].cpu().numpy().astype(np.uint32),
            numpy['position'],
            numpy['has_gauss'],
            numpy['gauss'],
        )
    )
    torch.set_rng_state(state['torch'].cpu())
    if 'cuda' in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'].cpu())


@contextlib.contextmanager
def random_state_kept() -> Iterator[None]:
    """Whatever is drawn inside, the CPU generators are afterwards as they were before."""
    python, numpy, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(torch_state)


def seed_cpu(numbers: Sequence[int]) -> None:
    """Seeds Python's, NumPy's and torch's CPU generators from several numbers."""
    words = np.random.SeedSequence(numbers).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))  # noqa: NPY002
    torch.random.default_generator.manual_seed(int(words[2]) << 16 ^ int(words[3]))


def of_all_ranks(value: Any) -> list[Any]:
    """The values of all processes, in order of rank; all of them must call it."""
    return all_gather_object(value) if get_world_size() > 1 else [value]
