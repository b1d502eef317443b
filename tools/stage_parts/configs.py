"""Config files that a tool writes: they inherit one of mmcfg/ and say only what differs."""

from __future__ import annotations

import os
import pprint
from pathlib import Path
from typing import Any


def write_config(
    path: Path, base: Path, overrides: dict[str, Any], title: str, commands: list[str], writer: str = 'tools/demo.py'
) -> Path:
    """Write a config file that inherits `base`. An unchanged file is left alone, its time too.

    Args:
        commands: lines that run it, for the docstring.
        writer: the tool that writes it, for the docstring.
    """
    inherited = os.path.relpath(base, path.resolve().parent)
    lines = [
        f'"""{title}',
        '',
        f'Written by {writer}; run by',
        '',
        *[f'    {command}' for command in commands],
        '"""',
        '',
    ]
    lines += [f"_base_ = ['{Path(inherited).as_posix()}']", '']
    for name, value in overrides.items():
        lines.append(f'{name} = {pprint.pformat(value, width=110, sort_dicts=False)}')
    text = '\n'.join(lines) + '\n'
    if not path.is_file() or path.read_text(encoding='utf-8') != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding='utf-8')
    return path


def schedule(iterations: int) -> dict[str, Any]:
    """Warm-up over a tenth, then cosine to zero."""
    warmup = max(1, iterations // 10)
    return {
        'max_iters': iterations,
        'warmup_iters': warmup,
        'train_cfg': {'max_iters': iterations},
        'param_scheduler': [
            {'type': 'LinearLR', 'start_factor': 0.01, 'by_epoch': False, 'begin': 0, 'end': warmup},
            {
                'type': 'CosineAnnealingLR',
                'T_max': iterations - warmup,
                'by_epoch': False,
                'begin': warmup,
                'end': iterations,
            },
        ],
    }


def log_interval(iterations: int) -> dict[str, int]:
    """A line of the log about 60 times in a run."""
    return {'interval': max(1, iterations // 60)}
