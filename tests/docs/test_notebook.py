"""The notebook runs from its first cell to its last, in a process of its own, at the small size that it documents."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / 'notebooks' / 'scenes_to_detector.ipynb'

RUN = """
import json, sys
names = {'__name__': '__main__'}
for number, cell in enumerate(json.load(open(sys.argv[1], encoding='utf-8'))['cells']):
    if cell['cell_type'] == 'code':
        exec(compile(''.join(cell['source']), f'cell {number}', 'exec'), names)
print('RESULT ' + json.dumps({
    'metrics': names['metrics'],
    'patches_of_each_image': names['mask'][0].bincount(minlength=4).tolist(),
    'crops': len(names['dataset']),
    'decoded': [list(image.shape) for image in names['decoded']],
    'pictures': len(names['row']),
}))
"""


@pytest.fixture(scope='module')
def cells():
    notebook = json.loads(NOTEBOOK.read_text(encoding='utf-8'))
    assert (notebook['nbformat'], notebook['nbformat_minor']) == (4, 5)
    return notebook['cells']


def test_notebook__is_kept_without_outputs(cells):
    """What it shows is made by the code at hand, whoever opens it; and changes of it can be read."""
    assert len({cell['id'] for cell in cells}) == len(cells)
    for cell in cells:
        if cell['cell_type'] == 'code':
            assert cell['outputs'] == [] and cell['execution_count'] is None


def test_notebook__names_files_that_are_there(cells):
    text = ''.join(''.join(cell['source']) for cell in cells)
    named = set(re.findall(r'\b((?:mmcfg|tools|docs)/[\w./-]*\w)', text))
    assert len(named) >= 5
    assert all((ROOT / name).exists() for name in named)


def test_notebook__runs_from_scenes_to_predictions(tmp_path):
    pytest.importorskip('mmcv.ops', reason="a detector needs mmcv's ops", exc_type=ImportError)
    environment = {
        **os.environ,
        'MIXEDAE_SMALL': '1',
        'MIXEDAE_OUT': str(tmp_path / 'out'),
        'MIXEDAE_DATA': '',
        'MPLBACKEND': 'Agg',
        'OMP_NUM_THREADS': '1',
    }
    run = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', RUN, str(NOTEBOOK)],
        cwd=NOTEBOOK.parent,  # where Jupyter starts it
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    result = json.loads(re.search(r'^RESULT (.*)$', run.stdout, flags=re.M).group(1))
    assert result['patches_of_each_image'] == [16] * 4  # of 8 x 8
    assert result['crops'] > 8
    assert result['decoded'] == [[128, 128, 3]] * 4
    assert result['pictures'] == 6
    assert 0 <= result['metrics']['coco/bbox_mAP'] <= 1 and 0 <= result['metrics']['coco/segm_mAP'] <= 1
    log = run.stdout + run.stderr
    assert re.search(r'Iter\(train\)\s*\[4/4\].*loss_recon: \d', log)
    assert re.search(r'Iter\(train\)\s*\[3/3\].*loss_mask: \d', log)
    # all weights of a ViT of 12 blocks: 12 in each, patch embedding, [CLS], positions, final LayerNorm
    assert re.search(r'iter_4\.pth: mixedae pre-training, 150 weights loaded', log)
    assert (tmp_path / 'out' / 'detector' / 'iter_3.pth').is_file()
