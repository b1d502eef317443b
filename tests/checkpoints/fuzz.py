"""Mutates checkpoint files thousands of times and reads them: `python tests/checkpoints/fuzz.py [COUNT] [SEED]`.

Every mutation must either be refused (CheckpointError), or give the content of the original bit for bit. Mutations are
of three kinds: bytes anywhere (flipped, cut, repeated, zeroed, inserted); bytes of the pickle inside with all checksums
made right again, so that they reach the unpickler; pickles of opcodes in random order. The last two may give other
content, but must run nothing, and end in time. Readings are done in a process of their own, so that a crash is noticed.
"""

import io
import os
import random
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import torch

REPO = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPO)]

from mmengine.logging import HistoryBuffer  # noqa: E402

from mixedae.checkpoints import CheckpointError, read_file  # noqa: E402

SECONDS = 20.0
"""A reading that takes longer than this hangs."""


def original():
    """A training checkpoint with everything that one may hold."""
    generator = torch.Generator().manual_seed(0)
    return {
        'meta': dict(epoch=1, iter=10, seed=0, cfg='a = 1\n'),
        'state_dict': {f'w{k}': torch.randn(7 + k, 5, generator=generator) for k in range(4)},
        'optimizer': dict(state={0: dict(step=torch.tensor(3.0), exp_avg=torch.randn(9, generator=generator))}),
        'message_hub': dict(
            log_scalars={'train/loss': HistoryBuffer([1.0, 2.0], [1, 1])}, runtime_info=dict(x=np.float64(3))
        ),
    }


def same(a, b):
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
    if isinstance(a, HistoryBuffer):
        pairs = [(vars(a).get(name), vars(b).get(name)) for name in ('_log_history', '_count_history')]
        return all(isinstance(x, np.ndarray) and isinstance(y, np.ndarray) and same(x, y) for x, y in pairs)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.tobytes() == b.tobytes()
    try:
        return bool(a == b)
    except Exception:  # made of pieces that do not compare
        return False


def mutate_bytes(content, rng):
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 8])):
        if not content:
            break
        at = rng.randrange(len(content))
        kind = rng.randrange(6)
        length = rng.choice([1, 4, 64, 1024])
        if kind <= 1:
            content[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del content[at:]
        elif kind == 3:
            content[at : at + length] = bytes(length)
        elif kind == 4:
            content[at:at] = rng.randbytes(length)
        else:
            content[at:at] = content[at : at + length]
    return bytes(content)


def repacked(content, change):
    """The same zip file with one record's bytes changed and all checksums right."""
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(result, 'w', zipfile.ZIP_STORED) as new:
        for record in old.infolist():
            data = old.read(record)
            new.writestr(record.filename, change(data) if record.filename.endswith('data.pkl') else data)
    return result.getvalue()


NAMES = (
    'os system',
    'builtins eval',
    'builtins getattr',
    'torch._utils _rebuild_tensor_v2',
    'torch FloatStorage',
    'collections OrderedDict',
    'numpy.core.multiarray _reconstruct',
    'numpy ndarray',
    'mmengine.logging HistoryBuffer',
    'torch.serialization load',
    'argparse Namespace',
)
PLAIN = [bytes([code]) for code in b'()}]NRbtusQ\x85\x86\x87\x81ae0'] + [b'X\x04\x00\x00\x00code']
WITH_BYTES = [(b'K', 1), (b'q', 1), (b'h', 1), (b'J', 4), (b'r', 4), (b'\x8a\x04', 4)]


def opcodes(rng):
    """A pickle of random opcodes with random arguments, names of dangerous functions among them."""
    parts = [b'\x80\x02']
    for _ in range(rng.randrange(2, 40)):
        kind = rng.randrange(3)
        if kind == 0:
            parts.append(b'c%s\n' % rng.choice(NAMES).replace(' ', '\n').encode())
        elif kind == 1:
            parts.append(rng.choice(PLAIN))
        else:
            code, length = rng.choice(WITH_BYTES)
            parts.append(code + rng.randbytes(length))
    return b''.join(parts) + b'.'


def read_all(folder, count, seed, progress):
    """Reads ``count`` mutations: how many were refused, were the same, were other; says in a file how far it is."""
    rng = random.Random(seed)
    truth = original()
    buffer = io.BytesIO()
    torch.save(truth, buffer)
    content = buffer.getvalue()
    path = folder / 'mutated.pth'
    counts = dict(refused=0, same=0, other=0)
    for number in range(count):
        kind = number % 4
        if kind < 2:
            mutated = mutate_bytes(content, rng)
        elif kind == 2:
            mutated = repacked(content, lambda data: mutate_bytes(data, rng))
        else:
            mutated = repacked(content, lambda data: opcodes(rng))
        path.write_bytes(mutated)
        progress.write_text(f'{number}')
        try:
            found = read_file(path)
        except CheckpointError as error:
            assert 'mutated.pth' in str(error)
            counts['refused'] += 1
            continue
        if same(found, truth):
            counts['same'] += 1
            continue
        assert kind >= 2, f'mutation {number} of seed {seed} gave other content without a word'
        counts['other'] += 1
    return counts


def fuzz(count, seed=0):
    """Runs :func:`read_all` in a process of its own; its counts.

    Raises:
        AssertionError: a crash, a reading that hangs, another error than CheckpointError, or other content.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        progress, result = folder / 'progress', folder / 'result'
        progress.write_text('-1')
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            try:
                torch.set_num_threads(1)
                os.chdir(folder)
                result.write_text(repr(read_all(folder, count, seed, progress)))
                os._exit(0)
            except BaseException:
                import traceback

                result.write_text(traceback.format_exc())
                os._exit(1)
        last, since = '', time.monotonic()
        while True:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                break
            now = progress.read_text()
            if now != last:
                last, since = now, time.monotonic()
            if time.monotonic() - since > SECONDS:
                os.kill(pid, 9)
                os.waitpid(pid, 0)
                raise AssertionError(f'reading mutation {last} of seed {seed} hangs')
            time.sleep(0.02)
        said = result.read_text() if result.exists() else ''
        assert os.waitstatus_to_exitcode(status) == 0, (
            f'mutation {progress.read_text()} of seed {seed}: {status}\n{said}'
        )
        return eval(said)


if __name__ == '__main__':
    began = time.monotonic()
    total = fuzz(int(sys.argv[1]) if len(sys.argv) > 1 else 5000, int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    print(f'{total}, {time.monotonic() - began:.1f} s')
