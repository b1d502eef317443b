"""Writing converted checkpoints: a file, or a folder of Hugging Face, each with its model card, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mixedae.checkpoints.card import model_card, provenance, sha256
from mixedae.checkpoints.encoder_weights import EncoderWeights
from mixedae.checkpoints.exporting import Target, name_for
from mixedae.checkpoints.facts import PROVENANCE, Facts
from mixedae.checkpoints.formats import StateDict
from mixedae.checkpoints.reading import CheckpointError
from mixedae.checkpoints.selecting import Weights, open_weights

Writer = Callable[[Path], None]


def write(
    encoder: EncoderWeights,
    target: Target,
    opened: Weights,
    out: str | Path,
    *,
    safetensors: bool = False,
    force: bool = False,
) -> list[Path]:
    """Writes an encoder in a library's layout, reads it again and compares.

    Args:
        encoder: of :func:`mixedae.checkpoints.exporting.prepare`.
        target: the layout.
        opened: where it comes from.
        out: the file (``.pth`` or ``.safetensors``), or the folder for Hugging Face.
        safetensors: write safetensors whatever the suffix of ``out`` is; folders always hold it.
        force: overwrite.

    Returns:
        The written files.

    Raises:
        FileExistsError: ``out`` is there and ``force`` is off.
        CheckpointError: what was written does not read as it should.
    """
    out = Path(out).expanduser()
    if not target.folder and safetensors and out.suffix != '.safetensors':
        out = out.with_suffix('.safetensors')
    check_out(out, target, opened, force)
    record = provenance(opened, encoder, target)
    weights = name_for(encoder, target)
    card = model_card(record, encoder, target, out.name, opened.facts)
    text = _text_writer(card)
    if target.folder:
        files: dict[str, Writer] = {
            'model.safetensors': _safetensors_writer(weights, record),
            'config.json': _json_writer(huggingface_config(encoder, target)),
            'README.md': text,
        }
        if opened.facts.mean and opened.facts.std:
            files['preprocessor_config.json'] = _json_writer(huggingface_pixels(encoder, opened.facts))
        _write_folder(out, files)
        written = [out / name for name in files]
    else:
        binary = (
            _safetensors_writer(weights, record)
            if out.suffix == '.safetensors'
            else _torch_writer(weights, record, target)
        )
        out.parent.mkdir(parents=True, exist_ok=True)
        card_file = out.with_name(f'{out.name}.md')
        _write_file(out, binary)
        _write_file(card_file, text)
        written = [out, card_file]
    return written


def check_out(out: Path, target: Target, opened: Weights, force: bool) -> None:
    """Refuses to overwrite, and to write over the source."""
    source = Path(opened.source).resolve()
    if target.folder:
        if out.suffix in ('.pth', '.pt', '.safetensors', '.bin'):
            raise ValueError(f'{target.title} is a folder (config.json, model.safetensors): give a folder, not {out}.')
        if out.exists() and not out.is_dir():
            raise FileExistsError(f'{out} is a file; {target.title} is written as a folder.')
        if source.parent == out.resolve():
            raise FileExistsError(f'{out} holds the source: give another folder.')
        if out.is_dir() and any(out.iterdir()) and not force:
            raise FileExistsError(f'The folder {out} is not empty; --force overwrites its files.')
        return
    if out.suffix not in ('.pth', '.pt', '.safetensors'):
        raise ValueError(f'{out} must end in .pth or .safetensors.')
    if out.resolve() == source:
        raise FileExistsError(f'{out} is the source: give another name.')
    if out.is_dir():
        raise FileExistsError(f'{out} is a folder.')
    for file in (out, out.with_name(f'{out.name}.md')):
        if file.exists() and not force:
            raise FileExistsError(f'{file} is there already; --force overwrites it.')


def huggingface_config(encoder: EncoderWeights, target: Target) -> dict[str, Any]:
    """``config.json`` of ``ViTModel`` or ``ViTMAEModel``. Their default epsilon is 1e-12, so it is stated."""
    height, width = encoder.img_size
    patch = encoder.patch_size
    config: dict[str, Any] = {
        'architectures': ['ViTModel'],
        'model_type': 'vit',
        'hidden_size': encoder.embed_dim,
        'num_hidden_layers': encoder.depth,
        'num_attention_heads': encoder.num_heads,
        'intermediate_size': encoder.hidden_dim,
        'hidden_act': 'gelu',
        'hidden_dropout_prob': 0.0,
        'attention_probs_dropout_prob': 0.0,
        'layer_norm_eps': encoder.norm_eps,
        'image_size': height if height == width else [height, width],
        'patch_size': patch[0] if patch[0] == patch[1] else list(patch),
        'num_channels': encoder.in_channels,
        'qkv_bias': True,
        'torch_dtype': 'float32',
    }
    if target.name == 'hf-mae':
        config.update(architectures=['ViTMAEModel'], model_type='vit_mae', mask_ratio=0.75, norm_pix_loss=True)
        if encoder.decoder:
            if encoder.decoder_heads is None:
                raise CheckpointError('The number of heads of the decoder is not known: leave --with-decoder out.')
            blocks = {name.split('.')[1] for name in encoder.decoder if name.startswith('blocks.')}
            config.update(
                architectures=['ViTMAEForPreTraining'],
                decoder_hidden_size=encoder.decoder['embed.weight'].shape[0],
                decoder_num_hidden_layers=len(blocks),
                decoder_num_attention_heads=encoder.decoder_heads,
                decoder_intermediate_size=encoder.decoder['blocks.0.mlp.fc1.weight'].shape[0],
            )
    return config


def huggingface_pixels(encoder: EncoderWeights, facts: Facts) -> dict[str, Any]:
    """``preprocessor_config.json``: resizing and the training's pixel statistics, in 0..1."""
    height, width = encoder.img_size
    return {
        'image_processor_type': 'ViTImageProcessor',
        'do_resize': True,
        'size': {'height': height, 'width': width},
        'resample': 3,
        'do_rescale': True,
        'rescale_factor': 1 / 255,
        'do_normalize': True,
        'image_mean': [value / 255 for value in facts.mean],
        'image_std': [value / 255 for value in facts.std],
    }


