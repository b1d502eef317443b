"""Windows of a patch grid: non-overlapping squares, the grid padded at the bottom and the right to fill them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def padded_grid(grid: tuple[int, int], window_size: int) -> tuple[int, int]:
    """The grid ``(h, w)`` rounded up to whole windows."""
    return tuple(-(-side // window_size) * window_size for side in grid)


def num_windows(grid: tuple[int, int], window_size: int) -> int:
    """How many windows cover a grid ``(h, w)``."""
    height, width = padded_grid(grid, window_size)
    return (height // window_size) * (width // window_size)


def pad_to_windows(x: Tensor, window_size: int, value: float = 0) -> Tensor:
    """``(B, h, w, C)``, filled below and to the right with ``value`` up to whole windows."""
    height, width = padded_grid(x.shape[1:3], window_size)
    below, right = height - x.shape[1], width - x.shape[2]
    return F.pad(x, (0, 0, 0, right, 0, below), value=value) if below or right else x


def to_windows(x: Tensor, window_size: int) -> Tensor:
    """``(B, h, w, C)``, sides multiples of the window's, to ``(B * windows, window_size**2, C)``, row-major."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // window_size, window_size, width // window_size, window_size, channels)
    return x.transpose(2, 3).reshape(-1, window_size * window_size, channels)


def from_windows(x: Tensor, grid: tuple[int, int], window_size: int) -> Tensor:
    """``(B * windows, window_size**2, C)`` back to ``(B, h, w, C)``; what was padded is cut off."""
    height, width = padded_grid(grid, window_size)
    x = x.reshape(-1, height // window_size, width // window_size, window_size, window_size, x.shape[-1])
    return x.transpose(2, 3).reshape(-1, height, width, x.shape[-1])[:, : grid[0], : grid[1]]


def empty_places(padded: Tensor, grid: tuple[int, int], window_size: int, outside: bool) -> Tensor:
    """Which places of each window hold nothing to attend to.

    Args:
        padded: ``(B, h*w)`` bool, patches of the grid that are left out.
        grid: ``(h, w)``.
        window_size: side of a window.
        outside: whether places outside the grid are left out.

    Returns:
        ``(B * windows, window_size**2)`` bool.
    """
    places = padded.reshape(-1, *grid, 1).to(torch.uint8)
    return to_windows(pad_to_windows(places, window_size, int(outside)), window_size)[..., 0] == 1
