"""Work in pieces over several processes, with results in order whatever the number of processes."""

from __future__ import annotations

import collections
import concurrent.futures
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any

_AHEAD = 3  # pieces per process that are under way or done and not yet taken


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def ordered_map(
    function: Callable[[Any, Any], Any],
    tasks: Iterable[Any],
    *,
    workers: int,
    shared: Any = None,
    start_method: str | None = None,
) -> Iterator[Any]:
    """``function(shared, task)`` for each task, in the order of the tasks.

    Args:
        function: of a module (workers import it by name).
        tasks: drawn as they are needed, so that few are in memory at once.
        workers: processes; with 0 or 1 everything is done in this process.
        shared: what every call needs; each process gets it once.
        start_method: of the processes: 'fork', 'spawn' or 'forkserver'; the platform's own if None.

    Raises:
        RuntimeError: a process was killed, most often for want of memory.
        Whatever ``function`` raises.
    """
    if workers <= 1:
        for task in tasks:
            yield function(shared, task)
        return
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, multiprocessing.get_context(start_method), initializer=_start, initargs=(function, shared)
    )
    try:
        yield from _in_order(pool, _call, tasks, workers)
    except BrokenProcessPool:
        raise RuntimeError(
            'A worker process ended before its work was done, most often because the machine is out of memory: '
            'use fewer workers.'
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def ordered_threads(function: Callable[[Any], Any], tasks: Iterable[Any], *, workers: int) -> Iterator[Any]:
    """``function(task)`` for each task, in the order of the tasks, for compiled work that needs no lock.

    Args:
        function: what is done.
        tasks: drawn as they are needed.
        workers: threads; with 0 or 1 everything is done in this one.
    """
    if workers <= 1:
        yield from map(function, tasks)
        return
    pool = concurrent.futures.ThreadPoolExecutor(workers)
    try:
        yield from _in_order(pool, function, tasks, workers)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _in_order(
    pool: concurrent.futures.Executor, function: Callable[[Any], Any], tasks: Iterable[Any], workers: int
) -> Iterator[Any]:
    waiting: collections.deque[concurrent.futures.Future] = collections.deque()
    for task in tasks:
        waiting.append(pool.submit(function, task))
        if len(waiting) >= _AHEAD * workers:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


_function: Callable[[Any, Any], Any] | None = None  # of a worker process
_shared: Any = None


def _start(function: Callable[[Any, Any], Any], shared: Any) -> None:
    global _function, _shared
    _function, _shared = function, shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which ends this one
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process when its parent is gone (killed), for nobody else would."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _call(task: Any) -> Any:
    return _function(_shared, task)
