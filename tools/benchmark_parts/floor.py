"""The floor under a time: its operations over the rate of one large matrix product, timed in the same turns."""

from __future__ import annotations

from typing import Any

from .common import Timing
from .torch_timing import slowdown

NAME = 'matrix product'
SIDES = dict(cpu=1536, cuda=8192)


class Product:
    """One product of two square matrices, a contender that stands for the chip's peak.

    Args:
        device: a torch.device.
        dtype: of the matrices.
    """

    def __init__(self, device: Any, dtype: Any) -> None:
        import torch

        side = SIDES.get(device.type, SIDES['cpu'])
        self.operations = side**3  # multiply-adds
        self.title = f'{side} x {side} product'
        self.a, self.b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        self.out = torch.empty_like(self.a)

    def __call__(self) -> None:
        import torch

        torch.mm(self.a, self.b, out=self.out)

    def rate(self, timing: Timing) -> float:
        """Multiply-adds per second (median)."""
        return self.operations / middle(timing)

    def note(self, timing: Timing) -> str:
        """The rate as a sentence."""
        return f'floor: at {self.rate(timing) / 1e9:.1f} G multiply-adds a second, the rate of one {self.title}'

    def over_floor(self, timing: Timing, own: Timing, operations: float) -> tuple[float, float, float]:
        """(median, quartiles) of how many times as long as at the product's rate ``operations`` multiply-adds took."""
        median, low, high = slowdown(timing, own)
        share = self.operations / operations
        return median * share, low * share, high * share


def middle(timing: Timing) -> float:
    """Seconds of the median turn."""
    return sorted(timing.cpu)[len(timing.cpu) // 2]
