"""Running the commands of the set-up: a sign of life while they run, one clear sentence when they fail."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tools.stage_parts.commands import clock

ROOT = Path(__file__).resolve().parent.parent.parent
HEARTBEAT_SECONDS = 20


class SetupError(Exception):
    """Ends the run with one sentence: what went wrong and what to do."""


class CommandFailed(Exception):
    """A command ended with another status than 0; `output` is all that it printed."""

    def __init__(self, returncode: int, output: str):
        super().__init__(f'exit status {returncode}')
        self.returncode = returncode
        self.output = output


def say(text: str) -> None:
    print(text, flush=True)  # at once, also into a log file


def end_group(process: subprocess.Popen, patience: float = 10.0) -> None:
    """End `process` and what it started: asked first, because ninja has its compilers in groups of their own and only
    ends them when it is told to end itself; killed after `patience` seconds.
    """
    deadline = time.monotonic() + patience
    with contextlib.suppress(ProcessLookupError, PermissionError):  # no group left: all have ended
        os.killpg(process.pid, signal.SIGTERM)
        while time.monotonic() < deadline:
            process.poll()  # or it stays in its group as a zombie
            os.killpg(process.pid, 0)
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run_command(command: list, *, env: dict[str, str], progress: Callable[[], str] | None = None) -> None:
    """Run `command` from ROOT without stdin, its output kept aside; a line now and then shows that it lives.

    Raises:
        CommandFailed: it ended with another status than 0.
    """
    start = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that its compilers end with it
        )
        try:
            while True:
                try:
                    process.wait(timeout=HEARTBEAT_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    note = progress() if progress else ''
                    say(f'      ... {clock(time.monotonic() - start)}' + (f', {note}' if note else ''))
        except BaseException:
            end_group(process)
            raise
        if process.returncode != 0:
            output.seek(0)
            raise CommandFailed(process.returncode, output.read().decode(errors='replace'))


# (what the output holds, the sentence); the first that fits is told
CAUSES = [
    (r'No space left on device|Errno 28', 'the disk is full: free some space and call this again'),
    (
        r'Temporary failure in name resolution|Name or service not known|NewConnectionError|Network is unreachable|'
        r'Connection refused|ProxyError|SSLError|timed out|ConnectTimeout|Connection reset|getaddrinfo failed',
        'the package index cannot be reached: check the network (behind a proxy set HTTPS_PROXY, with a mirror '
        'PIP_INDEX_URL) and call this again, it goes on where it stopped',
    ),
    (
        r'No matching distribution found|Could not find a version',
        'the package index has no such version for this Python and platform: look at the line above that names the '
        'package, and at PIP_INDEX_URL if a mirror is set',
    ),
    (r'Python\.h: No such file', "Python's headers are missing: install them (Debian/Ubuntu: apt-get install {dev})"),
    (
        r'Killed signal|signal: killed|out of memory|cannot allocate memory|virtual memory exhausted',
        'the compiler ran out of memory: call this again with MAX_JOBS=1 in front',
    ),
    (
        r"command '?\S*(g\+\+|c\+\+|gcc|cc)'? failed: No such file|No such file or directory: '(g\+\+|c\+\+|gcc|cc)'",
        'there is no C++ compiler: install one (Debian/Ubuntu: apt-get install g++) or use --no-ops',
    ),
    (r'CUDA version .* mismatches', 'the CUDA toolkit is another one than torch was built with: use --cuda-ops no'),
]


def explain(error: CommandFailed, doing: str, python: str) -> SetupError:
    """Print the telling lines of the output, return the sentence for what they say. `python`: e.g. `python3.11`."""
    lines = [line for line in error.output.strip().splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r'\berror\b|No matching|Could not', line, re.I)][-6:]
    for line in telling or lines[-8:]:
        say('      | ' + line.strip()[:300])
    why = next((text for pattern, text in CAUSES if re.search(pattern, error.output, re.I)), None)
    if why is None and error.returncode == -signal.SIGKILL:
        why = 'it was killed, most likely for memory: call this again with MAX_JOBS=1 in front'
    if why is None:
        why = f'it ended with status {error.returncode}: see the lines above'
    return SetupError(f'{doing} failed: {why.replace("{dev}", f"{python}-dev")}.')
