"""Figures that pages repeat are those of the raw results beside them."""

import json
from pathlib import Path

from tools.reproduce_parts import tables
from tools.reproduce_parts.claims import by_seed
from tools.reproduce_parts.variants import VARIANTS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / 'docs'
RESULTS = json.loads((DOCS / 'images' / 'results.json').read_text(encoding='utf-8'))
COLUMNS = {
    'CamVid, fine-tuned': 'camvid_miou',
    'ADE20K, fine-tuned': 'ade_miou',
    'persons, box AP': 'person_box',
    'CamVid': 'dense_camvid',
    'ADE20K': 'dense_ade',
    'linear probe': 'linear_mean',
    'kNN': 'knn_mean',
}


def rows_after(page, head):
    """Cells of the table that begins with this line, without bold face."""
    lines = page.read_text(encoding='utf-8').splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(head))
    for line in lines[start + 2 :]:
        if not line.startswith('|'):
            return
        yield [cell.strip().replace('**', '') for cell in line.strip('|').split('|')]


def test_readme__table_is_that_of_the_results():
    head = '| pre-training | ' + ' | '.join(COLUMNS) + ' |'
    variants = {variant.title: name for name, variant in VARIANTS.items()}
    rows = list(rows_after(ROOT / 'README.md', head))
    for title, *cells in rows:
        for measure, cell in zip(COLUMNS.values(), cells, strict=True):
            values = list(by_seed(RESULTS['runs'], variants[title], measure).values())
            expected = tables.cell(values, tables.digits_of(RESULTS['runs'], measure))
            assert cell == expected.removesuffix(' (3)'), (title, measure)
    measured = {run['title'] for run in RESULTS['runs'] if 'dense_camvid' in run['metrics']}
    assert {row[0] for row in rows} == measured, 'no row that was measured is left out'


def test_results_page__is_that_of_the_raw_figures():
    text = (DOCS / 'results.md').read_text(encoding='utf-8')
    assert tables.page(RESULTS).strip() in text


def test_method_page__topk_accuracy_by_layer():
    measured = json.loads((DOCS / 'images' / 'topk_layers_photographs.json').read_text(encoding='utf-8'))['models']
    shown = {
        'with contrastive loss': 'with contrastive loss',
        'the same model, segment embedding left out when measuring': 'with contrastive loss, segments left out',
        'with contrastive loss, trained with `segment_embed=False`': 'with it, no segment embedding',
        'without contrastive loss (`contrastive_weight=0`)': 'without contrastive loss',
    }
    rows = {cells[0]: cells[1:13] for cells in rows_after(DOCS / 'method.md', '| TopK accuracy, %')}
    assert rows.keys() == shown.keys()
    for title, name in shown.items():
        assert rows[title] == [f'{100 * layer["topk_acc"]:.0f}' for layer in measured[name]['layers']], title
