"""Commands as children: followed line by line, their output in a log, how they ended in words."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

TAIL_LINES = 15
QUIET_SECONDS = 20.0  # where the output is no terminal: seconds between two lines of progress


class StageError(RuntimeError):
    """A stage failed; the message is one sentence, `tail` the last lines of its log."""

    def __init__(self, message: str, tail: Sequence[str], log: Path) -> None:
        super().__init__(message)
        self.tail = list(tail)
        self.log = log


def run_command(command: Sequence[str], cwd: Path, log: TextIO, progress: Progress) -> tuple[int, list[str]]:
    """Run a command, its output to `log` and, boiled down, to `progress`; returns its status and its last lines."""
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    process = subprocess.Popen(
        list(command),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        bufsize=1,
        errors='replace',
        env=child_environment(),
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            log.write(line)
            log.flush()
            if line.strip():
                tail.append(line.rstrip())
                progress.see(line)
        return process.wait(), list(tail)
    except BaseException:
        process.terminate()
        process.wait(timeout=30)
        raise
    finally:
        progress.end()


def how_it_ended(code: int) -> str:
    """Words for the exit status of a failed command."""
    if code >= 0:
        return f'stopped with exit status {code}'
    name = signal.Signals(-code).name
    hint = ' (perhaps the machine ran out of memory)' if name == 'SIGKILL' else ''
    return f'was ended from outside by {name}{hint}'


def child_environment() -> dict[str, str]:
    """The environment of a command: its lines come at once, so that they can be followed."""
    return {'PYTHONUNBUFFERED': '1', **os.environ}


class Progress:
    """One line that follows a child: overwritten on a terminal, written now and then where the output is a file."""

    def __init__(self, out: TextIO, now: Callable[[], float] = time.monotonic) -> None:
        self.out = out
        self.now = now
        self.live = out.isatty()
        self.start = now()
        self.last = self.start
        self.shown = False

    def see(self, line: str) -> None:
        text = summarise(line)
        if text is None:
            return
        text = f'      {text}, {clock(self.now() - self.start)} so far'
        if self.live:
            print(f'\r\x1b[K{text}', end='', file=self.out, flush=True)
            self.shown = True
        elif self.now() - self.last >= QUIET_SECONDS:
            print(text, file=self.out, flush=True)
            self.last = self.now()

    def end(self) -> None:
        if self.live and self.shown:
            print('\r\x1b[K', end='', file=self.out, flush=True)


_ITERATION = re.compile(r'(?:Iter|Epoch)\((train|val|test)\)\s*(?:\[\s*\d+\])?\[\s*(\d+)/(\d+)\]')


def summarise(line: str) -> str | None:
    """`train 40/400, loss 1.234, 0:02:10 left` from a line of MMEngine's log; None if it says no such thing."""
    match = _ITERATION.search(line)
    if match is None:
        return None
    mode, step, total = match.group(1), int(match.group(2)), int(match.group(3))
    parts = [f'{mode} {step}/{total}']
    for key, form in (('loss', '{:.3f}'), ('topk_acc', 'TopK accuracy {:.1%}')):
        value = re.search(rf'(?<![\w/]){key}: ([\d.eE+-]+)', line)
        if value:
            text = form.format(float(value.group(1)))
            parts.append(text if ' ' in form else f'{key} {text}')
    eta = re.search(r'eta: ((?:\d+ days?, )?[\d:]+)', line)
    if eta:
        parts.append(f'{eta.group(1)} left')
    return ', '.join(parts)


def clock(seconds: float) -> str:
    """`42 s`, `3 min 05 s`, `1 h 02 min`."""
    seconds = round(seconds)
    if seconds < 60:
        return f'{seconds} s'
    if seconds < 3600:
        return f'{seconds // 60} min {seconds % 60:02d} s'
    return f'{seconds // 3600} h {seconds % 3600 // 60:02d} min'


def relative(command: Sequence[str], cwd: Path) -> list[str]:
    """The command as a user in `cwd` would type it: paths below it without their head."""
    head = f'{cwd}/'
    return [part.removeprefix(head) for part in command]
