"""A file that would run code while it is read is refused, with a sentence, on every way on which we load a file."""

import importlib
import logging
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from mixedae.checkpoints import CheckpointError, read_checkpoint, read_file
from mixedae.checkpoints.reading import TRUST
from mixedae.models import MixedAEViT
from tools import replay as replay_tool
from tools import test as test_tool
from tools import train as train_tool

REPO = Path(__file__).resolve().parents[2]


class Calls:
    """Unpickled, it makes a file."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, 'w')


@pytest.fixture
def evil(tmp_path):
    """(a file that runs code, the file that this code makes)"""
    marker, path = tmp_path / 'it_ran', tmp_path / 'evil.pth'
    content = {'state_dict': {'blocks.0.norm1.weight': torch.zeros(8)}, 'meta': dict(epoch=1, iter=1), 'optimizer': {}}
    torch.save({**content, 'x': Calls(marker)}, path)
    return path, marker


@pytest.fixture
def config(tmp_path):
    """A tiny pre-training config without data."""
    path = tmp_path / 'tiny.py'
    path.write_text(f"""
_base_ = '{REPO}/mmcfg/pretrain/mixedae_vit-tiny-p16_8xb512-amp-coslr-300e_in1k.py'
model = dict(encoder=dict(arch=dict(_delete_=True, embed_dim=16, depth=2, num_heads=2), img_size=32, patch_size=8),
             decoder=dict(embed_dim=16, depth=1, num_heads=2))
train_dataloader = dict(batch_size=4, num_workers=0, persistent_workers=False, pin_memory=False,
                        dataset=dict(root='{tmp_path}', size=32))
