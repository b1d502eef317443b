"""Completes the API pages: names that a package takes from a module of the same name (griffe sees the module alone)."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def on_page_markdown(markdown: str, page: object, **kwargs: object) -> str:
    """MkDocs' hook: after `::: mixedae.analysis` an entry for `rankme` of `mixedae/analysis/rankme.py`, and so on."""
    if not page.file.src_uri.startswith('api/'):
        return markdown
    for package in re.findall(r'^::: ([\w.]+)$', markdown, flags=re.M):
        folder = ROOT / package.replace('.', '/')
        for name in public_names(folder / '__init__.py'):
            if (folder / f'{name}.py').is_file():
                markdown += f'\n::: {package}.{name}.{name}\n    options:\n      show_root_heading: true\n'
    return markdown


def public_names(file: Path) -> list[str]:
    """`__all__` of a file, read without importing it."""
    for node in ast.parse(file.read_text(encoding='utf-8')).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == '__all__':
            return ast.literal_eval(node.value)
    return []
