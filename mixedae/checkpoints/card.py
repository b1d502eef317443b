"""The model card of a converted checkpoint: where it comes from, what was left out, how to load it."""

from __future__ import annotations

import datetime
import hashlib
import json
import platform
from pathlib import Path
from typing import Any

import torch

from mixedae.checkpoints.encoder_weights import EncoderWeights
from mixedae.checkpoints.exporting import Target, pretext
from mixedae.checkpoints.facts import Facts
from mixedae.checkpoints.report import readable
from mixedae.checkpoints.selecting import Weights
from mixedae.checkpoints.usage import usage


def provenance(opened: Weights, encoder: EncoderWeights, target: Target) -> dict[str, Any]:
    """Where a converted checkpoint comes from: plain values alone, so that any safe reader takes them."""
    import mixedae

    facts = opened.facts
    source = Path(opened.source)
    by_reason: dict[str, list[str]] = {}
    for name, reason in encoder.left_out.items():
        by_reason.setdefault(reason, []).append(name)
    facts_now = {
        'arch': {'embed_dim': encoder.embed_dim, 'depth': encoder.depth, 'num_heads': encoder.num_heads},
        'img_size': list(encoder.img_size),
        'patch_size': list(encoder.patch_size),
        'in_channels': encoder.in_channels,
        'norm_eps': encoder.norm_eps,
        'mean': list(facts.mean or []),
        'std': list(facts.std or []),
    }
    result = {
        'target': target.name,
        'source': {
            'file': source.name,
            'sha256': sha256(source),
            'bytes': source.stat().st_size,
            'weights': opened.key,
            'format': encoder.format,
        },
        'encoder': facts_now,
        'training': dict(facts.training),
        'notes': list(encoder.notes),
        'left_out': {reason: sorted(names) for reason, names in by_reason.items()},
        'converted': datetime.datetime.now(datetime.timezone.utc).strftime('%Y-%m-%d %H:%M:%S UTC'),
        'versions': {
            'mixedae': mixedae.__version__,
            'torch': str(torch.__version__),
            'python': platform.python_version(),
        },
    }
    if facts.config is not None:
        result['config'] = facts.config
    if facts.provenance:
        result['earlier'] = facts.provenance
    return result


def sha256(path: Path) -> str:
    """Digest of a file."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def model_card(record: dict[str, Any], encoder: EncoderWeights, target: Target, file: str, facts: Facts) -> str:
    """Markdown text.

    Args:
        record: of :func:`provenance`.
        encoder: as it was written.
        target: its layout.
        file: name of the written file or folder.
        facts: of the source.
    """
    source, training = record['source'], record['training']
    height, width = encoder.img_size
    rows = [
        ('layout', target.title),
        ('width, blocks, heads', f'{encoder.embed_dim}, {encoder.depth}, {encoder.num_heads or "not told"}'),
        ('image, patch (height x width)', f'{height} x {width} px, {_times(encoder.patch_size)} px'),
        ('channels', encoder.in_channels),
        ('epsilon of the LayerNorms', f'{encoder.norm_eps:g}'),
        ('LayerNorm after the last block', 'yes' if encoder.has_norm else 'no'),
        ('decoder', 'yes' if encoder.decoder else 'no'),
    ]
    if facts.mean and facts.std:
        rows.append(('pixels (0..255)', f'minus {list(facts.mean)}, divided by {list(facts.std)}'))
    origin = [
        ('source file', source['file']),
        ('its SHA-256', source['sha256']),
        ('its format', source['format']),
        ("its weights' key", source['weights'] or 'top of the file'),
        *((f'training: {name}', value) for name, value in training.items()),
        ('converted', record['converted']),
        ('versions', ', '.join(f'{name} {version}' for name, version in record['versions'].items())),
    ]
    parts = [
        f'# {file}\n',
        'A plain vision transformer, converted by `tools/convert_checkpoint.py` of mixedae.\n',
        _table('encoder', rows),
        _table('provenance', origin),
    ]
    sentence = pretext(facts)
    if sentence:
        parts.append(sentence + '\n')
    parts.append('## Use\n\n' + _fenced(usage(encoder, target.name, file), 'python'))
    if record['notes']:
        parts.append('## Done to the weights\n\n' + '\n'.join(f'- {note}' for note in record['notes']) + '\n')
    if record['left_out']:
        lines = [f'- {len(names)} ({reason}): {_some(names)}' for reason, names in record['left_out'].items()]
        parts.append('## Left out\n\n' + '\n'.join(lines) + '\n')
    if 'earlier' in record:
        text = json.dumps({k: v for k, v in record['earlier'].items() if k != 'config'}, indent=2, default=str)
        parts.append('## Before\n\nThe source was itself converted:\n\n' + _fenced(text, 'json') + '\n')
    if 'config' in record:
        parts.append('## Config of the training\n\n' + _fenced(record['config'], 'python') + '\n')
    return '\n'.join(parts)


def _times(pair: tuple[int, int]) -> str:
    return f'{pair[0]} x {pair[1]}'


def _table(title: str, rows: list[tuple[str, Any]]) -> str:
    def cell(value: Any) -> str:
        return readable(str(value)).replace('|', '\\|')

    return (
        '\n'.join([f'| {title} | |', '|---|---|', *(f'| {cell(key)} | {cell(value)} |' for key, value in rows)]) + '\n'
    )


def _some(names: list[str], most: int = 4) -> str:
    more = f' and {len(names) - most} more' if len(names) > most else ''
    shown = [readable(name).replace('`', "'") for name in names[:most]]
    return ', '.join(f'`{name}`' for name in shown) + more


def _fenced(text: str, language: str) -> str:
    """A code block whose fence the text cannot close."""
    fence = '```'
    while fence in text:
        fence += '`'
    return f'{fence}{language}\n{text.rstrip()}\n{fence}\n'
