"""Reading config files, with one sentence for each way that can fail, and going through them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config


def read_config(path: str, options: dict | None = None) -> Config:
    """Reads a config file and merges ``KEY=VALUE`` options into it.

    Raises:
        FileNotFoundError: no such file, or a ``_base_`` of it is missing.
        ValueError: the file is not a config, or an option does not fit it.
        ImportError: a module of ``custom_imports`` is missing.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'The config {path} does not exist: see the folder mmcfg/ for those that do.')
    if Path(path).suffix not in ('.py', '.json', '.yaml', '.yml'):
        raise ValueError(f'{path} is not a config: its name should end in .py, .json or .yaml.')
    try:
        cfg = Config.fromfile(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f'The config {path} needs a file that is missing ({error}).') from None
    except ImportError as error:
        raise ImportError(f'The config {path} needs a module that does not import ({error}): run `make env`.') from None
    except (SyntaxError, NameError, KeyError, TypeError, AttributeError, AssertionError) as error:
        # AssertionError: mmdet and mmseg, where the config imports them, and the installed mmcv is not one of theirs
        raise ValueError(f'The config {path} cannot be read ({type(error).__name__}: {error}).') from error
    if options:
        try:
            cfg.merge_from_dict(options)
        except (KeyError, TypeError, IndexError, AssertionError) as error:
            raise ValueError(f'--cfg-options does not fit the config ({error}).') from None
    if not cfg.get('model'):
        raise ValueError(f'{path} is no config of a run: it has no model.')
    return cfg


def walk(node: Any) -> Iterator[dict]:
    """All dictionaries inside a config node."""
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from walk(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from walk(value)
