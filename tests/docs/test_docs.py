"""What README and docs/ tell people to type: paths exist, options fit the configs, code blocks run."""

import argparse
import importlib
import inspect
import re
import shlex
from pathlib import Path

import pytest
import torch

from mixedae.models.decoder import Decoder
from mixedae.models.encoder import Encoder
from mixedae.registry import (
    DATA_SAMPLERS,
    DATASETS,
    HOOKS,
    MODEL_WRAPPERS,
    MODELS,
    OPTIM_WRAPPER_CONSTRUCTORS,
    OPTIM_WRAPPERS,
    RUNNERS,
)

ROOT = Path(__file__).resolve().parents[2]
FOREIGN = {  # messages of MMEngine, in troubleshooting.md
    '... is not in the model registry',
    'Reach the end of the dataloader, it will be restarted',
}
REGISTRIES = (
    DATA_SAMPLERS,
    DATASETS,
    HOOKS,
    MODELS,
    MODEL_WRAPPERS,
    OPTIM_WRAPPERS,
    OPTIM_WRAPPER_CONSTRUCTORS,
    RUNNERS,
)
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


class Parsed(BaseException):
    """A command line was understood."""


def known_key(cfg, key, options):
    """Whether a config, or the class that one of its parts builds, has this key; an unknown one is added in silence."""
    *path, leaf = key.split('.')
    node = cfg
    for depth, part in enumerate(path, 1):
        if part == 'init_cfg':
            return leaf in ('type', 'checkpoint')
        if part not in node:  # a hook that the options add
            cls = HOOKS.get(options['.'.join(path[:depth]) + '.type'].removeprefix('mixedae.'))
            return leaf == 'type' or leaf in inspect.signature(cls).parameters
        node = node[part]
    if leaf in node:
        return True
    kind = node.get('type', '').removeprefix('mixedae.')
    cls = {'encoder': Encoder, 'decoder': Decoder}.get(path[-1]) or MODELS.get(kind) or DATASETS.get(kind)
    return leaf in inspect.signature(cls).parameters


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_pages__files_and_links_exist(page):
    text = page.read_text(encoding='utf-8')
    named = set(re.findall(r'\b((?:mmcfg|tools|docs|requirements|tests|notebooks)/[\w./-]*\w)', text))
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing
    links = [link for link in re.findall(r'\]\(([^)#]+)\)', text) if '://' not in link]
    assert all((page.parent / link).exists() for link in links), links


@pytest.mark.parametrize('words', list(commands()))
def test_commands__name_scripts_and_options_that_are_there(words, monkeypatch):
    from mixedae.engine.configs import read_config

    if words[0] == 'make':
        target = next(word for word in words[1:] if '=' not in word)
        assert re.search(rf'^{target}:', (ROOT / 'Makefile').read_text(), flags=re.M)
        return
    if words[0] == 'pip':
        extra = re.search(r'\[(\w+)\]', words[-1]).group(1)
        assert re.search(rf'^{extra} =', (ROOT / 'setup.cfg').read_text(), flags=re.M)
        return
    if words[0] == '.venv/bin/torchrun':
        assert words[1] == '--nproc_per_node' and words[2].isdigit() and '--launcher' in words
        words = ['.venv/bin/python', *words[3:]]
    assert words[0] in ('.venv/bin/python', 'python3')
    if words[1] == '-m':
        script, arguments = ROOT / f'{words[2].replace(".", "/")}.py', words[3:]
    else:
        script, arguments = ROOT / words[1], words[2:]
    assert script.is_file()
    if script.is_relative_to(ROOT / 'tests'):  # fuzzers
        assert all(f"'{word}'" in script.read_text(encoding='utf-8') for word in arguments if word.startswith('--'))
        return
    original = argparse.ArgumentParser.parse_args

    def parse_args(self, *given, **kwargs):
        raise Parsed(original(self, *given, **kwargs))

    monkeypatch.setattr(argparse.ArgumentParser, 'parse_args', parse_args)
    with pytest.raises(Parsed):
        importlib.import_module('.'.join(script.relative_to(ROOT).with_suffix('').parts)).main(arguments)
    monkeypatch.undo()
    if script.name in ('train.py', 'test.py') and words[2].startswith('mmcfg/'):
        at = words.index('--cfg-options') + 1 if '--cfg-options' in words else len(words)
        options = dict(word.split('=', 1) for word in words[at:] if not word.startswith('--'))
        plain, cfg = read_config(str(ROOT / words[2])), read_config(str(ROOT / words[2]), options)
        assert [key for key in options if not known_key(plain, key, options)] == []
        if 'model.backbone.init_cfg.checkpoint' in options:
            assert cfg.model.backbone.init_cfg.type == 'Pretrained'


def parts_of_ours(node):
    """All dicts in a config that name a class of ours."""
    if isinstance(node, dict):
        if str(node.get('type', '')).startswith('mixedae.'):
            yield node
        node = list(node.values())
    for value in node if isinstance(node, (list, tuple)) else ():
        yield from parts_of_ours(value)


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_python_blocks__run(page):
    """And parts of ours that they name exist and take these options."""
    for block in blocks(page, 'python'):
        names = {}
        exec(compile(block, str(page), 'exec'), names)
        if 'mixed' in names:
            assert names['mixed'].shape == (2, 3, 224, 224)
        for part in parts_of_ours({name: value for name, value in names.items() if not name.startswith('__')}):
            kind = part['type'].removeprefix('mixedae.')
            cls = next((found for registry in REGISTRIES if (found := registry.get(kind)) is not None), None)
            assert cls is not None, part
            known = {name for base in cls.__mro__ for name in inspect.signature(base.__init__).parameters}
            if kind == 'CompileHook':  # hands its options on
                known |= inspect.signature(torch.compile).parameters.keys()
            assert part.keys() - {'type', '_delete_'} <= known, part


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_pages__every_block_says_what_it_is(page):
    """So that none slips past the tests: bash is parsed, python run, py run in test_checkpoint_code.py."""
    opened = re.findall(r'^```(.*)\n[\s\S]*?^```$', page.read_text(encoding='utf-8'), flags=re.M)
    assert set(opened) <= {'bash', 'python', 'text'} | ({'py'} if page.name == 'checkpoints.md' else set())


def test_readme__nothing_left_to_fill_in():
    for page in PAGES:
        assert not re.search(r'TODO|FIXME|XXX|TBD|\b[A-Z]+_?TABLE\b', page.read_text(encoding='utf-8')), page.name


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
