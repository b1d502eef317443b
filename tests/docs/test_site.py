"""The site of docs/: builds without a warning, asks no other server for anything, has every public name."""

import ast
import html
import importlib
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip('mkdocs', reason='the site needs the extra `docs`')

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    'functional': 'mixedae.functional',
    'models': 'mixedae.models',
    'layers': 'mixedae.layers',
    'engine': 'mixedae.engine',
    'checkpoints': 'mixedae.checkpoints',
    'analysis': 'mixedae.analysis',
    'visualization': 'mixedae.visualization',
    'object_aware': 'object_aware',
    'boxes': 'object_aware.boxes',
}
LOADED = {('img', 'src'), ('script', 'src'), ('link', 'href'), ('iframe', 'src'), ('source', 'src'), ('object', 'data')}


class Links(HTMLParser):
    """Ids, links, and what a browser fetches by itself."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.fetched = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ('id', 'name'):
                self.ids.add(value)
            if (tag, name) in LOADED:
                self.fetched.append(value)
            elif name == 'href':
                self.links.append(value)
            assert name != 'srcset'


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp('site')
    command = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', str(folder)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert run.returncode == 0, run.stderr
    assert 'WARNING' not in run.stderr
    return folder


@pytest.fixture(scope='module')
def pages(site):
    return {path: Links(path.read_text(encoding='utf-8')) for path in sorted(site.rglob('*.html'))}


def test_site__every_page_of_docs_is_built_and_in_the_list(site, pages):
    sources = {path.relative_to(ROOT / 'docs').with_suffix('.html') for path in (ROOT / 'docs').rglob('*.md')}
    assert sources <= {path.relative_to(site) for path in pages}
    assert sources <= {Path(link) for link in pages[site / 'index.html'].links if '#' not in link and '://' not in link}


def test_site__a_page_stands_in_the_list_once():
    nav = re.search(r'^nav:\n(.*?)^\S', (ROOT / 'mkdocs.yml').read_text(encoding='utf-8'), flags=re.S | re.M).group(1)
    listed = re.findall(r': (\S+\.md)$', nav, flags=re.M)
    there = [path.relative_to(ROOT / 'docs').as_posix() for path in (ROOT / 'docs').rglob('*.md')]
    assert sorted(listed) == sorted([*there, 'messages.md'])


def test_site__nothing_is_fetched_from_elsewhere(site, pages):
    assert not [path for path in site.rglob('*') if 'theme' in path.name or path.suffix == '.py']
    for path, page in pages.items():
        for address in page.fetched:
            if address == 'data:,':
                continue
            parts = urlsplit(address)
            assert not parts.scheme and not parts.netloc, f'{path.name} loads {address}'
            if path.name != '404.html':  # its addresses start at the server's root
                assert (path.parent / unquote(parts.path)).is_file(), f'{path.name} loads {address}'
    for style in site.rglob('*.css'):
        text = style.read_text(encoding='utf-8')
        assert '@import' not in text
        assert not re.findall(r'url\((?!["\']?data:)', text)
    for path in pages:
        text = path.read_text(encoding='utf-8')
        inline = ''.join(re.findall(r'<script[^>]*>(.*?)</script>', text, flags=re.S))
        assert '://' not in inline and 'import(' not in inline
        assert not re.search(r'style="[^"]*url\(', text)


def test_site__links_lead_to_pages_and_headings_that_are_there(pages):
    for path, page in pages.items():
        if path.name == '404.html':
            continue
        for link in page.links:
            parts = urlsplit(html.unescape(link))
            if parts.scheme or parts.netloc:
                assert parts.scheme == 'https', link
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.exists(), f'{path.name}: {link}'
            if parts.fragment:
                assert unquote(parts.fragment) in pages[target].ids, f'{path.name}: {link}'


@pytest.mark.parametrize(('page', 'package'), PACKAGES.items(), ids=PACKAGES.values())
def test_api__every_public_name_has_an_entry(site, pages, page, package):
    ids = pages[site / 'api' / f'{page}.html'].ids
    source = (ROOT / package.replace('.', '/') / '__init__.py').read_text(encoding='utf-8')
    names = ast.literal_eval(re.search(r'^__all__ = (\[.*?\])', source, flags=re.S | re.M).group(1))
    assert names
    for name in names:
        # a function in a module of its own name stands under the module's: `mixedae.analysis.rankme.rankme`
        assert {f'{package}.{name}', f'{package}.{name}.{name}'} & ids, f'docs/api/{page}.md lacks {name}'


def test_api__docstrings_are_rendered(site):
    for path in (site / 'api').glob('*.html'):
        text = re.sub(r'<pre.*?</pre>', '', path.read_text(encoding='utf-8'), flags=re.S)
        assert '<autoref' not in text
        plain = html.unescape(re.sub(r'<[^>]+>', '', text))
        assert not re.search(r':(func|class|meth|mod|attr|data):', plain), path.name
        assert 'Args:' not in plain, path.name
        assert '``' not in plain, path.name


def test_api__an_entry_has_its_parameters(site):
    text = (site / 'api' / 'functional.html').read_text(encoding='utf-8')
    entry = text[text.index('id="mixedae.functional.draw_mixing_mask"') :]
    entry = entry[: entry.index('<h2')] if '<h2' in entry else entry
    plain = ' '.join(html.unescape(re.sub(r'<[^>]+>', '', entry)).split())
    for words in ('num_patches: int', 'owns exactly L/g positions', 'L is not a multiple of g', 'values in 0..g-1'):
        assert words in plain


BAD = {
    'tools.train': ['nowhere.py'],
    'tools.test': ['mmcfg/pretrain/mixedae_vit-tiny-p16_8xb512-amp-coslr-300e_in1k.py', 'none.pth'],
    'tools.build_crops': ['--scenes', 'none.json', 'nowhere', '--out', 'crops.safetensors'],
    'tools.browse_crops': ['none.safetensors', '--out', 'crops.html'],
    'tools.shard_crops': ['none.safetensors', '--out', 'shards', '--num-shards', '2'],
    'tools.propose_boxes': ['nowhere', '--method', 'ncut', '--out', 'boxes.json'],
    'tools.convert_checkpoint': ['none.pth', 'vit.pth', '--to', 'timm'],
    'tools.get_flops': ['mmcfg/demo/mixedae_vit-tiny-p16_mask-rcnn_coco-format.py'],
    'tools.demo': ['--data', 'nowhere'],
}


@pytest.mark.parametrize('tool', BAD)
def test_messages__what_a_tool_prints_is_on_the_page(site, tool, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert importlib.import_module(tool).main(BAD[tool]) == 2
    said = re.search(r'^error: (.*)', capsys.readouterr().err, flags=re.S | re.M).group(1).strip()
    rows = re.findall(r'<tr>\s*<td>(.*?)</td>', (site / 'messages.html').read_text(encoding='utf-8'), flags=re.S)
    assert len(rows) > 300
    texts = [html.unescape(re.sub(r'<[^>]+>', '', row)) for row in rows]
    parts = [[re.escape(part) for part in text.split('…')] for text in texts if len(text.replace('…', '')) > 12]
    assert any(re.fullmatch('.*'.join(part), said, flags=re.S) for part in parts), said
