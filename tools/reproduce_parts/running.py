"""Runs stages, several at a time, each once: stamps, logs, resuming, progress with time left."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from tools.stage_parts.commands import TAIL_LINES, child_environment, clock, how_it_ended, summarise

TRIES = 2  # a stage that failed is tried once more: the machine may have been short of memory
PAUSE = 30.0  # seconds before that


@dataclass(frozen=True)
class Command:
    """Arguments of a command; it is left out if `makes` is there. `options` change no result."""

    arguments: tuple[str, ...]
    makes: Path | None = None
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stage:
    """One step of the experiment.

    Attributes:
        name: also of its log, stamp and folder.
        kind: stages of one kind take about equally long.
        title: for people.
        commands: run one after the other.
        outputs: files that must exist afterwards.
        folder: of its own; cleared before it starts unless it was interrupted with this very content.
        after: names of the stages whose results it uses.
        content: what its configs resolve to; part of the fingerprint.
        iterations: of training, for the record.
        removes: pattern of files in `folder` that are not needed afterwards.
    """

    name: str
    kind: str
    title: str
    commands: tuple[Command, ...]
    outputs: tuple[Path, ...]
    folder: Path | None = None
    after: tuple[str, ...] = ()
    content: str = ''
    iterations: int = 0
    removes: str = ''


def fingerprints(stages: Iterable[Stage], places: Mapping[str, str] | None = None) -> dict[str, str]:
    """A hash of all that each stage's result depends on: commands, resolved configs, and the stages before it.

    Args:
        places: folders -> names that stand for them, so that a project or data folder may move.
    """
    found: dict[str, str] = {}
    for stage in stages:
        arguments = [command.arguments[1:] for command in stage.commands]  # not the path of Python
        text = json.dumps([arguments, stage.content, [found[name] for name in stage.after]])
        for place in sorted(places or {}, key=len, reverse=True):
            text = text.replace(place, (places or {})[place])
        found[stage.name] = hashlib.sha256(text.encode()).hexdigest()
    return found


@dataclass
class Running:
    """A stage that is being done."""

    stage: Stage
    start: float
    text: str = ''
    cpu_seconds: float = 0.0
    process: subprocess.Popen | None = None
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL_LINES))


@dataclass
class Journey:
    """Does all stages, `jobs` at a time, in their order as far as what they use is done.

    Attributes:
        facts: gives what goes into each stamp (machine, versions, commit); asked when the first stage is done.
        places: see :func:`fingerprints`.
        shared: open files that children get: a lock then lasts as long as the last of them.
        changed: called after each stage that was done.
        quiet: seconds between two lines of progress.
        pause: seconds before a failed stage is tried again.
    """

    stages: list[Stage]
    work_dir: Path
    cwd: Path
    jobs: int = 1
    threads: int = 1
    facts: Callable[[], dict] = dict
    places: Mapping[str, str] = field(default_factory=dict)
    shared: tuple[int, ...] = ()
    changed: Callable[[], None] = lambda: None
    quiet: float = 120.0
    pause: float = PAUSE
    out: TextIO = field(default_factory=lambda: sys.stdout)

    def __post_init__(self) -> None:
        self.prints = fingerprints(self.stages, self.places)
        self.lock = threading.Condition()
        self.active: dict[str, Running] = {}
        self.done: set[str] = set()
        self.failed: dict[str, str] = {}
        self.stopping = False

    def record(self, stage: Stage) -> dict | None:
        """The stamp of this very stage if it is done and its outputs are there."""
        content = read_json(self._stamp(stage, 'done'))
        good = content and content['fingerprint'] == self.prints[stage.name]
        return content if good and all(path.exists() for path in stage.outputs) else None

    def run(self) -> bool:
        """All stages; returns whether all are done. A stage that failed twice is named, and what needs it is left out.

        Ctrl-C and SIGTERM (as KeyboardInterrupt) end the children; training saves a checkpoint first.
        """
        self.done = {stage.name for stage in self.stages if self.record(stage)}
        self.say(f'{len(self.done)} of {len(self.stages)} stages are done already')
        workers = [threading.Thread(target=self._work, daemon=True) for _ in range(self.jobs)]
        for worker in workers:
            worker.start()
        last = time.monotonic()
        try:
            while any(worker.is_alive() for worker in workers):
                time.sleep(0.05 if self.quiet < 5 else 1.0)
                if time.monotonic() - last > self.quiet:
                    last = time.monotonic()
                    self.say(self.status())
        except KeyboardInterrupt:
            self.stop()
            for worker in workers:
                worker.join(timeout=60)
            raise
        return not self.failed and len(self.done) == len(self.stages)

    def stop(self) -> None:
        """End the children and start no more."""
        with self.lock:
            self.stopping = True
            for running in self.active.values():
                if running.process is not None:
                    running.process.terminate()
            self.lock.notify_all()

    def status(self) -> str:
        """`12/104 done | pretrain_mae_s0: train 340/1501, ... | about 3 h 10 min left`."""
        with self.lock:
            parts = [f'{running.stage.name}: {running.text or "starting"}' for running in self.active.values()]
            count = len(self.done)
        return ' | '.join([f'{count}/{len(self.stages)} done', *parts, self.time_left()])

    def time_left(self) -> str:
        """From the mean time of finished stages of each kind."""
        known: dict[str, list[float]] = {}
        for stage in self.stages:
            record = self.record(stage)
            if record:
                known.setdefault(stage.kind, []).append(record['seconds'])
        left, unknown = 0.0, set()
        with self.lock:
            active = {name: time.monotonic() - running.start for name, running in self.active.items()}
        for stage in self.stages:
            if stage.name in self.done or stage.name in self.failed:
                continue
            if stage.kind not in known:
                unknown.add(stage.kind)
                continue
            mean = sum(known[stage.kind]) / len(known[stage.kind])
            left += max(0.0, mean - active.get(stage.name, 0.0))
        text = f'about {clock(left / self.jobs)} left'
        return text + (f' besides {", ".join(sorted(unknown))} (not yet timed)' if unknown else '')

    def say(self, text: str) -> None:
        print(f'[{time.strftime("%H:%M:%S")}] {text}', file=self.out, flush=True)

    def _work(self) -> None:
        while True:
            with self.lock:
                stage = None
                while not self.stopping:
                    stage = self._next()
                    if stage is not None or not self._waiting():
                        break
                    self.lock.wait()
                if stage is None or self.stopping:
                    return
                running = self.active[stage.name] = Running(stage, time.monotonic())
            error = self._try(running)
            with self.lock:
                del self.active[stage.name]
                if error is None:
                    self.done.add(stage.name)
                elif not self.stopping:
                    self.failed[stage.name] = error
                self.lock.notify_all()
            if error is None:
                with self.lock:
                    self._tell()

    def _tell(self) -> None:
        """Calls `changed`; a failure there ends no stage."""
        try:
            self.changed()
        except (OSError, ValueError) as error:
            self.say(f'the results so far could not be collected: {error}')

    def _next(self) -> Stage | None:
        """The first stage that can start."""
        for stage in self.stages:
            begun = stage.name in self.done or stage.name in self.failed or stage.name in self.active
            if not begun and all(name in self.done for name in stage.after):
                return stage
        return None

    def _waiting(self) -> bool:
        """Is there a stage that can start later, when one that runs now is done?"""
        return bool(self.active)

    def _try(self, running: Running) -> str | None:
        stage = running.stage
        for attempt in range(TRIES):
            running.start, running.cpu_seconds = time.monotonic(), 0.0
            self.say(f'start {stage.name}: {stage.title}')
            try:
                error = self._do(running)
            except OSError as failure:  # a full disk, say: a thread that ended by it would leave the others waiting
                error = str(failure)
            if error is None or self.stopping:
                return error
            self.say(f'FAILED {stage.name}: {error}; its log: {self._log(stage)}')
            for line in running.tail:
                print(f'    {line}', file=self.out, flush=True)
            with self.lock:
                if attempt + 1 < TRIES and not self.stopping:
                    self.lock.wait_for(lambda: self.stopping, self.pause)
        return error

    def _do(self, running: Running) -> str | None:
        """Runs a stage; None, or what went wrong. Seconds and seconds of processor time of all tries are added up."""
        stage = running.stage
        before = read_json(self._stamp(stage, 'begun')) or {}
        if before.get('fingerprint') != self.prints[stage.name]:
            before = {'fingerprint': self.prints[stage.name], 'seconds': 0.0, 'cpu_seconds': 0.0}
            if stage.folder is not None:
                shutil.rmtree(stage.folder, ignore_errors=True)
            for path in stage.outputs:
                path.unlink(missing_ok=True)
        write_json(self._stamp(stage, 'begun'), before)
        try:
            for command in stage.commands:
                if command.makes is not None and command.makes.exists():
                    continue
                code = self._command(command, running)
                if code or self.stopping:
                    return how_it_ended(code) if code else 'stopped'
        finally:
            before['seconds'] += time.monotonic() - running.start
            if 'cpu_seconds' in before:
                before['cpu_seconds'] = round(before['cpu_seconds'] + running.cpu_seconds, 3)
            write_json(self._stamp(stage, 'begun'), before)
        missing = [path for path in stage.outputs if not path.exists()]
        if missing:
            return f'ended well but did not write {missing[0]}'
        record = {**before, 'seconds': round(before['seconds'], 3), 'iterations': stage.iterations, 'kind': stage.kind}
        record.update(self.facts(), finished=time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime()))
        write_json(self._stamp(stage, 'done'), record)
        if stage.removes and stage.folder is not None:
            for path in stage.folder.glob(stage.removes):
                path.unlink()
        self.say(f'done {stage.name} in {clock(record["seconds"])}')
        return None

    def _command(self, command: Command, running: Running) -> int:
        log = self._log(running.stage)
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**child_environment(), 'OMP_NUM_THREADS': str(self.threads), 'OMP_WAIT_POLICY': 'passive'}
        with log.open('a', encoding='utf-8') as file:
            file.write(f'$ {" ".join(command.arguments)}\n')
            with self.lock:
                if self.stopping:
                    return 0
                process = running.process = subprocess.Popen(
                    [*command.arguments, *command.options], cwd=self.cwd, env=environment, text=True, bufsize=1,
                    errors='replace', stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=self.shared,
                )  # fmt: skip
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    file.write(line)
                    file.flush()
                    if line.strip():
                        running.tail.append(line.rstrip())
                        running.text = summarise(line) or running.text
            except OSError:  # the log cannot be written
                process.terminate()
                process.communicate()
                raise
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            running.cpu_seconds += usage.ru_utime + usage.ru_stime
            return process.returncode

    def _stamp(self, stage: Stage, what: str) -> Path:
        return self.work_dir / 'stamps' / f'{stage.name}.{what}.json'

    def _log(self, stage: Stage) -> Path:
        return self.work_dir / 'logs' / f'{stage.name}.log'


def read_json(path: Path) -> dict | None:
    """The content of a JSON file; None if there is none or it was cut off."""
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def write_json(path: Path, content: dict) -> None:
    """Write a JSON file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'{path.name}.{os.getpid()}.{threading.get_ident()}.part')
    part.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')
    part.replace(path)
