"""Shared test set-up: one thread, the tests' own folder importable, the optional pack of real photographs."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

TESTS = Path(__file__).resolve().parent
REPO = TESTS.parent
for folder in (str(TESTS), str(REPO)):  # `import oracles` works whatever pytest's import mode is
    if folder not in sys.path:
        sys.path.insert(0, folder)


@pytest.fixture(scope='session', autouse=True)
def _one_thread():
    """Tiny tensors: more threads only cost time and change the order of float sums."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope='session')
def repo() -> Path:
    """Root of the checkout."""
    return REPO


@pytest.fixture(scope='session')
def pack() -> Path:
    """Folder of real photographs: environment variable MIXEDAE_PACK, else ../shared/pack. Skips without it."""
    folder = Path(os.environ.get('MIXEDAE_PACK') or REPO.parent / 'shared' / 'pack')
    if not folder.is_dir():
        pytest.skip('no pack of real photographs: set MIXEDAE_PACK to its folder')
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    """A fresh NumPy generator with a fixed seed."""
    return np.random.default_rng(0)


@pytest.fixture
def generator() -> torch.Generator:
    """A fresh torch generator with a fixed seed."""
    return torch.Generator().manual_seed(0)
