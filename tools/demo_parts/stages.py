"""Running the stages of a journey: commands printed before they run, one line of progress, logs, stamps."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from tools.stage_parts.commands import Progress, StageError, clock, how_it_ended, relative, run_command


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


def _state(path: Path) -> str:
    """Name, size and time of change of a file; of a folder its number of entries."""
    if path.is_dir():
        return f'{path}:{sum(1 for _ in path.iterdir())}'
    status = path.stat()
    return f'{path}:{status.st_size}:{status.st_mtime_ns}'
