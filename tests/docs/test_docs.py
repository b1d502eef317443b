"""What README and docs/ tell people to type: paths exist, options fit the configs, code blocks run."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from mixedae.registry import MODELS

ROOT = Path(__file__).resolve().parents[2]
FOREIGN = {  # messages of MMEngine, in troubleshooting.md
    '... is not in the model registry',
    'Reach the end of the dataloader, it will be restarted',
}
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]


def blocks(page, language):
    return re.findall(rf'^```{language}\n(.*?)^```', page.read_text(encoding='utf-8'), flags=re.S | re.M)


def commands():
    """Command lines of all pages, continued lines joined, $PRETRAINED put in."""
    for page in PAGES:
        for block in blocks(page, 'bash'):
            lines = block.replace('\\\n', ' ').splitlines()
            variables = dict(re.match(r'(\w+)="(.*)"$', line).groups() for line in lines if re.match(r'\w+="', line))
            for line in lines:
                for name, value in variables.items():
                    line = line.replace(f'${name}', value)
                words = shlex.split(line, comments=True)
                if words and not re.match(r'\w+=', words[0]):
                    yield pytest.param(words, id=f'{page.name}: {" ".join(words)[:70]}')


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_pages__files_and_links_exist(page):
    text = page.read_text(encoding='utf-8')
    named = set(re.findall(r'\b((?:mmcfg|tools|docs|requirements)/[\w./-]*\w)', text))
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing
    links = [link for link in re.findall(r'\]\(([^)#]+)\)', text) if '://' not in link]
    assert all((page.parent / link).exists() for link in links), links


@pytest.mark.parametrize('words', list(commands()))
def test_commands__name_scripts_and_options_that_are_there(words):
    import importlib

    from mixedae.engine.configs import read_config

    if words[0] == 'make':
        target = next(word for word in words[1:] if '=' not in word)
        assert re.search(rf'^{target}:', (ROOT / 'Makefile').read_text(), flags=re.M)
        return
    if words[0] == 'pip':
        extra = re.search(r'\[(\w+)\]', words[-1]).group(1)
        assert re.search(rf'^{extra} =', (ROOT / 'setup.cfg').read_text(), flags=re.M)
        return
    assert words[0] in ('.venv/bin/python', 'python3')
    if words[1] == '-m':
        assert importlib.util.find_spec(words[2])
        return
    script = ROOT / words[1]
    source = script.read_text(encoding='utf-8')
    for option in (word for word in words if word.startswith('--')):
        assert f"'{option}'" in source, f'{words[1]} has no option {option}'
    if script.name in ('train.py', 'test.py') and words[2].startswith('mmcfg/'):
        at = words.index('--cfg-options') + 1 if '--cfg-options' in words else len(words)
        options = dict(word.split('=', 1) for word in words[at:] if not word.startswith('--'))
        cfg = read_config(str(ROOT / words[2]), options)
        for key in options:  # a key that the config does not know would be added in silence
            node = cfg
            for part in key.split('.'):
                node = node[part]
        if 'model.backbone.init_cfg.checkpoint' in options:
            assert cfg.model.backbone.init_cfg.type == 'Pretrained'


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_python_blocks__run(page):
    for block in blocks(page, 'python'):
        names = {}
        exec(compile(block, str(page), 'exec'), names)
        if 'mixed' in names:
            assert names['mixed'].shape == (2, 3, 224, 224)


def test_readme__backbone_and_neck_give_four_strides():
    (block,) = blocks(ROOT / 'README.md', 'python')
    names = {}
    exec(block, names)
    model = names['model']
    for part in model.values():
        part.pop('_delete_')
        part.pop('init_cfg', None)
    backbone, neck = MODELS.build(model['backbone']), MODELS.build({**model['neck'], 'norm': 'BN'})
    with torch.no_grad():
        maps = neck.eval()(backbone.eval()(torch.zeros(1, 3, 64, 64)))
    assert [tuple(x.shape) for x in maps] == [(1, 768, side, side) for side in (16, 8, 4, 2)]


def test_readme__nothing_left_to_fill_in():
    for page in PAGES:
        assert not re.search(r'TODO|FIXME|XXX|RESULTS_TABLE|TBD', page.read_text(encoding='utf-8')), page.name


def messages():
    """Code spans in the first column of the tables of troubleshooting.md."""
    for line in (ROOT / 'docs' / 'troubleshooting.md').read_text(encoding='utf-8').splitlines():
        if line.startswith('|') and not line.startswith(('| message', '|---')):
            yield from re.findall(r'`([^`]+)`', line.split(' | ')[0])


@pytest.mark.parametrize('message', list(messages()))
def test_troubleshooting__message_is_one_that_the_code_has(message):
    if message in FOREIGN:
        return
    files = [f for folder in ('mixedae', 'object_aware', 'tools') for f in (ROOT / folder).rglob('*.py')]
    source = '\n'.join(file.read_text(encoding='utf-8') for file in files)
    source = re.sub(r'[\'"]\s*\n\s*f?[\'"]', '', source)  # join the parts of a string that is written over lines
    source = re.sub(r'\{[^{}]*\}', '', source)  # what is put in
    said = re.sub(r'\.\.\.|\b(N|M|DIR|FILE|mmdet|mmseg|\d+(x\d+)?|nan)\b', '\n', message)
    parts = [part.strip() for part in said.split('\n') if len(part.strip()) > 3]
    assert parts
    for part in parts:
        assert part in source, part
