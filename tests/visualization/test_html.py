"""The page builder."""

import numpy as np
import pytest

from mixedae.visualization import Page, assert_self_contained, curves, encode_image, to_svg


def page() -> Page:
    page = Page('A <run>', 'of & to')
    page.section('one', 'First', 'lead')
    page.verdicts([('good', 'It works', 'by 3.0 points'), ('bad', 'It does not', 'at all')])
    page.figures([(to_svg(curves({'a': ([0, 1], [0.0, 1.0])}), 'a curve'), 'a caption')])
    page.section('two', 'Second')
    picture = encode_image(np.zeros((4, 4, 3), dtype=np.uint8))
    page.pictures(['left', 'right'], [('row', [picture, None])])
    page.table(['start', 'AP', 'n'], [['a', '10.0', '3'], ['b', '9.5', '3']], mark_best=True)
    page.facts({'seed': 0})
    page.legend([('cat', (1, 2, 3))])
    page.code('rm <x>', 'lines')
    return page


def test_page__is_whole_and_self_contained():
    html = page().html()
    assert_self_contained(html)
    assert html.count('<section') == html.count('</section>') == 2
    assert '<meta name="viewport"' in html and 'prefers-color-scheme: dark' in html
    assert html.count('<svg') == 1 and html.count('<img') == 1


def test_page__text_is_escaped():
    html = page().html()
    assert 'A &lt;run&gt;' in html and 'of &amp; to' in html and 'rm &lt;x&gt;' in html


def test_page__best_of_a_column_is_marked():
    html = page().html()
    assert '<td class="best">10.0</td>' in html
    assert '<td>9.5</td>' in html
    assert html.count('<td class="best">3</td>') == 2  # equal ones both


def test_page__unknown_verdict():
    with pytest.raises(ValueError, match='a verdict is one of'):
        Page('x').verdicts([('fine', 'a', 'b')])


def test_page__row_must_fit_its_columns():
    with pytest.raises(ValueError, match='a row of 1 pictures under 2 columns'):
        Page('x').pictures(['a', 'b'], [('', [None])])


def test_page__write_makes_the_folder(tmp_path):
    path = page().write(tmp_path / 'a' / 'b.html')
    assert path.read_text(encoding='utf-8').startswith('<!DOCTYPE html>')


@pytest.mark.parametrize(
    'part',
    [
        '<img src="http://x.org/a.png">',
        '<img src="a.png">',
        '<img srcset="a.png 2x">',
        '<script>1</script>',
        '<link rel="stylesheet" href="a.css">',
        '<svg><use href="icons.svg#a"/></svg>',
        '<style>@import "a.css";</style>',
        '<style>p { background: url(a.png) }</style>',
        '<p style="background: url(//x.org/a.png)">',
        '<iframe src="data:text/html,x"></iframe>',
    ],
)
def test_assert_self_contained__finds_what_would_load(part):
    with pytest.raises(ValueError, match='not self-contained'):
        assert_self_contained(f'<html>{part}</html>')


def test_assert_self_contained__links_and_data_are_fine():
    assert_self_contained(
        '<a href="https://x.org">x</a><img src="data:image/png;base64,AA">'
        '<svg><use href="#a"/></svg><p style="fill: url(#b)">'
    )


def test_page__a_script_of_its_own_and_no_other():
    page = Page('title')
    page.raw('<button>1</button>')
    page.style('.a { color: red }')
    page.script('document.title = 1;')
    html = page.html()
    assert html.count('<script>document.title = 1;</script>') == 1 and '.a { color: red }</style>' in html
    page.raw('<script>2</script>')
    with pytest.raises(ValueError, match='holds a <script>'):
        page.html()
    page = Page('title')
    page.script('fetch("x")')
    with pytest.raises(ValueError, match="a script of it holds 'fetch'"):
        page.html()
