"""Makes the page of all messages by which the code stops, from the source, when the site is built."""

import ast
from collections.abc import Iterator
from pathlib import Path

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
PARTS = {
    'tools': 'The command-line tools',
    'object_aware': 'Object-aware data',
    'mixedae/engine': 'Configs, data checks, running',
    'mixedae/checkpoints': 'Checkpoints',
    'mixedae/models': 'Models',
    'mixedae/layers': 'Layers',
    'mixedae/functional': 'Functions of the method',
    'mixedae/analysis': 'Analysis',
    'mixedae/visualization': 'Pictures',
}
HEAD = """# All messages

Every sentence by which the code stops, and the file that says it; `…` stands for what is put in. Most say what to do;
those that need more words are explained in [Troubleshooting](troubleshooting.md). The list is read from the source.
"""


def on_files(files: Files, config: object) -> Files:
    """MkDocs' hook: adds `messages.md`."""
    files.append(File.generated(config, 'messages.md', content=page()))
    return files


def page() -> str:
    """The page as Markdown: a table for each part of the code."""
    lines = [HEAD]
    for folder, title in PARTS.items():
        lines += [f'## {title}', '', '| message | file |', '|---|---|']
        for path in sorted((ROOT / folder).rglob('*.py')):
            name = path.relative_to(ROOT).as_posix()
            lines += [f'| {cell(text)} | `{name}` |' for text in dict.fromkeys(sentences(path))]
        lines.append('')
    return '\n'.join(lines)


def sentences(path: Path) -> Iterator[str]:
    """The messages of the exceptions that a file raises, those of several words."""
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            text = next((text for text in map(literal, node.exc.args) if text), '')
            if len(text.replace('…', ' ').split()) > 2:
                yield text


def literal(node: ast.expr) -> str:
    """A text as it stands in the code, with … for what is put in; empty if it is no text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return ''.join(literal(value) or '…' for value in node.values)
    if isinstance(node, ast.BinOp):
        left, right = literal(node.left), literal(node.right)
        return (left or '…') + (right or '…') if left or right else ''
    return ''


def cell(text: str) -> str:
    """A text that stays as it is in a cell of a Markdown table."""
    text = ' '.join(text.split())
    for sign in '\\`*_<>[]|':
        text = text.replace(sign, f'\\{sign}')
    return text
