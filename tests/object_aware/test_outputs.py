"""Outputs of tools: inputs and files of other kinds stay as they are."""

import os
import zipfile

import pytest

from object_aware.index import is_crop_index
from object_aware.outputs import begins_with, check_out, json_with


def test_check_out__input_by_any_name(tmp_path):
    file, link, hard = (tmp_path / name for name in ('a.json', 'link.json', 'hard.json'))
    file.write_text('{}')
    link.symlink_to(file)
    os.link(file, hard)
    for out in (file, link, hard, tmp_path / '.' / 'a.json'):
        with pytest.raises(FileExistsError, match='is what this command reads: give another --out'):
            check_out(out, [None, tmp_path / 'none', file])
    check_out(tmp_path / 'new.json', [file])
    check_out(file, [tmp_path / 'none'])  # without a kind: only inputs are looked after


def test_check_out__other_kind(tmp_path):
    file = tmp_path / 'a.html'
    file.write_text('mine')
    options = dict(kind='a page', recognise=begins_with(b'<html>'), option='--page')
    with pytest.raises(FileExistsError, match=r'a\.html exists and is not a page: give another --page'):
        check_out(file, **options)
    for text in ('', '<html>more'):  # nothing is lost with an empty file
        file.write_text(text)
        check_out(file, **options)
    with pytest.raises(IsADirectoryError, match='is a folder'):
        check_out(tmp_path, **options)


@pytest.mark.parametrize(
    'text, whether', [('{"a": 1, "b": 2, "c": 3}', True), ('{"a": 1}', False), ('["a", "b"]', False), ('\x00', False)]
)
def test_json_with__keys(tmp_path, text, whether):
    (tmp_path / 'a.json').write_text(text)
    assert json_with('a', 'b')(tmp_path / 'a.json') is whether
    (tmp_path / 'a.json').write_bytes(b'\xff\xfe\x80')
    assert json_with('a', 'b')(tmp_path / 'a.json') is False


def test_is_crop_index__version_1_and_other_archives(tmp_path):
    for name, members, whether in (('v1.npz', ('header.npy', 'windows.npy'), True), ('my.zip', ('a.txt',), False)):
        with zipfile.ZipFile(tmp_path / name, 'w') as file:
            for member in members:
                file.writestr(member, b'x')
        assert is_crop_index(tmp_path / name) is whether
    (tmp_path / 'weights.safetensors').write_bytes((64).to_bytes(8, 'little') + b'{"__metadata__":{"format":"pt"}}')
    assert not is_crop_index(tmp_path / 'weights.safetensors')
