"""Small pieces of the sentences that users read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def some(names: Iterable[Any], count: int = 3) -> str:
    """The first few of many names, for a message: ``a, b, c, ...``."""
    listed = [str(name) for name in names]
    return ', '.join(listed[:count]) + (', ...' if len(listed) > count else '')
