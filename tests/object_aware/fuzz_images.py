"""Mutated image files through the whole crop path, in processes of their own.

    .venv/bin/python tests/object_aware/fuzz_images.py --cases 20000 --seed 1

Each case takes a small sound file (several kinds of JPEG and PNG), changes its bytes, and makes a crop twice: the usual
way, and with the file treated as one that is decoded whole. Allowed: the crop is refused (ImageError), or it is exactly
that of Pillow's ordinary decoding of the same bytes, where the file is cut, of what Pillow makes of the part that is
there. A crash, a hang, another exception, or other pixels is a finding.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from object_aware.pixels import ImageError, crop, open_image  # noqa: E402
from object_aware.resizing import resize_window  # noqa: E402

LARGEST = 1 << 24  # pixels that Pillow is asked to decode
OUT = (24, 20)


def sound_files() -> dict[str, bytes]:
    """Small files of the kinds that matter."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[0:93, 0:121]
    waves = np.stack([127 + 100 * np.sin(x / 7 + y / 13), 255 * x / 121, 127 + 90 * np.cos(y / 5 - x / 17)], axis=2)
    picture = Image.fromarray(np.clip(waves + rng.normal(0, 12, waves.shape), 0, 255).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = {
        '420.jpg': dict(quality=85),
        '444.jpg': dict(quality=95, subsampling=0),
        '422.jpg': dict(quality=60, subsampling=1, optimize=True),
        'restart.jpg': dict(quality=80, restart_marker_blocks=3),
        'progressive.jpg': dict(quality=80, progressive=True),
        'exif.jpg': dict(quality=80, exif=exif),
    }
    files = {}
    for name, options in kinds.items():
        buffer = io.BytesIO()
        picture.save(buffer, 'JPEG', **options)
        files[name] = buffer.getvalue()
    for name, mode in [
        ('grey.jpg', 'L'),
        ('cmyk.jpg', 'CMYK'),
        ('rgb.png', 'RGB'),
        ('palette.png', 'P'),
        ('la.png', 'LA'),
    ]:
        buffer = io.BytesIO()
        picture.convert(mode).save(buffer, 'JPEG' if name.endswith('jpg') else 'PNG')
        files[name] = buffer.getvalue()
    return files


def mutate(data: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """A damaged copy, and what was done."""
    changed = bytearray(data)
    head = min(700, len(data))
    how = ['flip', 'byte', 'head', 'cut', 'insert', 'delete', 'repeat', 'zero', 'swap'][rng.integers(9)]
    at = int(rng.integers(len(data)))
    length = int(rng.integers(1, 40))
    if how == 'flip':
        for _ in range(rng.integers(1, 9)):
            changed[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    elif how == 'byte':
        for _ in range(rng.integers(1, 5)):
            changed[rng.integers(len(data))] = int(rng.integers(256))
    elif how == 'head':
        for _ in range(rng.integers(1, 4)):
            changed[rng.integers(2, head)] = int(rng.choice([0, 1, 2, 16, 127, 128, 254, 255, rng.integers(256)]))
    elif how == 'cut':
        del changed[at:]
    elif how == 'insert':
        changed[at:at] = rng.bytes(length)
    elif how == 'delete':
        del changed[at : at + length]
    elif how == 'repeat':
        changed[at:at] = changed[at : at + length * 8]
    elif how == 'zero':
        changed[at : at + length] = bytes(len(changed[at : at + length]))
    else:
        other = int(rng.integers(len(data)))
        changed[at : at + length], changed[other : other + length] = (
            changed[other : other + length],
            changed[at : at + length],
        )
    return bytes(changed), how


def oracle(data: bytes, window: np.ndarray, upright: bool, truncated: bool) -> np.ndarray | None:
    """The crop by Pillow's decoding of all pixels; None if it refuses."""
    from PIL import ImageOps

    from object_aware.decoding import to_rgb

    ImageFile.LOAD_TRUNCATED_IMAGES = truncated
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            image = Image.open(io.BytesIO(data))
            image.load()
            pixels = np.ascontiguousarray(np.asarray(to_rgb(ImageOps.exif_transpose(image) if upright else image)))
    except Exception:
        return None
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    if window[2] > pixels.shape[1] or window[3] > pixels.shape[0]:
        return None
    out = np.empty((3, *OUT), dtype=np.uint8)
    resize_window(pixels, *(float(c) for c in window), False, out)
    return out


def one(case: int, seed: int, files: dict[str, bytes], folder: Path) -> list[tuple[str, str]]:
    """(outcome, details) of the two ways of a case; outcomes that begin with 'FINDING' are faults."""
    rng = np.random.default_rng((seed, case))
    name = list(files)[case % len(files)]
    data, how = mutate(files[name], rng)
    path = folder / f'case{name[-4:]}'
    path.write_bytes(data)
    try:
        opened = open_image(path)
    except ImageError:
        return [('refused at opening', how)] * 2
    width, height = opened.size
    side = np.minimum(rng.uniform(10, 40, 2), (width, height))
    corner = rng.uniform(0, 1, 2) * (np.array([width, height]) - side)
    if rng.random() < 0.3:  # near the origin, which a cut file still holds
        corner *= 0.1
    window = np.float32([*corner, *(corner + side)])
    window[2:] = np.minimum(window[2:], (width, height))
    upright = opened.orientation != 1
    results = []
    for way in (opened, opened._replace(layout=None)):
        try:
            found = crop(way, window, OUT)
        except ImageError:
            results.append(('refused', how))
            continue
        if width * height > LARGEST:
            results.append(('too large to compare', how))
            continue
        want = oracle(data, window, upright, truncated=False)
        if want is not None and np.array_equal(found, want):
            results.append(('as Pillow', how))
            continue
        part = oracle(data, window, upright, truncated=True)
        if part is not None and np.array_equal(found, part):
            results.append(('as Pillow of the part', how))
        elif np.array_equal(found, oracle(files[name], window, upright, truncated=False)):
            results.append(('as the sound file', how))
        else:
            worst = 999 if want is None else int(np.abs(found.astype(int) - want).max())
            results.append((f'FINDING: other pixels (by up to {worst}, {name})', how))
    return results


def child(first: int, last: int, seed: int) -> None:
    Image.MAX_IMAGE_PIXELS = LARGEST
    files = sound_files()
    with tempfile.TemporaryDirectory() as folder:
        for case in range(first, last):
            print(json.dumps([case, 'begin']), flush=True)
            try:
                results = one(case, seed, files, Path(folder))
            except Exception as error:
                results = [(f'FINDING: {type(error).__name__}: {error}', '')]
            print(json.dumps([case, results]), flush=True)


def fuzz(cases: int, seed: int, batch: int = 500, limit: float = 120.0, report=None) -> tuple[Counter, list[str]]:
    """Run cases in child processes; (how often each outcome, findings)."""
    outcomes: Counter = Counter()
    findings: list[str] = []
    first = 0
    while first < cases:
        last = min(first + batch, cases)
        command = [sys.executable, __file__, '--child', str(first), str(last), '--seed', str(seed)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
            output, status = done.stdout, done.returncode
        except subprocess.TimeoutExpired as error:
            output, status = (error.stdout or b'').decode(), 'hang'
        lines = [json.loads(line) for line in output.splitlines() if line.endswith(']')]
        for case, results in lines:
            if results == 'begin':
                continue
            for way, (outcome, how) in zip(('fast', 'whole'), results):
                outcomes[way, outcome.split(' (')[0]] += 1
                if outcome.startswith('FINDING'):
                    findings.append(f'case {case} {way} ({how}): {outcome}')
        first = last
        if status != 0:
            case = lines[-1][0] if lines else last - batch
            findings.append(f'case {case}: the process ended with {status}')
            first = case + 1
        if report is not None:
            report(first, cases)
    return outcomes, findings


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--cases', type=int, default=5000)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--child', type=int, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(*arguments.child, arguments.seed)
        sys.exit(0)
    start = time.monotonic()
    counted, found = fuzz(
        arguments.cases, arguments.seed, report=lambda k, n: print(f'{k} of {n} cases', file=sys.stderr)
    )
    for (way, outcome), count in sorted(counted.items()):
        print(f'{way:6}{count:8}  {outcome}')
    print(f'{arguments.cases} cases in {time.monotonic() - start:.0f} s, {len(found)} findings')
    print('\n'.join(found[:40]))
    sys.exit(1 if found else 0)
