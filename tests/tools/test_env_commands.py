"""tools/env_parts/commands.py: commands that end, hang, fail or are interrupted, and the sentences of failures."""

import os
import re
import subprocess
import sys
import time

import pytest

from tools.env_parts import commands
from tools.env_parts.commands import CommandFailed


def test_run_command__output_and_status():
    with pytest.raises(CommandFailed) as caught:
        commands.run_command([sys.executable, '-c', 'print("told"); raise SystemExit(3)'], env=dict(os.environ))
    assert caught.value.returncode == 3
    assert caught.value.output.strip() == 'told'


def test_run_command__stdin_is_closed():
    commands.run_command([sys.executable, '-c', 'import sys; assert sys.stdin.read() == ""'], env=dict(os.environ))


def test_run_command__shows_that_it_lives(monkeypatch, capsys):
    monkeypatch.setattr(commands, 'HEARTBEAT_SECONDS', 0.1)
    sleep = [sys.executable, '-c', 'import time; time.sleep(.5)']
    commands.run_command(sleep, env=dict(os.environ), progress=lambda: '3 of 78 files compiled')
    assert re.search(r'\.\.\. \d+ s, 3 of 78 files compiled', capsys.readouterr().out)


# A child that, like ninja, has its own child in another process group and ends it when it is told to end itself.
LIKE_NINJA = """
import signal, subprocess, sys
inner = None
def end(*_):
    if inner is not None:
        inner.kill()
    sys.exit(1)
signal.signal(signal.SIGTERM, end)
inner = subprocess.Popen([sys.executable, '-c', sys.argv[1]], start_new_session=True)
inner.wait()
"""


def test_run_command__interrupt_ends_the_children(tmp_path, monkeypatch):
    monkeypatch.setattr(commands, 'HEARTBEAT_SECONDS', 0.5)
    late = f'import time; time.sleep(1.5); open({str(tmp_path / "late")!r}, "w")'

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        command = [sys.executable, '-c', LIKE_NINJA, late]
        commands.run_command(command, env=dict(os.environ), progress=interrupt)
    time.sleep(1.7)
    assert not (tmp_path / 'late').exists()


@pytest.mark.parametrize(
    'output, returncode, sentence',
    [
        (
            'Failed to establish a new connection: [Errno -3] Temporary failure in name resolution',
            1,
            'check the network',
        ),
        (
            'WARNING: Retrying ... NewConnectionError\nERROR: No matching distribution found for timm',
            1,
            'check the network',
        ),
        ('OSError: [Errno 28] No space left on device', 1, 'the disk is full'),
        ("fatal error: Python.h: No such file or directory\nerror: command 'g++' failed", 1, 'python3.11-dev'),
        ('g++: fatal error: Killed signal terminated program cc1plus', 1, 'MAX_JOBS=1'),
        ('', -9, 'MAX_JOBS=1'),
        ("error: command 'g++' failed: No such file or directory", 1, 'apt-get install g++'),
        ('something else', 7, 'status 7'),
    ],
)
def test_explain__says_what_to_do(output, returncode, sentence):
    error = commands.explain(CommandFailed(returncode, output), 'step 6 (ops)', 'python3.11')
    assert str(error).startswith('step 6 (ops) failed: ')
    assert sentence in str(error)


def test_end_group__deaf_process_is_killed():
    deaf = 'import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print("up", flush=True); time.sleep(60)'
    process = subprocess.Popen([sys.executable, '-c', deaf], start_new_session=True, stdout=subprocess.PIPE)
    process.stdout.readline()
    start = time.monotonic()
    commands.end_group(process, patience=0.3)
    assert process.returncode == -9
    assert time.monotonic() - start < 10
