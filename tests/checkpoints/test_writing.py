"""Files that conversion writes: the card beside them, provenance, and that none is ever half there."""

import json
import re

import pytest
import torch

from mixedae.checkpoints import CheckpointError, open_weights, read_file
from mixedae.checkpoints.exporting import TARGETS
from mixedae.models import MixedAEViT
from tests.checkpoints import layouts
from tests.checkpoints.exported import CFG, close, convert, pretraining, saved, tokens_of
from tests.checkpoints.layouts import ARCH, HEADS, PATCH, SIDE, images, randomise


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_card__and_provenance(tmp_path, suffix):
    source = saved(tmp_path, pretraining())
    out, card = convert(source, 'timm', tmp_path / f'out{suffix}')
    text = card.read_text()
    import hashlib

    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    for part in (
        digest,
        'iter_40.pth',
        'mixedae pre-training',
        '| training: iter | 40 |',
        '20260102_030405',
        'TopK attention (K/L = 0.25)',
        '`encoder.segment_embed`',
        "checkpoint_path='out",
        'minus [123.675, 116.28, 103.53]',
    ):
        assert part in text, part
    assert str(tmp_path) not in text, 'no path of this machine'
    fence = re.search(r'^(`{4,})python\n(.*?)^\1$', text, flags=re.S | re.M)
    assert fence and CFG.replace('{size}', str((SIDE, SIDE))).strip() in fence[2], 'the config, whole, in one block'
    if suffix == '.pth':
        record = read_file(out)['meta']['mixedae']
    else:
        from safetensors import safe_open

        with safe_open(out, framework='pt') as file:
            record = json.loads(file.metadata()['mixedae'])
    assert record['source'] == dict(
        file='iter_40.pth',
        sha256=digest,
        bytes=source.stat().st_size,
        weights='state_dict',
        format='mixedae pre-training',
    )
    assert record['encoder']['arch'] == ARCH and record['encoder']['img_size'] == [SIDE, SIDE]
    assert record['training']['iter'] == 40 and record['config'].startswith('model = dict(')
    # and read again: the grid, heads and the earlier record are known
    opened = open_weights(out)
    assert (opened.facts.grid, opened.facts.num_heads) == ((4, 4), HEADS)
    assert opened.facts.mean == (123.675, 116.28, 103.53)
    again, card = convert(out, 'mae', tmp_path / 'again.pth')
    assert read_file(again)['meta']['mixedae']['earlier']['source']['sha256'] == digest
    assert '## Before' in card.read_text() and digest in card.read_text()


@pytest.mark.parametrize('target', list(TARGETS))
def test_card__its_lines_run(tmp_path, target):
    """The lines under "Use" are Python; those of timm and Hugging Face load the file as they stand."""
    model = pretraining()
    folder = TARGETS[target].folder
    out = tmp_path / ('out' if folder else 'out.pth')
    files = convert(saved(tmp_path, model), target, out)
    text = next(file for file in files if file.suffix == '.md').read_text()
    code = re.search(r'^## Use\n\n```python\n(.*?)^```$', text, flags=re.S | re.M)[1]
    code = compile(code.replace("'out", f"'{tmp_path}/out"), target, 'exec')
    if target.startswith('hf'):
        pytest.importorskip('transformers')
    names = {'images': images(), 'model': layouts.MaeViT()}
    exec(code, names)
    if target == 'timm':
        assert names['model'].training
        close(names['model'].eval().forward_features(images()), tokens_of(model))
    if target == 'hf':
        close(names['tokens'], tokens_of(model))
    if target == 'mae':
        with torch.no_grad():
            close(names['model'](images()), tokens_of(model))
    if target == 'mixedae':
        names['backbone'].pop('type')
        ours = MixedAEViT(**names['backbone'])
        ours.init_weights()
        assert torch.equal(ours.norm.bias, model.encoder.norm.bias)


@pytest.mark.parametrize(
    'settings',
    [
        dict(rel_pos='table', abs_pos_embed=False, init_values=0.1),
        dict(rel_pos='shared', out_norm='none', norm_eps=1e-5),
        dict(rel_pos='decomposed', with_cls_token=False, mlp_ratio=2.0, in_channels=4),
    ],
)
def test_card__states_the_settings_of_our_backbone(tmp_path, settings):
    model = randomise(MixedAEViT(ARCH, img_size=SIDE, patch_size=PATCH, out_indices=(2,), **settings))
    cfg = f"model = dict(backbone=dict(type='mixedae.MixedAEViT', arch={ARCH}, img_size={SIDE}, patch_size={PATCH}"
    cfg += f', norm_eps={settings.get("norm_eps", 1e-6)}))'
    state = {f'backbone.{name}': value for name, value in model.state_dict().items()}
    torch.save({'state_dict': state, 'meta': dict(cfg=cfg)}, tmp_path / 'a.pth')
    _, card = convert(tmp_path / 'a.pth', 'mixedae', tmp_path / 'out.pth')
    code = re.search(r'^## Use\n\n```python\n(.*?)^```$', card.read_text(), flags=re.S | re.M)[1]
    names = {}
    exec(code.replace("'out", f"'{tmp_path}/out"), names)
    names['backbone'].pop('type')
    ours = MixedAEViT(**names['backbone'])
    ours.init_weights()
    x = images(channels=settings.get('in_channels', 3))
    with torch.no_grad():
        assert torch.equal(ours.eval()(x)[0], model(x)[0])


