"""One self-contained HTML page: inline style, inline SVG, embedded images, no request to anywhere.

A page has no script but what :meth:`Page.script` was given.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from html.parser import HTMLParser
from pathlib import Path

from .style import STYLE

HEAD = '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
"""The first characters of every page."""
VERDICTS = {'good': '✓', 'even': '≈', 'bad': '✗', 'note': 'i'}


class Page:
    """A page that is filled from top to bottom.

    >>> page = Page('A run', 'what it was')
    >>> page.section('curves', 'Curves', 'What they show.')
    >>> page.figures([('<svg></svg>', 'loss')])
    >>> page.write('report.html')
    """

    def __init__(self, title: str, subtitle: str = '') -> None:
        self.title = title
        self.subtitle = subtitle
        self._parts: list[str] = []
        self._sections: list[tuple[str, str]] = []
        self._open = False
        self._style = STYLE
        self._scripts: list[str] = []

    def section(self, anchor: str, title: str, text: str = '') -> None:
        """Start a section; the one before it is closed."""
        self._close()
        self._open = True
        self._sections.append((anchor, title))
        lead = f'<p class="lead">{escape(text)}</p>' if text else ''
        self._parts.append(f'<section id="{escape(anchor)}"><h2>{escape(title)}</h2>{lead}')

    def text(self, text: str, kind: str = '') -> None:
        """A paragraph of plain text."""
        self._parts.append(f'<p{_class(kind)}>{escape(text)}</p>')

    def verdicts(self, verdicts: Sequence[tuple[str, str, str]]) -> None:
        """Sentences with a mark: (kind, headline, sentence), kind one of good, even, bad, note."""
        cards = []
        for kind, headline, sentence in verdicts:
            if kind not in VERDICTS:
                raise ValueError(f'a verdict is one of {", ".join(VERDICTS)}, got {kind!r}')
            cards.append(
                f'<li class="{kind}"><span class="mark" aria-hidden="true">{VERDICTS[kind]}</span>'
                f'<div><strong>{escape(headline)}</strong><p>{escape(sentence)}</p></div></li>'
            )
        self._parts.append(f'<ul class="verdicts">{"".join(cards)}</ul>')

    def facts(self, facts: Mapping[str, object]) -> None:
        """Names and values, as a definition list."""
        rows = ''.join(
            f'<div><dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd></div>' for name, value in facts.items()
        )
        self._parts.append(f'<dl class="facts">{rows}</dl>')

    def figures(self, figures: Sequence[tuple[str, str]]) -> None:
        """Charts side by side where there is room: (inline SVG or data URI, caption)."""
        cells = []
        for picture, caption in figures:
            inner = picture if picture.startswith('<svg') else f'<img src="{picture}" alt="{escape(caption)}">'
            cells.append(f'<figure>{inner}<figcaption>{escape(caption)}</figcaption></figure>')
        self._parts.append(f'<div class="figures">{"".join(cells)}</div>')

    def pictures(
        self, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str | None]]], *, cell: int = 150
    ) -> None:
        """A grid of pictures with column titles: rows of (row title, data URIs); None leaves a cell empty.

        `cell` is the least width of a picture in CSS pixels; a grid too wide for the screen scrolls inside its own
        frame.
        """
        head = ''.join(f'<th scope="col">{escape(column)}</th>' for column in columns)
        titled = any(title for title, _ in rows)
        body = []
        for title, uris in rows:
            if len(uris) != len(columns):
                raise ValueError(f'a row of {len(uris)} pictures under {len(columns)} columns')
            cells = ''.join(
                f'<td><img src="{uri}" alt="{escape(f"{column} {title}".strip())}" loading="lazy"></td>'
                if uri
                else '<td></td>'
                for column, uri in zip(columns, uris, strict=True)
            )
            first = f'<th scope="row">{escape(title)}</th>' if titled else ''
            body.append(f'<tr>{first}{cells}</tr>')
        corner = '<th></th>' if titled else ''
        self._parts.append(
            f'<div class="scroll"><table class="pictures" style="--cell:{cell}px">'
            f'<thead><tr>{corner}{head}</tr></thead>'
            f'<tbody>{"".join(body)}</tbody></table></div>'
        )

    def table(self, header: Sequence[str], rows: Sequence[Sequence[object]], *, mark_best: bool = False) -> None:
        """A table of figures. `mark_best`: in each column of numbers the highest one is bold (equal ones all)."""
        best: dict[int, float] = {}
        if mark_best and len(rows) > 1:
            for c in range(1, len(header)):
                numbers = [_number(row[c]) for row in rows]
                if all(number is not None for number in numbers):
                    best[c] = max(number for number in numbers if number is not None)
        body = []
        for row in rows:
            cells = [f'<th scope="row">{escape(str(row[0]))}</th>']
            for c, value in enumerate(row[1:], start=1):
                bold = c in best and _number(value) == best[c]
                cells.append(f'<td{_class("best") if bold else ""}>{escape(str(value))}</td>')
            body.append(f'<tr>{"".join(cells)}</tr>')
        head = ''.join(f'<th scope="col">{escape(name)}</th>' for name in header)
        self._parts.append(
            f'<div class="scroll"><table class="numbers"><thead><tr>{head}</tr></thead>'
            f'<tbody>{"".join(body)}</tbody></table></div>'
        )

    def legend(self, entries: Sequence[tuple[str, tuple[int, int, int]]]) -> None:
        """Names with their colours."""
        items = ''.join(f'<li><i style="background:rgb{colour}"></i>{escape(name)}</li>' for name, colour in entries)
        self._parts.append(f'<ul class="legend">{items}</ul>')

    def code(self, text: str, summary: str = '') -> None:
        """Lines to copy; folded away behind `summary` if one is given."""
        block = f'<pre tabindex="0"><code>{escape(text)}</code></pre>'
        self._parts.append(f'<details><summary>{escape(summary)}</summary>{block}</details>' if summary else block)

    def raw(self, html: str) -> None:
        """HTML as it is; what comes from data must be escaped by the caller."""
        self._parts.append(html)

    def style(self, css: str) -> None:
        """More style, after the page's own."""
        self._style += css

    def script(self, code: str) -> None:
        """A few lines of JavaScript at the end of the page. The page must be readable without."""
        self._scripts.append(code)

    def html(self) -> str:
        """The whole page."""
        self._close()
        links = ''.join(f'<a href="#{escape(anchor)}">{escape(title)}</a>' for anchor, title in self._sections)
        page = (
            f'{HEAD}<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta name="color-scheme" content="light dark">'
            f'<title>{escape(self.title)}</title><style>{self._style}</style></head><body>'
            f'<header><h1>{escape(self.title)}</h1><p>{escape(self.subtitle)}</p><nav>{links}</nav></header>'
            f'<main>{"".join(self._parts)}</main>'
            f'{"".join(f"<script>{code}</script>" for code in self._scripts)}</body></html>\n'
        )
        assert_self_contained(page, self._scripts)
        return page

    def write(self, path: str | Path) -> Path:
        """Write the page; a folder that is missing is made."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.html(), encoding='utf-8')
        return path

    def _close(self) -> None:
        if self._open:
            self._parts.append('</section>')
            self._open = False


def assert_self_contained(html: str, scripts: Sequence[str] = ()) -> None:
    """Refuse a page that would ask a server, or the disk, for anything.

    Args:
        html: the page.
        scripts: the inline scripts that it may have.

    Raises:
        ValueError: the first tag that would load something, named.
    """
    for script in scripts:
        asking = re.search(r'//|\b(fetch|import|XMLHttpRequest|WebSocket|EventSource|src|href)\b|</', script)
        if asking:
            raise ValueError(f'the page is not self-contained: a script of it holds {asking.group()!r}')
        html = html.replace(f'<script>{script}</script>', '')
    _RequestFinder().feed(html)
    for style in re.findall(r'<style>(.*?)</style>', html, flags=re.S) + re.findall(r'style="([^"]*)"', html):
        _check_style(style)


class _RequestFinder(HTMLParser):
    loading = ('src', 'srcset', 'poster', 'data', 'background', 'action')

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ('script', 'link', 'iframe', 'object', 'embed', 'base'):
            raise ValueError(f'the page is not self-contained: it holds a <{tag}>')
        for name, value in attrs:
            loads = name in self.loading or (name in ('href', 'xlink:href') and tag != 'a')
            if loads and value and not value.startswith(('data:', '#')):
                raise ValueError(f'the page is not self-contained: <{tag} {name}="{value[:80]}">')


def _check_style(style: str) -> None:
    if '@import' in style:
        raise ValueError('the page is not self-contained: its style holds an @import')
    for target in re.findall(r'url\(\s*[\'"]?([^\'")]*)', style):
        if not target.startswith(('data:', '#')):
            raise ValueError(f'the page is not self-contained: its style loads {target[:80]}')


def _number(value: object) -> float | None:
    try:
        return float(str(value).split()[0].rstrip('%'))
    except (ValueError, IndexError):
        return None


def _class(name: str) -> str:
    return f' class="{name}"' if name else ''
