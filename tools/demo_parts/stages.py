"""Running the stages of a journey: commands printed before they run, one line of progress, logs, stamps."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class Stage:
    """One step: its commands, and what its result depends on.

    Attributes:
        name: short, also the name of its log and stamp.
        title: what the header says.
        commands: argument lists, run one after the other.
        configs: config files; they and all their `_base_` files are part of the fingerprint.
        inputs: files and folders read, by size and time of change.
        outputs: files that must exist afterwards (and for the stage to be skipped).
        clears: folders of its own that an earlier run may have left, removed before it starts.
        after: names of the stages whose results it uses.
        iterations: training iterations, for the record.
    """

    name: str
    title: str
    commands: tuple[tuple[str, ...], ...]
    configs: tuple[Path, ...] = ()
    inputs: tuple[Path, ...] = ()
    outputs: tuple[Path, ...] = ()
    clears: tuple[Path, ...] = ()
    after: tuple[str, ...] = ()
    iterations: int = 0


@dataclass
class Journey:
    """Does stages one after the other, with their logs and stamps under `work_dir`.

    Attributes:
        total: number of stages, for the headers.
        restart: do every stage anew.
    """

    work_dir: Path
    cwd: Path
    total: int
    restart: bool = False
    out: TextIO = field(default_factory=lambda: sys.stdout)
    prints: dict[str, str] = field(default_factory=dict)
    records: dict[str, dict] = field(default_factory=dict)

    def do(self, stage: Stage) -> None:
        """Run a stage unless it is done; its {seconds, iterations} go to `records`.

        Raises:
            StageError: it failed. What was finished before stays finished.
        """
        self.prints[stage.name] = fingerprint(stage, [self.prints[name] for name in stage.after])
        record = None if self.restart else self.finished(stage)
        print(f'\n[{len(self.records) + 1}/{self.total}] {stage.title}', file=self.out, flush=True)
        if record is not None:
            print(
                f'      skipped: done before in {clock(record["seconds"])}, and nothing that it reads changed',
                file=self.out,
            )
        else:
            record = self._run(stage)
        self.records[stage.name] = {'seconds': record['seconds'], 'iterations': record['iterations']}

    def finished(self, stage: Stage) -> dict | None:
        """The stamp of an earlier run of this very stage with these very inputs, if its outputs are still there."""
        stamp = self._stamp(stage)
        if not stamp.is_file() or not all(path.exists() for path in stage.outputs):
            return None
        record = json.loads(stamp.read_text(encoding='utf-8'))
        return record if record.get('fingerprint') == self.prints[stage.name] else None

    def _run(self, stage: Stage) -> dict:
        stamp = self._stamp(stage)
        stamp.unlink(missing_ok=True)
        for folder in stage.clears:
            shutil.rmtree(folder, ignore_errors=True)
        log = self.work_dir / 'logs' / f'{stage.name}.log'
        log.parent.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        with log.open('w', encoding='utf-8') as file:
            for command in stage.commands:
                print(f'      $ {shlex.join(relative(command, self.cwd))}', file=self.out, flush=True)
                file.write(f'$ {shlex.join(command)}\n')
                code, tail = run_command(command, self.cwd, file, Progress(self.out))
                if code:
                    raise StageError(f'stage "{stage.name}" {how_it_ended(code)}', tail, log)
        missing = [path for path in stage.outputs if not path.exists()]
        if missing:
            raise StageError(f'stage "{stage.name}" ended well but did not write {missing[0]}', [], log)
        seconds = round(time.monotonic() - start, 1)
        record = {'fingerprint': self.prints[stage.name], 'seconds': seconds, 'iterations': stage.iterations}
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text(json.dumps(record), encoding='utf-8')
        print(f'      done in {clock(seconds)}', file=self.out, flush=True)
        return record

    def _stamp(self, stage: Stage) -> Path:
        return self.work_dir / 'stamps' / f'{stage.name}.json'


def fingerprint(stage: Stage, before: Iterable[str] = ()) -> str:
    """A hash of all that a stage's result depends on: commands, configs and their bases, inputs, stages before it."""
    digest = hashlib.sha256(json.dumps(stage.commands).encode())
    for path in config_files(stage.configs):
        digest.update(path.read_bytes())
    for path in stage.inputs:
        digest.update(_state(path).encode())
    for text in before:
        digest.update(text.encode())
    return digest.hexdigest()


def config_files(configs: Iterable[Path]) -> list[Path]:
    """The configs and every `_base_` file that they inherit from, each once."""
    found: list[Path] = []
    queue = [Path(path).resolve() for path in configs]
    while queue:
        path = queue.pop(0)
        if path in found:
            continue
        found.append(path)
        match = re.search(
            r'^_base_\s*=\s*(\[.*?\]|\(.*?\)|[\'"].*?[\'"])', path.read_text(encoding='utf-8'), flags=re.S | re.M
        )
        bases = re.findall(r'[\'"](.+?)[\'"]', match.group(1)) if match else []
        queue += [(path.parent / base).resolve() for base in bases]
    return found


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


def _state(path: Path) -> str:
    """Name, size and time of change of a file; of a folder its number of entries."""
    if path.is_dir():
        return f'{path}:{sum(1 for _ in path.iterdir())}'
    status = path.stat()
    return f'{path}:{status.st_size}:{status.st_mtime_ns}'
