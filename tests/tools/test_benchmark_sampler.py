"""The benchmark of the sampler, on few objects."""

import argparse

import pytest

from tools.benchmark_parts import sampler as part


def arguments(*given):
    parser = argparse.ArgumentParser()
    part.add_arguments(parser)
    return parser.parse_args([*given])


def test_sampler__figures():
    report = part.run(arguments('--objects', '4000', '--scenes', '500', '--classes', '9', '--keys', '1000'))
    for kind in ('scene', 'class'):
        figures = report['figures']['arrange'][kind]
        assert figures['peak'] >= 4000 * 4 and figures['arrange'] > 0  # at least the table of int32
    assert 0 < report['figures']['key'][0] < 1e-3
    (table,) = report['tables']
    assert [len(row) for row in table['rows']] == [len(table['columns'])] * 2
    with pytest.raises(ValueError, match='--scenes must be at least 1'):
        part.run(arguments('--scenes', '0'))
