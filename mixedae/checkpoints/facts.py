"""What a checkpoint says of itself besides its weights: grid, heads, epsilon, iterations, config text.

Nothing of it is run or imported. The config that MMEngine stores is Python text; it is parsed, and only literals and
``dict(...)`` of literals are understood.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LONGEST_TEXT = 2_000_000
"""Characters of a config that are parsed; longer ones are no config."""

HUGGING_FACE_EPS = {
    'vit': 1e-12,
    'vit_mae': 1e-12,
    'beit': 1e-12,
    'data2vec-vision': 1e-12,
    'deit': 1e-12,
    'dinov2': 1e-6,
}
"""Default epsilon of the LayerNorms by ``model_type``."""

ONE_FILE = ('model.safetensors', 'pytorch_model.bin')
"""What a folder of Hugging Face holds its weights in; ``config.json`` beside it is theirs."""

PROVENANCE = 'mixedae'
"""Under this name a converted file says where it comes from."""


@dataclass
class Facts:
    """What a file says of its encoder; None where it says nothing.

    Attributes:
        grid: ``(h, w)`` of its position table.
        num_heads: attention heads.
        norm_eps: epsilon of its LayerNorms.
        mean: of the pixels, in 0..255.
        std: likewise.
        config: the text of the training's config.
        training: iterations, epoch, date and versions, by their names.
        provenance: of a file that was converted before.
    """

    grid: tuple[int, int] | None = None
    num_heads: int | None = None
    norm_eps: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    config: str | None = None
    training: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)


def facts_of(checkpoint: Mapping, path: str | Path | None = None) -> Facts:
    """Reads MMEngine's ``meta``, the provenance of converted files, and a ``config.json`` beside the file."""
    facts = Facts()
    meta = checkpoint.get('meta')
    meta = meta if isinstance(meta, Mapping) else {}
    if isinstance(meta.get('cfg'), str):
        facts.config = meta['cfg']
        _from_model(facts, parse_config(facts.config).get('model'))
    for key in ('iter', 'epoch', 'time', 'experiment_name', 'mmengine_version', 'seed'):
        if isinstance(meta.get(key), int | float | str):
            facts.training[key] = meta[key]
    for key in ('epoch', 'iteration', 'global_step'):
        if isinstance(checkpoint.get(key), int):
            facts.training.setdefault('iter' if key != 'epoch' else key, checkpoint[key])
    provenance = meta.get(PROVENANCE)
    if path is not None and Path(path).suffix == '.safetensors':
        provenance = _safetensors_provenance(Path(path))
    if isinstance(provenance, str):
        provenance = _json(provenance)
    if isinstance(provenance, Mapping):
        facts.provenance = dict(provenance)
        _from_encoder(facts, facts.provenance.get('encoder'))
    if path is not None and Path(path).name in ONE_FILE:
        _from_huggingface(facts, Path(path).parent / 'config.json')
    return facts


def parse_config(text: str) -> dict[str, Any]:
    """The assignments of a config whose values are literals or ``dict(...)`` of literals; the rest is left out."""
    if len(text) > LONGEST_TEXT:
        return {}
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    values = {}
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            try:
                values[statement.targets[0].id] = _literal(statement.value)
            except RecursionError:
                continue
    return values


def _literal(node: ast.expr) -> Any:
    """Value of a literal or ``dict(...)``; None for anything else."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict' and not node.args:
        return {keyword.arg: _literal(keyword.value) for keyword in node.keywords if keyword.arg}
    if isinstance(node, ast.Dict):
        return {
            key.value: _literal(value) for key, value in zip(node.keys, node.values) if isinstance(key, ast.Constant)
        }
    if isinstance(node, ast.List | ast.Tuple):
        return [_literal(item) for item in node.elts]
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError):
        return None


def _from_model(facts: Facts, model: Any) -> None:
    """Our own configs: ``model.encoder`` of pre-training, ``model.backbone`` of a detector or segmentor."""
    if not isinstance(model, dict):
        return
    encoder = model.get('encoder')
    if encoder is None and 'MixedAEViT' in str((model.get('backbone') or {}).get('type')):
        encoder = model['backbone']
    _from_encoder(facts, encoder)
    pixels = model.get('data_preprocessor')
    if isinstance(pixels, dict):
        for name in ('mean', 'std'):
            values = pixels.get(name)
            if isinstance(values, list) and all(isinstance(value, int | float) for value in values):
                setattr(facts, name, tuple(float(value) for value in values))


def _from_encoder(facts: Facts, encoder: Any) -> None:
    from mixedae.models.archs import ARCHS  # not at the top: models import checkpoints

    if not isinstance(encoder, Mapping):
        return
    arch = encoder.get('arch')
    if isinstance(arch, str) and arch in ARCHS:
        facts.num_heads = ARCHS[arch].num_heads
    elif isinstance(arch, Mapping):
        facts.num_heads = _count(arch.get('num_heads'))
    facts.grid = _grid(encoder.get('img_size', 224), encoder.get('patch_size', 16))
    eps = encoder.get('norm_eps', 1e-6)
    facts.norm_eps = float(eps) if isinstance(eps, int | float) else None
    for name in ('mean', 'std'):
        values = encoder.get(name)
        if isinstance(values, list | tuple) and values:
            setattr(facts, name, tuple(float(value) for value in values))


def _from_huggingface(facts: Facts, file: Path) -> None:
    config = _json(file.read_text(encoding='utf-8', errors='replace')) if file.is_file() else None
    if not isinstance(config, Mapping) or config.get('model_type') not in HUGGING_FACE_EPS:
        return
    facts.grid = _grid(config.get('image_size', 224), config.get('patch_size', 16))
    facts.num_heads = _count(config.get('num_attention_heads', 12))
    eps = config.get('layer_norm_eps', HUGGING_FACE_EPS[config['model_type']])
    facts.norm_eps = float(eps) if isinstance(eps, int | float) else None


def _grid(img_size: Any, patch_size: Any) -> tuple[int, int] | None:
    size, patch = _pair(img_size), _pair(patch_size)
    return None if size is None or patch is None else (size[0] // patch[0], size[1] // patch[1])


def _pair(value: Any) -> tuple[int, int] | None:
    values = [value, value] if isinstance(value, int) else value
    good = isinstance(values, list | tuple) and len(values) == 2 and all(_count(item) for item in values)
    return tuple(values) if good else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _safetensors_provenance(path: Path) -> str | None:
    from safetensors import safe_open

    with safe_open(path, framework='pt') as file:
        return (file.metadata() or {}).get(PROVENANCE)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
