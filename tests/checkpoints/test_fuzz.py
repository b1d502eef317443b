"""A few hundred mutated checkpoints; `python tests/checkpoints/fuzz.py 20000` reads more."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import fuzz


def test_fuzz__refused_or_the_same():
    counts = fuzz.fuzz(400, seed=1)
    assert sum(counts.values()) == 400 and counts['refused'] > 200, counts
