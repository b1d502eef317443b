"""Mutated annotation files (COCO json, VOC xml) through the readers, in processes of their own.

    .venv/bin/python tests/object_aware/fuzz_annotations.py --cases 20000 --seed 1

Allowed: the file is refused with one sentence, or what is read equals what Python's json module and a few plain lines
make of the same bytes. A crash, a hang, another exception, or other boxes is a finding.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from object_aware.scenes import read_scenes  # noqa: E402

WIDTH, HEIGHT = 64, 48
TOKENS = [
    *(
        b'NaN',
        b'-1',
        b'null',
        b'"x"',
        b'1e999',
        b'-0.0',
        b'[]',
        b'{}',
        b'true',
        b'99999999999999999999',
        b'[[[[',
        b'\\u0000',
    ),
    *(b',', b'"', b'}', b']', b'"bbox": ', b'"image_id": 1', b'"id": 1, ', b'\xff\xfe', b'0', b'.', b'"iscrowd": 1, '),
]


def sound_json() -> bytes:
    """Six images with objects of every kind: polygons, both RLEs, a crowd, no mask."""
    draw = random.Random(3)
    images = [dict(id=k + 1, file_name=f'{k}.jpg', width=WIDTH, height=HEIGHT) for k in range(6)]
    objects = []
    for k in range(20):
        x, y, w, h = draw.uniform(0, 40), draw.uniform(0, 30), draw.uniform(2, 20), draw.uniform(2, 15)
        item = dict(id=k + 1, image_id=k % 6 + 1, category_id=k % 2 + 1, bbox=[round(v, 2) for v in (x, y, w, h)])
        if k % 4 == 0:
            item['segmentation'] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        elif k % 4 == 1:
            first = int(x) * HEIGHT + int(y)
            item['segmentation'] = dict(size=[HEIGHT, WIDTH], counts=[first, 9, HEIGHT * WIDTH - first - 9])
        item['iscrowd'] = int(k == 1)
        objects.append(item)
    categories = [dict(id=1, name='a'), dict(id=2, name='b')]
    return json.dumps(dict(info={}, images=images, annotations=objects, categories=categories)).encode()


def sound_xml() -> bytes:
    """One VOC file."""
    boxes = ''.join(
        f'<object><name>a</name><difficult>0</difficult><bndbox><xmin>{k + 1}</xmin><ymin>2</ymin><xmax>{k + 20}</xmax>'
        '<ymax>30</ymax></bndbox></object>'
        for k in range(3)
    )
    size = f'<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>'
    return f'<annotation><filename>0.jpg</filename>{size}{boxes}</annotation>'.encode()


def mutate(data: bytes, draw: random.Random) -> bytes:
    """One to four changes: bytes, tokens, cuts, parts doubled or moved."""
    text = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        if not text:
            break
        place = draw.randrange(len(text))
        end = min(place + draw.choice((1, 2, 8, 60, 400)), len(text))
        kind = draw.randrange(6)
        if kind == 0:
            text[place] = draw.randrange(256)
        elif kind == 1:
            text[place:end] = draw.choice(TOKENS)
        elif kind == 2:
            text[place:place] = draw.choice(TOKENS)
        elif kind == 3:
            del text[place:end]
        elif kind == 4:
            text[place:place] = text[place:end]
        else:
            digits = [k for k, byte in enumerate(text) if 48 <= byte < 58]
            if digits:
                text[draw.choice(digits)] = draw.choice(b'0123456789-.e')
    return bytes(text)


def plain_boxes(data: bytes) -> tuple[Counter, bool]:
    """(box by image name, whether every annotation has a box of its own), by Python's json module."""
    content = json.loads(data.decode('utf-8', 'replace'))  # a wrong byte in text that is not used does no harm
    images = {image['id']: image for image in content['images']}
    found: Counter = Counter()
    complete = True
    for item in content['annotations']:
        box = item.get('bbox')
        numbers = isinstance(box, list) and len(box) == 4 and all(type(v) in (int, float) for v in box)
        if not numbers or not all(map(math.isfinite, map(float, box))):
            complete = False
            continue
        x, y, w, h = map(float, box)
        image = images[item['image_id']]
        x1, y1 = min(max(x, 0), image['width']), min(max(y, 0), image['height'])
        x2, y2 = min(max(x + w, 0), image['width']), min(max(y + h, 0), image['height'])
        if w <= 0 or h <= 0 or x2 - x1 < 1e-3 or y2 - y1 < 1e-3:
            complete = complete and not (w > 0 and h > 0 and x2 > x1 and y2 > y1)  # hair-thin: either is right
            continue
        found[(str(image['file_name']).replace('\\', '/'), *(round(v, 2) for v in (x1, y1, x2, y2)))] += 1
    return found, complete