def test_write__nothing_is_left_of_a_failed_one(tmp_path, monkeypatch):
    source = saved(tmp_path, pretraining())
    (tmp_path / 'out').mkdir()
    before = sorted(tmp_path.rglob('*'))

    def full(*_, **__):
        raise OSError('No space left on device')

    monkeypatch.setattr(torch, 'save', full)
    with pytest.raises(OSError, match='No space left'):
        convert(source, 'timm', tmp_path / 'out' / 'a.pth')
    monkeypatch.setattr('safetensors.torch.save_file', full)
    with pytest.raises(OSError, match='No space left'):
        convert(source, 'hf', tmp_path / 'hf')
    assert sorted(tmp_path.rglob('*')) == before


def test_write__the_old_file_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    source = saved(tmp_path, pretraining())
    (tmp_path / 'a.pth').write_bytes(b'old')

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr('os.replace', killed)
    with pytest.raises(KeyboardInterrupt):
        convert(source, 'timm', tmp_path / 'a.pth', force=True)
    assert (tmp_path / 'a.pth').read_bytes() == b'old'
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a.pth', 'iter_40.pth']


def test_write__a_file_that_reads_back_otherwise_is_not_put_in_place(tmp_path, monkeypatch):
    source = saved(tmp_path, pretraining())
    save = torch.save

    def damaged(content, path):
        content['state_dict'] = {k: v + (k == 'norm.bias') for k, v in content['state_dict'].items()}
        save(content, path)

    monkeypatch.setattr(torch, 'save', damaged)
    with pytest.raises(CheckpointError, match='reads back with other weights'):
        convert(source, 'timm', tmp_path / 'a.pth')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['iter_40.pth']


def test_write__does_not_overwrite_unless_told(tmp_path):
    source = saved(tmp_path, pretraining())
    content = source.read_bytes()
    with pytest.raises(FileExistsError, match='is the source'):
        convert(source, 'timm', source, force=True)
    (tmp_path / 'a.pth').write_bytes(b'mine')
    with pytest.raises(FileExistsError, match='--force overwrites it'):
        convert(source, 'timm', tmp_path / 'a.pth')
    assert (tmp_path / 'a.pth').read_bytes() == b'mine' and source.read_bytes() == content
    convert(source, 'timm', tmp_path / 'a.pth', force=True)
    assert 'pos_embed' in open_weights(tmp_path / 'a.pth').state_dict
    (tmp_path / 'a.pth.sha256').write_text('0' * 64)
    convert(source, 'timm', tmp_path / 'a.pth', force=True)
    open_weights(tmp_path / 'a.pth')  # the digest beside it is that of the new file
    (tmp_path / 'hf').mkdir()
    (tmp_path / 'hf' / 'notes.txt').write_text('mine')
    with pytest.raises(FileExistsError, match='is not empty; --force overwrites its files'):
        convert(source, 'hf', tmp_path / 'hf')
    convert(source, 'hf', tmp_path / 'hf', force=True)
    assert (tmp_path / 'hf' / 'notes.txt').read_text() == 'mine', 'other files stay'
    convert(tmp_path / 'hf', 'mae', tmp_path / 'b.pth')
    with pytest.raises(FileExistsError, match='holds the source'):
        convert(tmp_path / 'hf', 'hf', tmp_path / 'hf', force=True)
    with pytest.raises(ValueError, match='is a folder'):
        convert(source, 'hf', tmp_path / 'x.safetensors')
    with pytest.raises(ValueError, match='must end in'):
        convert(source, 'timm', tmp_path / 'x.zip')
    assert not [path for path in tmp_path.rglob('*') if 'tmp-' in path.name]


def test_write__files_can_be_read_by_others(tmp_path):
    """safetensors' own writer makes files that only their owner can read, whatever the umask says."""
    source = saved(tmp_path, pretraining())
    for name in ('a.pth', 'a.safetensors'):
        out, card = convert(source, 'timm', tmp_path / name)
        assert out.stat().st_mode == card.stat().st_mode
