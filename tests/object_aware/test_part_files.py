"""Finished pieces in a folder, and work spread over processes and threads."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from object_aware.digests import BLOCK, digest_of
from object_aware.parallel import ordered_map, ordered_threads
from object_aware.part_files import PartFiles


def test_part_files__keep_pieces_of_their_key_alone(tmp_path):
    folder = tmp_path / 'deep' / 'parts'
    parts = PartFiles(folder, 'one')
    assert len(parts) == 0 and parts.get('a') is None and not folder.exists()
    parts.put('a', dict(x=np.arange(3)), dict(s='text'))
    columns, strings = PartFiles(folder, 'one').get('a')
    np.testing.assert_array_equal(columns['x'], [0, 1, 2])
    assert strings == dict(s='text')
    assert len(PartFiles(folder, 'two')) == 0 and not folder.exists()


def test_part_files__a_damaged_piece_is_none(tmp_path):
    parts = PartFiles(tmp_path / 'parts', 'one')
    parts.put('a', dict(x=np.arange(30)), {})
    (file,) = (tmp_path / 'parts').glob('a*')
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    assert parts.get('a') is None
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert parts.get('a') is None
    file.write_bytes(whole)
    assert parts.get('a') is not None


def test_part_files__remove_leaves_other_files(tmp_path):
    folder = tmp_path / 'parts'
    parts = PartFiles(folder, 'one')
    parts.put('a', dict(x=np.arange(3)), {})
    (folder / 'mine.txt').write_text('mine')
    parts.remove()
    assert [file.name for file in folder.iterdir()] == ['mine.txt']


def square(shared, task):
    if task == 'die':
        os._exit(3)
    return shared + task * task, os.getpid()


@pytest.mark.parametrize('start_method', ['fork', 'spawn'])
def test_ordered_map__order_and_processes(start_method):
    found = list(ordered_map(square, iter(range(20)), workers=2, shared=5, start_method=start_method))
    assert [value for value, _ in found] == [5 + k * k for k in range(20)]
    assert os.getpid() not in {pid for _, pid in found}
    assert [pid for _, pid in ordered_map(square, [1, 2], workers=1, shared=0)] == [os.getpid()] * 2


def test_ordered_map__a_process_that_was_killed():
    with pytest.raises(RuntimeError, match='worker process ended before its work was done'):
        list(ordered_map(square, [1, 'die', 2], workers=2, shared=0))


SLEEPERS = """
import os, time
from object_aware.parallel import ordered_map
def sleep(shared, task):
    os.write(1, b'%d\\n' % os.getpid())  # whole lines: a print of two processes can interleave
    time.sleep(300)
list(ordered_map(sleep, [1, 2], workers=2, shared=None, start_method='fork'))
"""


@pytest.mark.skipif(not Path('/proc/self/stat').exists(), reason='the system does not list processes in /proc')
def test_ordered_map__processes_end_when_the_main_process_is_killed(repo):
    main = subprocess.Popen([sys.executable, '-c', SLEEPERS], stdout=subprocess.PIPE, text=True, cwd=repo)
    workers = [int(main.stdout.readline()) for _ in range(2)]
    assert all(running(worker) for worker in workers)
    main.kill()
    main.wait()
    deadline = time.monotonic() + 60
    while any(running(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(running(worker) for worker in workers)


def running(pid):
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except OSError:
        return False


def test_ordered_map__an_error_comes_out():
    with pytest.raises(TypeError):
        list(ordered_map(square, [1, 'word'], workers=2, shared=0))


def test_ordered_threads__order_and_few_ahead():
    drawn = []

    def tasks():
        for k in range(50):
            drawn.append(k)
            yield k

    results = ordered_threads(lambda k: (k, threading.get_ident()), tasks(), workers=2)
    assert next(results)[0] == 0
    assert len(drawn) < 10  # not all tasks are drawn before the first result is taken
    rest = list(results)
    assert [k for k, _ in rest] == list(range(1, 50))
    assert threading.get_ident() not in {thread for _, thread in rest}


def test_digest_of__files_and_folders(tmp_path):
    (tmp_path / 'x' / 'y').mkdir(parents=True)
    (tmp_path / 'x' / 'a').write_bytes(b'1')
    first = digest_of(tmp_path / 'x')
    (tmp_path / 'x' / 'y' / 'b').write_bytes(b'2')
    second = digest_of(tmp_path / 'x')
    (tmp_path / 'x' / 'y' / 'b').rename(tmp_path / 'x' / 'y' / 'c')
    assert len({first, second, digest_of(tmp_path / 'x'), digest_of(tmp_path / 'x' / 'a')}) == 4
    large = tmp_path / 'large'
    large.write_bytes(bytes(2 * BLOCK + 5))
    one = digest_of(large)
    with open(large, 'r+b') as file:
        file.seek(BLOCK + 3)
        file.write(b'x')
    assert digest_of(large) != one
