"""kNN and linear probe of a checkpoint on labelled images, frozen.

    python -m tools.reproduce_parts.probe CONFIG CHECKPOINT DIR --out FILE

DIR holds train/<class>/ and val/<class>/. The encoder attends globally, as after transfer; features are [CLS] and the
mean of the patches, after the last LayerNorm.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.reproduce_parts.running import write_json


def probe(config: Path, checkpoint: Path, folder: Path, counts: tuple[int, int]) -> dict[str, float]:
    """Accuracies in 0..1 of kNN and linear probe for both kinds of features."""
    from mixedae.analysis import frozen_features, knn_accuracy, labelled_batches, linear_probe, load_model
    from mixedae.engine.classification import LabelledImages

    model = load_model(config, checkpoint)
    size = model.encoder.img_size[0]
    sets = [
        frozen_features(model, labelled_batches(LabelledImages(folder / split, size, train=False), count=n))
        for split, n in zip(('train', 'val'), counts)
    ]
    found = {}
    for kind in sets[0].features:
        data = (sets[0].features[kind], sets[0].labels, sets[1].features[kind], sets[1].labels)
        found[f'knn_{kind}'] = knn_accuracy(*data)
        found[f'linear_{kind}'] = linear_probe(*data).accuracy
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', type=Path)
    parser.add_argument('checkpoint', type=Path)
    parser.add_argument('folder', type=Path)
    parser.add_argument('--count', type=int, nargs=2, default=(2000, 1000), help='images of train and val at most')
    parser.add_argument('--out', type=Path, required=True)
    args = parser.parse_args(arguments)
    found = probe(args.config, args.checkpoint, args.folder, tuple(args.count))
    write_json(args.out, found)
    print(json.dumps(found))
    return 0


if __name__ == '__main__':
    sys.exit(main())
