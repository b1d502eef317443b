"""One line of progress with the time left, for work that takes more than a few seconds."""

from __future__ import annotations

import sys
import time
from typing import TextIO


class Progress:
    """Callable ``progress(done, total)``: one live line on a terminal, a line every ten seconds elsewhere.

    Args:
        label: what is being done, e.g. 'windows'.
        stream: where to write; standard error by default.
        unit, scale: what is counted, if not things one by one: ``unit='MB', scale=1e6`` for bytes.
    """

    def __init__(self, label: str, stream: TextIO | None = None, *, unit: str = '', scale: float = 1.0) -> None:
        self.label = label
        self.unit = f' {unit}' if unit else ''
        self.scale = scale
        self.stream = stream if stream is not None else sys.stderr
        self.start = time.monotonic()
        self._last = self.start
        self._live = self.stream.isatty()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        finished = done >= total
        if now - self._last < (0.2 if self._live else 10.0) and not finished:
            return
        self._last = now
        elapsed = now - self.start
        left = elapsed * (total - done) / max(done, 1)
        times = f'{clock(elapsed)} in all' if finished else f'{clock(left)} left'
        share = f'{done / self.scale:,.0f} of {total / self.scale:,.0f}{self.unit}'
        line = f'{self.label}: {share}, {done / self.scale / max(elapsed, 1e-9):,.0f}{self.unit}/s, {times}'
        if self._live:
            self.stream.write(f'\r\033[K{line}' + ('\n' if finished else ''))
        else:
            self.stream.write(line + '\n')
        self.stream.flush()


def clock(seconds: float) -> str:
    """Seconds as ``1:02:03``, ``2:03`` or ``4.5 s``."""
    if seconds < 10:
        return f'{seconds:.1f} s'
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02d}:{rest:02d}' if hours else f'{minutes}:{rest:02d}'
