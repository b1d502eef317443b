"""Sizes of the plain ViT, by name."""

from __future__ import annotations

from typing import NamedTuple


class Arch(NamedTuple):
    """Width D, number of blocks and number of heads of a plain ViT."""

    embed_dim: int
    depth: int
    num_heads: int


ARCHS = {
    'tiny': Arch(192, 12, 3),
    'small': Arch(384, 12, 6),
    'base': Arch(768, 12, 12),
    'large': Arch(1024, 24, 16),
    'huge': Arch(1280, 32, 16),
}
"""Width, depth and heads of the named sizes."""


def get_arch(arch: str | dict) -> Arch:
    """A name of :data:`ARCHS`, or ``dict(embed_dim=..., depth=..., num_heads=...)``."""
    if isinstance(arch, str):
        if arch not in ARCHS:
            raise ValueError(f"Unknown ViT '{arch}': choose one of {', '.join(ARCHS)}, or give a dict of sizes.")
        return ARCHS[arch]
    try:
        return Arch(**arch)
    except TypeError:
        raise ValueError(f'A ViT needs embed_dim, depth and num_heads, not {sorted(arch)}.') from None
