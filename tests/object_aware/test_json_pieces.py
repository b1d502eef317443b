"""The outline of JSON files: pieces that join to what json.loads gives, whatever the layout; bad files are refused."""

import json

import numpy as np
import pytest

from object_aware import byte_kernels
from object_aware.digests import digest_of
from object_aware.json_pieces import outline


def decode(path, file, key):
    text = path.read_bytes()
    return [item for start, stop in file.pieces[key] for item in json.loads(b'[' + text[start:stop] + b']')]


def random_value(rng, depth=0):
    kind = rng.integers(7 if depth < 3 else 4)
    if kind == 0:
        return float(np.round(rng.normal(), 3))
    if kind == 1:
        return ''.join(rng.choice(list('ab"\\{}[],: ü\n'), rng.integers(0, 8)))
    if kind == 2:
        return [None, True, False][rng.integers(3)]
    if kind == 3:
        return int(rng.integers(-5, 5))
    if kind == 4:
        return {str(rng.integers(9)): random_value(rng, depth + 1) for _ in range(rng.integers(4))}
    return [random_value(rng, depth + 1) for _ in range(rng.integers(5))]


@pytest.mark.parametrize('seed', range(12))
def test_outline__pieces_join_to_the_whole(tmp_path, seed):
    rng = np.random.default_rng(seed)
    content = {f'key {k} "x" \\ü': random_value(rng) for k in range(rng.integers(1, 5))}
    content |= {'annotations': [random_value(rng) for _ in range(40)], 'empty': [], 'none': {}}
    keys = list(content)
    rng.shuffle(keys)
    content = {key: content[key] for key in keys}
    layout = [dict(), dict(indent=2), dict(separators=(',', ':')), dict(ensure_ascii=False), dict(indent='\t')][
        seed % 5
    ]
    path = tmp_path / 'x.json'
    path.write_text(' ' * (seed % 3) + json.dumps(content, **layout) + '\n' * (seed % 2), encoding='utf-8')
    for piece_bytes in (1, 30, 10_000):
        file = outline(path, piece_bytes)
        assert list(file.values) == keys
        text = path.read_bytes()
        for key, (start, stop) in file.values.items():
            assert json.loads(text[start:stop]) == content[key]
            assert (key in file.pieces) == isinstance(content[key], list)
        for key in file.pieces:
            assert decode(path, file, key) == content[key]
        if piece_bytes == 1:
            assert len(file.pieces['annotations']) == 40
    assert file.digest == digest_of(path)


def test_outline__blocks_may_end_anywhere(tmp_path, monkeypatch):
    content = dict(
        info=dict(annotations=[1, 2], text='a\\"[{'), annotations=[dict(id=k, t=['\\', '"']) for k in range(9)]
    )
    path = tmp_path / 'x.json'
    path.write_text(json.dumps(content, indent=1))
    whole = outline(path, 20)
    for block in (1, 2, 7):
        monkeypatch.setattr('object_aware.json_pieces.BLOCK', block)
        file = outline(path, 20)
        assert (file.values, file.pieces) == (whole.values, whole.pieces)
    assert decode(path, whole, 'annotations') == content['annotations']


def test_outline__too_many_keys_are_not_followed_further(tmp_path, monkeypatch):
    """The table of values has room for so many; a block behind the last one would be written beyond it."""
    path = tmp_path / 'x.json'
    path.write_text(json.dumps({str(key): key for key in range(99)}))
    monkeypatch.setattr('object_aware.json_pieces.BLOCK', 64)
    monkeypatch.setattr('object_aware.json_pieces._MAX_KEYS', 4)
    calls = []

    def scan(data, *rest):
        calls.append(len(data))
        byte_kernels_scan(data, *rest)

    byte_kernels_scan = byte_kernels.scan
    monkeypatch.setattr(byte_kernels, 'scan', scan)
    with pytest.raises(ValueError, match='more than 4 keys'):
        outline(path)
    assert calls == [64]


def test_outline__a_key_given_twice_counts_last(tmp_path):
    path = tmp_path / 'x.json'
    path.write_text('{"a": [1, 2], "b": 3, "a": [4]}')
    assert decode(path, outline(path), 'a') == [4]
    path.write_text('{"a": [1, 2], "a": 5}')
    assert outline(path).pieces == {}


def test_outline__with_a_byte_order_mark(tmp_path):
    path = tmp_path / 'x.json'
    path.write_text('{"a": [1, 2]}', encoding='utf-8-sig')
    assert decode(path, outline(path), 'a') == [1, 2]


@pytest.mark.parametrize('text', ['[1, 2]', '"text"', '12', 'null', ' [{}]', ''])
def test_outline__no_object_must_be_decoded_whole(tmp_path, text):
    path = tmp_path / 'x.json'
    path.write_text(text)
    if text:
        assert outline(path) is None
    else:
        with pytest.raises(ValueError, match='cut short'):
            outline(path)
    path.write_text('{"a": 1}', encoding='utf-16')
    assert outline(path) is None


@pytest.mark.parametrize(
    ('text', 'sentence'),
    [
        ('{"a": [1, 2', 'cut short'),
        ('{"a": "text', 'cut short'),
        ('{"a": [1]} x', 'something stands after its end'),
        ('{"a": [1]}}', 'something stands after its end'),
        ('{"a": [1]} {"b": 2}', 'something stands after its end'),
        ('{"a": [1] "b": 2}', 'does not end with a bracket'),
        ('{"a" [1]}', 'Expecting'),
        ('{"a": [1}}', 'does not end with a bracket'),
        ('{"a": [1},', 'cut short'),
        ('{a: 1}', 'Expecting'),
    ],
)
def test_outline__refuses(tmp_path, text, sentence):
    path = tmp_path / 'x.json'
    path.write_text(text)
    with pytest.raises(ValueError, match=sentence):
        outline(path)
