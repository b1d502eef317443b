"""model-index.yml and the metafiles: every config once, as it is, with the paper's numbers marked as the paper's."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mixedae.engine.configs import read_config
from tools import get_flops, model_index

ROOT = Path(__file__).resolve().parents[2]
TRAINED_BY_DEMO = {
    'mixedae_vit-tiny-p16_crops-128',
    'mixedae_vit-tiny-p16_mask-rcnn_coco-format',
    'mixedae_vit-tiny-p16_upernet_label-maps',
}


def read(path):
    return yaml.safe_load((ROOT / path).read_text(encoding='utf-8'))


@pytest.fixture(scope='module')
def metafiles():
    return [read(path) for path in read('model-index.yml')['Import']]


@pytest.fixture(scope='module')
def models(metafiles):
    return {model['Name']: model for metafile in metafiles for model in metafile['Models']}


def test_models__every_config_is_listed_once(metafiles):
    listed = [model['Config'] for metafile in metafiles for model in metafile['Models']]
    there = [path.relative_to(ROOT).as_posix() for path in (ROOT / 'mmcfg').rglob('*.py') if '_base_' not in path.parts]
    assert sorted(listed) == sorted(there)
    names = [model['Name'] for metafile in metafiles for model in metafile['Models']]
    assert len(set(names)) == len(names)


def test_models__have_what_openmim_and_papers_with_code_read(metafiles, models):
    collections = {c['Name']: c for metafile in metafiles for c in metafile.get('Collections', ())}
    for collection in collections.values():
        assert collection['Paper']['URL'].startswith('https://arxiv.org/abs/') and collection['Paper']['Title']
        assert (ROOT / collection['README']).is_file()
        assert collection['Metadata']['Architecture'] == ['Vision Transformer']
    for name, model in models.items():
        assert {'Name', 'In Collection', 'Config', 'Metadata', 'Results', 'Weights'} <= set(model), name
        assert model['In Collection'] in collections
        assert Path(model['Config']).stem == name
        metadata = model['Metadata']
        assert isinstance(metadata['Parameters'], int) and metadata['Parameters'] > 1e6
        assert ('Epochs' in metadata) != ('Iterations' in metadata)
        assert metadata['Batch Size'] > 0 and metadata['Training Data']
        assert all(other in models for other in model.get('Downstream', ()))


def test_models__no_row_claims_results_or_weights_that_we_do_not_have(models):
    for name, model in models.items():
        ours = name in model_index.OUR_RESULTS
        assert (model['Results'] is not None) == ours and model['Weights'] is None
        who = 'by us, once' if ours else 'by `make demo`' if name in TRAINED_BY_DEMO else 'not by us'
        assert model['Metadata']['Trained'].startswith(who)


def test_models__our_results_are_those_of_the_docstring_and_the_docs(models):
    table = (ROOT / 'docs' / 'transfer.md').read_text(encoding='utf-8')
    for name in model_index.OUR_RESULTS:
        (row,) = (line for line in table.splitlines() if line.startswith('|') and name in line)
        docstring = ast.get_docstring(ast.parse((ROOT / models[name]['Config']).read_text(encoding='utf-8')))
        numbers = [f'{v:.1f}' for result in models[name]['Results'] for v in result['Metrics'].values()]
        assert len(numbers) >= 2
        for text in (row, docstring):
            assert all(re.search(rf'(?<![\d.]){re.escape(number)}(?![\d.])', text) for number in numbers), name


def test_models__numbers_of_the_paper_stand_under_their_pretraining(models):
    found = {
        (re.search(r'full|\d+e', name)[0], result['Dataset'], metric): (value, (result.get('Metrics of MAE') or {}))
        for name, model in models.items()
        for result in model['Metadata'].get('Numbers of the Paper', ())
        for metric, value in result['Metrics'].items()
    }
    assert found == {
        ('1600e', 'ImageNet-1k', 'Top 1 Accuracy'): (83.9, {'Top 1 Accuracy': 83.6}),
        ('1600e', 'ADE20K', 'mIoU'): (49.8, {'mIoU': 48.1}),
        ('800e', 'ADE20K', 'mIoU'): (48.7, {}),
        ('full', 'ImageNet-1k', 'Top 1 Accuracy'): (83.7, {}),
        ('300e', 'COCO 2017', 'box AP over MAE'): (0.6, {}),
        ('800e', 'COCO 2017', 'box AP over MAE'): (0.9, {}),
        ('1600e', 'COCO 2017', 'box AP over MAE'): (0.9, {}),
        ('300e', 'COCO 2017', 'mask AP over MAE'): (0.5, {}),
        ('800e', 'COCO 2017', 'mask AP over MAE'): (0.6, {}),
        ('1600e', 'COCO 2017', 'mask AP over MAE'): (0.7, {}),
    }
    for name, model in models.items():
        if 'Numbers of the Paper' in model['Metadata']:
            assert 'vit-base' in name and model['Downstream']


def test_models__are_those_of_the_configs(models):
    """If this fails: `python tools/model_index.py` writes the files anew."""
    pytest.importorskip('mmcv.ops', reason="detectors need mmcv's ops", exc_type=ImportError)
    for folder in model_index.FOLDERS:
        for path in model_index.configs(folder):
            expected = model_index.entry(path)
            expected['Metadata'] = {**model_index.sizes(path), **expected['Metadata']}
            assert models[path.stem] == expected


def test_page__is_that_of_the_metafiles():
    """If this fails: `python tools/model_index.py` writes it anew."""
    listed = {folder: read(f'mmcfg/{folder}/metafile.yml')['Models'] for folder in model_index.FOLDERS}
    text = (ROOT / 'docs' / 'models.md').read_text(encoding='utf-8')
    assert text == model_index.page(listed)
    assert text.count('| not trained |') + text.count('| demo |') + len(model_index.OUR_RESULTS) == sum(
        map(len, listed.values())
    )
    row = next(
        line for line in text.splitlines() if line.startswith('| `mixedae_vit-base-p16_8xb512-amp-coslr-1600e_in1k`')
    )
    assert '| not trained | ImageNet-1k, fine-tuned for 100 epochs: Top 1 Accuracy 83.9 (83.6); ADE20K, UPerNet' in row


@pytest.mark.parametrize('name', ['mixedae_vit-tiny-p16_8xb512-amp-coslr-300e_in1k', 'mixedae_vit-tiny-p16_crops-128'])
def test_models__sizes_are_those_that_get_flops_prints(models, name):
    text = '\n'.join(get_flops.report(str(ROOT / models[name]['Config']), None, kept=False))
    total, parameters = (re.search(rf'^  {row} +([\d.]+)', text, flags=re.M)[1] for row in ('total', 'parameters'))
    assert float(total) == pytest.approx(models[name]['Metadata']['FLOPs'] / 1e9, abs=5e-4)
    assert float(parameters) == pytest.approx(models[name]['Metadata']['Parameters'] / 1e6, abs=5e-3)


def test_models__known_sizes(models):
    def parameters(name):
        return models[name]['Metadata']['Parameters']

    assert parameters('mixedae_vit-base-p16_finetune_8xb128-amp-coslr-100e_in1k') == 86567656  # timm's ViT-B/16
    assert models['mixedae_vit-base-p16_8xb512-amp-coslr-1600e_in1k']['Metadata']['Batch Size'] == 4096
    small_gpu = models['mixedae_vit-base-p16_vitdet-mask-rcnn_1xb2-bf16-acc8-lsj-25e_coco-640']['Metadata']
    assert small_gpu['Batch Size'] == 16  # 2 images, gradients of 8 steps added up


def test_wheel__openmim_finds_every_config_of_the_list(tmp_path):
    source, built = tmp_path / 'source', tmp_path / 'built'
    source.mkdir()
    for name in ('setup.py', 'setup.cfg', 'pyproject.toml', 'README.md', 'LICENSE', 'model-index.yml'):
        shutil.copy(ROOT / name, source)
    for name in ('mixedae', 'object_aware', 'tools', 'mmcfg'):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns('__pycache__'))
    command = [sys.executable, 'setup.py', '-q', 'build_py', '--build-lib', str(built)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    mim = built / 'mixedae' / '.mim'
    metafiles = yaml.safe_load((mim / 'model-index.yml').read_text(encoding='utf-8'))['Import']
    found = [yaml.safe_load((mim / path).read_text(encoding='utf-8')) for path in metafiles]
    configs = [model['Config'] for metafile in found for model in metafile['Models']]
    assert len(configs) > 50
    for config in configs:  # each inherits from files of the wheel alone
        assert read_config(str(mim / config)).get('model'), config
    command = [sys.executable, str(mim / 'tools' / 'train.py'), '--help']  # what `mim train` starts
    assert 'CONFIG' in subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.upper()