def _text_writer(text: str) -> Writer:
    def write_to(path: Path) -> None:
        path.write_text(text, encoding='utf-8')

    return write_to


def _json_writer(content: dict) -> Writer:
    return _text_writer(json.dumps(content, indent=2) + '\n')


def _torch_writer(weights: StateDict, record: dict, target: Target) -> Writer:
    def write_to(path: Path) -> None:
        torch.save({target.key: weights, 'meta': {PROVENANCE: record}}, path)
        _verify(path, weights)

    return write_to


def _safetensors_writer(weights: StateDict, record: dict) -> Writer:
    try:
        from safetensors.torch import save_file
    except ImportError:
        raise CheckpointError('Writing safetensors needs its package: pip install safetensors.') from None
    metadata = {'format': 'pt', PROVENANCE: json.dumps(record)}
    # safetensors stores no tensor twice and no views: each of its own
    own = {name: weight.clone().contiguous() for name, weight in weights.items()}

    def write_to(path: Path) -> None:
        path.touch()
        mode = path.stat().st_mode  # what the umask gives; save_file makes files that only their owner can read
        save_file(own, path, metadata=metadata)
        path.chmod(mode)
        _verify(path, weights)

    return write_to


def _write_file(path: Path, writer: Writer) -> None:
    """Under another name first, so that a file is never half written under its own."""
    temporary = path.with_name(f'.tmp-{os.getpid()}-{path.name}')  # with the suffix, by which it is read again
    try:
        writer(temporary)
        os.replace(temporary, path)
        digest_file = path.with_name(f'{path.name}.sha256')
        if digest_file.is_file():  # of the file that stood here before
            digest_file.write_text(f'{sha256(path)}  {path.name}\n')
    finally:
        temporary.unlink(missing_ok=True)


def _write_folder(out: Path, files: dict[str, Writer]) -> None:
    """A new folder appears whole; in one that is there each file is replaced whole."""
    if out.is_dir():
        for name, writer in files.items():
            _write_file(out / name, writer)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f'.tmp-{os.getpid()}-{out.name}')
    temporary.mkdir()
    try:
        for name, writer in files.items():
            writer(temporary / name)
        os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _verify(path: Path, weights: StateDict) -> None:
    """Reads the file again, safely; every weight must be the same."""
    again = open_weights(path).state_dict
    if set(again) != set(weights) or not all(torch.equal(again[name], weight) for name, weight in weights.items()):
        raise CheckpointError(f'{path} reads back with other weights than were written: the disk may be damaged.')