def judge(data: bytes, kind: str, folder: Path) -> str:
    """'refused', 'read', or what is wrong."""
    if kind == 'xml':
        (folder / 'xml').mkdir(exist_ok=True)
        (folder / 'xml' / '0.xml').write_bytes(data)
        source = folder / 'xml'
    else:
        source = folder / 'file.json'
        source.write_bytes(data)
    try:
        scenes = read_scenes([(source, folder)], check_files=False)
    except (ValueError, OSError) as error:
        return 'refused' if str(error).strip() and '\n' not in str(error).strip() else f'no sentence: {error!r}'
    except Exception as error:  # what the fuzzer looks for
        return f'{type(error).__name__}: {error}'
    if kind == 'xml':
        return 'read' if (scenes.boxes >= 0).all() else f'boxes {scenes.boxes}'
    try:
        expected, complete = plain_boxes(data)
    except json.JSONDecodeError:  # wrong in a part that is not used, or stands again later: only true boxes, then
        expected, complete = plain_boxes(sound_json())[0], None
    except Exception as error:
        return f'read, although a plain reader fails ({type(error).__name__}: {error})'
    names = [bytes(name).decode() for name in scenes.names]
    ours = Counter(
        (names[s], *(round(float(v), 2) for v in box)) for s, box in zip(scenes.scene_of.tolist(), scenes.boxes)
    )
    missing = (ours - expected) if complete is None else expected - ours
    if complete:
        missing += ours - expected
    close = all(
        any(a[0] == b[0] and max(abs(x - y) for x, y in zip(a[1:], b[1:])) < 0.02 for b in ours) for a in missing
    )
    return 'read' if not missing or close else f'other boxes: {list(missing)[:3]}'


def child(first: int, last: int, seed: int) -> None:
    """Runs cases and prints a line for each finding; the case is printed before it runs, for the one that crashes."""
    sound = {'json': sound_json(), 'xml': sound_xml()}
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        for case in range(first, last):
            draw = random.Random(f'{seed} {case}')
            kind = 'xml' if case % 5 == 4 else 'json'
            data = mutate(sound[kind], draw)
            print(f'case {case}', flush=True)
            verdict = judge(data, kind, Path(name))
            counts[verdict if verdict in ('refused', 'read') else 'finding'] += 1
            if verdict not in ('refused', 'read'):
                print(f'finding {case} {kind}: {verdict}', flush=True)
    print(json.dumps(counts), flush=True)


def run(cases: int, seed: int, batch: int = 500, seconds: float = 300) -> tuple[Counter, list[str]]:
    """(verdicts, findings) of so many cases, in child processes of ``batch`` cases."""
    counts: Counter[str] = Counter()
    findings = []
    for first in range(0, cases, batch):
        last = min(first + batch, cases)
        command = [sys.executable, __file__, '--child', str(first), str(last), '--seed', str(seed)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
            out, ended = done.stdout, done.returncode
        except subprocess.TimeoutExpired as error:
            out, ended = (error.stdout or b'').decode(), 'a hang'
        lines = out.splitlines()
        findings += [line for line in lines if line.startswith('finding')]
        if ended == 0:
            counts.update(json.loads(lines[-1]))
        else:
            findings.append(f'{ended} after {lines[-1] if lines else "nothing"}: {done.stderr[-500:]}')
        print(f'{last} of {cases}: {dict(counts)}, {len(findings)} findings', file=sys.stderr)
    return counts, findings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--cases', type=int, default=2000)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--child', type=int, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(*args.child, args.seed)
        return 0
    counts, findings = run(args.cases, args.seed)
    print(dict(counts), *findings, sep='\n')
    return 1 if findings else 0


if __name__ == '__main__':
    sys.exit(main())