""")
    from PIL import Image

    for k in range(4):
        Image.new('RGB', (40, 40)).save(tmp_path / f'{k}.png')
    return path


def test_fixture__the_code_would_run(evil):
    path, marker = evil
    torch.load(path, weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize('read', [read_file, read_checkpoint])
@pytest.mark.parametrize('legacy', [False, True])
def test_reader(evil, tmp_path, read, legacy):
    path, marker = evil
    if legacy:
        path = tmp_path / 'legacy.pth'
        torch.save({'x': Calls(marker)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=rf'was refused: it asks for .*open.*name the file in {TRUST}'):
        read(path)
    assert not marker.exists()


def test_reader__trusted_by_name(evil, tmp_path, monkeypatch):
    """The file that is named, and no other."""
    path, marker = evil
    other = tmp_path / 'other.pth'
    other.write_bytes(path.read_bytes())
    monkeypatch.setenv(TRUST, str(path))
    with pytest.raises(CheckpointError):
        read_file(other)
    assert not marker.exists()
    read_file(path)
    assert marker.exists()


def test_train__trust_option(evil, monkeypatch):
    monkeypatch.delenv(TRUST, raising=False)
    assert train_tool.parse_args(['c.py', '--trust-checkpoint', 'a', '--trust-checkpoint', 'b']).trust_checkpoint == [
        'a',
        'b',
    ]
    monkeypatch.setenv(TRUST, '')
    train_tool.trust(['a', 'b'])
    assert os.environ[TRUST] == os.pathsep.join('ab')


def test_init_cfg(evil):
    path, marker = evil
    backbone = MixedAEViT(
        arch=dict(embed_dim=8, depth=1, num_heads=1),
        img_size=32,
        out_indices=(0,),
        init_cfg=dict(type='Pretrained', checkpoint=str(path)),
    )
    with pytest.raises(CheckpointError, match='was refused'):
        backbone.init_weights()
    assert not marker.exists()


def tool_says(capsys, tool, *arguments):
    code = tool.main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return code, said.err + said.out


@pytest.mark.parametrize('way', ['resume', 'load_from', 'newest'])
def test_train_tool(evil, config, tmp_path, capsys, monkeypatch, way):
    monkeypatch.setattr(logging, 'raiseExceptions', False)  # loggers of earlier tests write to closed streams
    path, marker = evil
    work_dir = tmp_path / 'w'
    options = {
        'resume': ['--resume', path],
        'load_from': ['--cfg-options', f'load_from={path}'],
        'newest': ['--resume'],
    }
    if way == 'newest':
        work_dir.mkdir()
        (work_dir / 'epoch_7.pth').write_bytes(path.read_bytes())
        (work_dir / 'last_checkpoint').write_text(str(work_dir / 'epoch_7.pth'))
    code, said = tool_says(capsys, train_tool, config, '--work-dir', work_dir, *options[way])
    assert code == 2 and 'was refused: it asks for' in said and 'Traceback' not in said
    assert not marker.exists()


def test_replay_tool(evil, capsys):
    path, marker = evil
    code, said = tool_says(capsys, replay_tool, path)
    assert code == 2 and 'was refused' in said and not marker.exists()


def test_test_tool(evil, tmp_path, capsys):
    path, marker = evil
    config = tmp_path / 'seg.py'
    config.write_text(f"_base_ = '{REPO}/mmcfg/ade20k/mixedae_vit-tiny-p16_upernet_1xb8-2k_ade20k-192x192.py'")
    code, said = tool_says(capsys, test_tool, config, path)
    assert code == 2 and 'was refused' in said and not marker.exists()


def other_tools():
    """Command lines that take a checkpoint: (module, arguments before it, after it)."""
    yield 'tools.analysis.cls_attention', ['CONFIG', 'EVIL', '--images', 'IMAGES', '--out', 'OUT']
    yield 'tools.analysis.topk_accuracy', ['CONFIG', 'EVIL', '--images', 'IMAGES', '--out', 'OUT']
    yield 'tools.convert_checkpoint', ['EVIL', 'OUT', '--to', 'timm']
    yield 'tools.convert_checkpoint', ['PICKLE', 'OUT', '--to', 'mae']
    yield 'tools.convert_checkpoint', ['FOLDER', 'OUT', '--to', 'mixedae']
    yield 'tools.propose_boxes', ['IMAGES', '--method', 'ncut', '--checkpoint', 'EVIL', '--out', 'OUT']


@pytest.mark.parametrize('module, arguments', list(other_tools()))
def test_other_tools(evil, config, tmp_path, capsys, module, arguments):
    path, marker = evil
    folder = tmp_path / 'hugging_face'
    folder.mkdir()
    (folder / 'config.json').write_text('{"model_type": "vit"}')
    pickled = path.read_bytes()
    (folder / 'pytorch_model.bin').write_bytes(pickled)
    (tmp_path / 'model.pkl').write_bytes(pickled)
    Image.new('RGB', (32, 32)).save(tmp_path / '0.jpg')
    known = dict(CONFIG=config, EVIL=path, IMAGES=tmp_path, OUT=tmp_path / 'out')
    known |= dict(PICKLE=tmp_path / 'model.pkl', FOLDER=folder)
    code, said = tool_says(capsys, importlib.import_module(module), *[known.get(word, word) for word in arguments])
    assert code == 2 and ('was refused' in said or 'not a' in said), said
    assert 'Traceback' not in said
    assert not marker.exists()


def test_every_reader_of_ours_is_the_safe_one():
    """No other place of the project unpickles, or reads with torch, numpy or MMEngine in a way that could run code."""
    allowed = {
        'mixedae/checkpoints/reading.py',  # the safe reader itself
        'mixedae/checkpoints/old_torch.py',  # the same before PyTorch 2.6; attacked in test_old_torch.py
        'mixedae/checkpoints/numpy_pickle.py',  # detectron2's files, with a list of what they may name
        'mixedae/engine/runner.py',  # calls Runner.load_checkpoint with what the safe reader has read
    }
    unsafe = ('torch.load(', 'pickle.load', 'Unpickler(', '_load_checkpoint(', 'allow_pickle=True', 'joblib', 'dill')
    found = {}
    for folder in ('mixedae', 'object_aware', 'tools', 'mmcfg'):
        for file in (REPO / folder).rglob('*.py'):
            name = file.relative_to(REPO).as_posix()
            lines = [line for line in file.read_text().splitlines() if any(w in line for w in unsafe)]
            lines = [line for line in lines if 'weights_only=True' not in line]
            if lines and name not in allowed:
                found[name] = lines
    assert not found


def test_npz_index__pickles_are_refused(tmp_path):
    import numpy as np

    from object_aware import CropIndex

    marker = tmp_path / 'it_ran'
    np.savez(tmp_path / 'index.npz', header=np.array([Calls(marker)], dtype=object), names=np.array([1]))
    with pytest.raises(ValueError):
        CropIndex.load(tmp_path / 'index.npz')
    assert not marker.exists()
