"""Average precision of written detections, not rounded.

    python -m tools.reproduce_parts.precision ANNOTATIONS PREFIX --out FILE

mmdet's CocoMetric rounds to a tenth of a per cent, which is as much as a short run on few images reaches. This reads
what it wrote (PREFIX.bbox.json and, with masks, PREFIX.segm.json; its `outfile_prefix`) and asks pycocotools once more.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.reproduce_parts.running import write_json

KINDS = {'bbox': 'box', 'segm': 'mask'}


def precision(annotations: Path, prefix: Path) -> dict[str, float]:
    """`box`, `box50` and, with masks, `mask`, `mask50`: AP at IoU .50:.95 and at .50, in 0..1.

    Raises:
        FileNotFoundError: no detections of boxes were written under this prefix.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    found: dict[str, float] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        for kind, name in KINDS.items():
            file = prefix.with_name(f'{prefix.name}.{kind}.json')
            if not file.is_file():
                if kind == 'bbox':
                    raise FileNotFoundError(f'{file}: no detections; did the test set outfile_prefix={prefix}?')
                continue
            detections = json.loads(file.read_text(encoding='utf-8'))
            if not detections:  # loadRes cannot read an empty list
                found.update({name: 0.0, f'{name}50': 0.0})
                continue
            for detection in detections if kind == 'segm' else ():
                detection.pop('bbox', None)  # else areas would be those of the boxes
            scored = COCOeval(truth, truth.loadRes(detections), kind)
            scored.evaluate()
            scored.accumulate()
            table = scored.eval['precision'][:, :, :, 0, -1]  # IoU x recall x class; all areas, 100 detections an image
            for key, part in ((name, table), (f'{name}50', table[:1])):
                known = part[part > -1]
                found[key] = float(known.mean()) if known.size else 0.0
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('annotations', type=Path)
    parser.add_argument('prefix', type=Path)
    parser.add_argument('--out', type=Path, required=True)
    args = parser.parse_args(arguments)
    found = precision(args.annotations, args.prefix)
    write_json(args.out, found)
    print(json.dumps(found))
    return 0


if __name__ == '__main__':
    sys.exit(main())
