"""Compiled code without a place for its cache, and without numba."""

import subprocess
import sys

from numba import int64

from object_aware.compiling import entry, sources_hash


def test_entry__works_where_nothing_can_be_cached():
    scope = {}
    exec('def twice(x):\n    return 2 * x', scope)  # numba finds no file that its cache could belong to
    assert entry(int64(int64))(scope['twice'])(21) == 42


def test_sources_hash__depends_on_the_files():
    assert sources_hash('runs') == sources_hash('runs') != sources_hash('runs', 'shapes')


def test_compiling__without_numba_is_one_sentence(repo):
    code = (
        'import sys; sys.modules["numba"] = None\n'
        'import object_aware.windows as windows\n'
        'try:\n    windows.prepare()\n'
        'except ImportError as error:\n    print(error)\n'
    )
    run = subprocess.run([sys.executable, '-c', code], cwd=repo, capture_output=True, text=True, check=True)
    assert run.stdout.startswith('Windows are found by compiled code, which needs numba, but numba cannot be imported')
    assert run.stdout.strip().endswith('(pip install numba).') and run.stdout.count('\n') == 1
