"""What ended a run from outside, in one sentence: a dead worker, a dead process, a full disk, numbers gone wrong."""

from __future__ import annotations

import re
from typing import Any

from mixedae.engine.checkpoint_hook import CheckpointNotWritten
from mixedae.engine.files import explain_write_error
from mixedae.engine.finite import NotFinite

LOST = (
    'Connection closed by peer',
    'Connection reset by peer',
    'Broken pipe',
    'Connection refused',
    'NCCL',
    'imed out',
)
"""What gloo and NCCL say when another process is gone."""

WORKER = re.compile(
    r'DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is killed by signal: ([\w ]+)|exited unexpectedly)'
)


def explain_stop(error: BaseException, runner: Any) -> str | None:
    """One sentence for an error that is no fault of the program; None for all others, which keep their traceback."""
    last = runner.message_hub.runtime_info.get('last_ckpt')
    newest = f' The newest checkpoint is {last}; --resume goes on from it.' if last else ''
    text = str(error)
    if isinstance(error, (CheckpointNotWritten, NotFinite)):
        return f'{text}{newest}'
    worker = WORKER.search(text)
    if isinstance(error, RuntimeError) and worker:
        how = f'by the signal {worker.group(2).strip()}' if worker.group(2) else 'without a word'
        return (
            f'The loader process {worker.group(1)} was ended {how} at iteration {runner.iter + 1}; if the system did '
            f'it because memory ran out, lower train_dataloader.num_workers or batch_size.{newest}'
        )
    if isinstance(error, RuntimeError) and runner.world_size > 1 and any(word in text for word in LOST):
        return (
            f'Another process of this run is gone or does not answer (seen by process {runner.rank} at iteration '
            f'{runner.iter + 1}: {text.strip().splitlines()[0]}); its own log says why.{newest}'
        )
    if isinstance(error, OSError) and getattr(runner._train_loop, 'loader_error', None) is error:
        lines = text.strip().splitlines()  # from a loader process the text is a whole traceback
        reason = lines[-1] if lines else type(error).__name__
        return f'The training data could not be read at iteration {runner.iter + 1}: {reason}.{newest}'
    if isinstance(error, OSError) and error.errno is not None:
        return f'{explain_write_error(error, error.filename or runner.work_dir)}{newest}'
    return None
