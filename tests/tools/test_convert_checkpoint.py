"""The command: what it prints, what it writes, and one line with status 2 where it cannot."""

import json
import re
import shlex
import subprocess
import sys

import pytest
import timm
import torch

from tests.checkpoints import layouts
from tests.checkpoints.layouts import ARCH, DEPTH, DIM, PATCH, SIDE, images, randomise
from tools.convert_checkpoint import TARGETS, main


@pytest.fixture
def source(tmp_path):
    path = tmp_path / 'mae.pth'
    torch.save({'model': randomise(layouts.MaePretraining()).state_dict(), 'epoch': 3}, path)
    return path


def test_targets__are_those_of_the_package():
    from mixedae.checkpoints.exporting import TARGETS as LAYOUTS

    assert tuple(LAYOUTS) == TARGETS, 'written twice, so that --help needs no torch'


@pytest.mark.parametrize('target', TARGETS)
def test_main__writes_every_layout(source, tmp_path, target, capsys):
    out = tmp_path / ('hf' if target.startswith('hf') else 'out.pth')
    assert main([str(source), str(out), '--to', target, '--heads', '2']) == 0
    text = capsys.readouterr().out
    assert text.startswith(
        f'{source}: MAE pre-training, width {DIM}, {DEPTH} blocks, {SIDE} x {SIDE} px, patch {PATCH} px'
    )
    assert "left out, the pretext task's decoder: decoder_" in text and f'wrote {out}' in text
    if target.startswith('hf'):
        assert sorted(file.name for file in out.iterdir()) == ['README.md', 'config.json', 'model.safetensors']
        config = json.loads((out / 'config.json').read_text())
        assert (config['num_attention_heads'], config['layer_norm_eps'], config['image_size']) == (2, 1e-6, SIDE)
    else:
        assert (tmp_path / 'out.pth.md').is_file()


def test_main__safetensors_by_option(source, tmp_path):
    assert main([str(source), str(tmp_path / 'out.pth'), '--to', 'timm', '--safetensors']) == 0
    assert not (tmp_path / 'out.pth').exists()
    model = timm.create_model(
        'vit_tiny_patch16_224',
        img_size=SIDE,
        patch_size=PATCH,
        num_classes=0,
        **ARCH,
        checkpoint_path=str(tmp_path / 'out.safetensors'),
    )
    reference = randomise(layouts.MaePretraining())
    with torch.no_grad():
        torch.testing.assert_close(model.eval().forward_features(images()), reference(images()), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    'arguments, sentence',
    [
        (['nowhere.pth', 'out.pth', '--to', 'timm'], 'does not exist'),
        (['SOURCE', 'hf', '--to', 'hf'], 'give it with --heads'),
        (['SOURCE', 'SOURCE', '--to', 'timm', '--force'], 'is the source'),
        (['SOURCE', 'out.pth', '--to', 'timm', '--weights', 'teacher'], "no weights under 'teacher'; it has model"),
        (['SOURCE', 'out.pth', '--to', 'timm', '--with-decoder'], 'There is no decoder'),
        (['SOURCE', 'out.zip', '--to', 'timm'], 'must end in .pth or .safetensors'),
        (['text.pth', 'out.pth', '--to', 'timm'], 'text.pth is not a'),
    ],
)
def test_main__one_line_and_status_2(source, tmp_path, monkeypatch, capsys, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'text.pth').write_text('hello')
    before = sorted(tmp_path.rglob('*'))
    assert main([str(source) if word == 'SOURCE' else word for word in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith('error: ') and captured.err.count('\n') == 1 and sentence in captured.err
    assert captured.out == '' and sorted(tmp_path.rglob('*')) == before


def test_script__runs_from_any_folder(source, tmp_path, repo):
    command = [sys.executable, str(repo / 'tools' / 'convert_checkpoint.py'), str(source), 'sub/out.pth', '--to', 'mae']
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'sub' / 'out.pth').is_file() and 'Traceback' not in done.stderr


def test_docs__commands_and_lines_of_the_page_run(repo, tmp_path, monkeypatch):
    """docs/checkpoints.md, with ViT-Ti for ViT-B: every conversion, then the lines for timm and Hugging Face."""
    pytest.importorskip('transformers')
    from mixedae.models import MAE

    page = (repo / 'docs' / 'checkpoints.md').read_text(encoding='utf-8')
    monkeypatch.chdir(tmp_path)
    model = MAE(encoder=dict(arch='tiny'), decoder=dict(embed_dim=32, depth=1, num_heads=2))
    cfg = "model = dict(type='MAE', encoder=dict(arch='tiny'), decoder=dict(embed_dim=32, depth=1, num_heads=2))"
    (tmp_path / 'work_dirs' / 'pretrain').mkdir(parents=True)
    state = dict(state_dict=model.eval().state_dict(), meta=dict(cfg=cfg))
    torch.save(state, tmp_path / 'work_dirs' / 'pretrain' / 'epoch_800.pth')
    commands = re.findall(r'^\.venv/bin/python tools/convert_checkpoint\.py (.*)$', page, flags=re.M)
    assert len(commands) == len(TARGETS)
    for command in commands:
        assert main(shlex.split(command)) == 0
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.extract(x)
        for block in re.findall(r'^```py\n(.*?)^```$', page, flags=re.S | re.M):
            names = {'images': x}
            exec(block.replace('vit_base', 'vit_tiny'), names)
            torch.testing.assert_close(names['tokens'], expected, atol=2e-5, rtol=1e-4)
    assert names['autoencoder'].config.decoder_hidden_size == 32


@pytest.mark.slow
def test_pack__trained_checkpoint_in_timm_on_photographs(repo, pack, tmp_path):
    """Our trained ViT-Ti, if it is there: features of photographs in timm are ours."""
    import numpy as np
    from PIL import Image

    from mixedae.checkpoints import load_pretrained
    from mixedae.models import MixedAEViT

    trained = repo / 'work_dirs' / 'pack' / 'pretrain' / 'iter_4000.pth'
    if not trained.is_file():
        pytest.skip('no trained checkpoint of the pack')
    assert main([str(trained), str(tmp_path / 'out.safetensors'), '--to', 'timm']) == 0
    files = sorted((pack / 'det' / 'images').glob('*.jpg'))[:4]
    pixels = [np.array(Image.open(file).convert('RGB').resize((128, 128))) for file in files]
    x = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float()
    x = (x - torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)) / torch.tensor([58.395, 57.12, 57.375]).view(
        3, 1, 1
    )
    ours = MixedAEViT('tiny', img_size=128, out_indices=(11,)).eval()
    load_pretrained(ours, trained, log=False)
    theirs = timm.create_model(
        'vit_tiny_patch16_224', img_size=128, num_classes=0, checkpoint_path=str(tmp_path / 'out.safetensors')
    ).eval()
    with torch.no_grad():
        found, expected = theirs.forward_features(x)[:, 1:], ours(x)[0].flatten(2).transpose(1, 2)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    assert expected.std() > 0.1
