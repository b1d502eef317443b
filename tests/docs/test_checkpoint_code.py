"""docs/checkpoints.md, from the command that converts to the code of other libraries that reads, with a real ViT-B."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from mixedae.models import MixedAE
from tools import convert_checkpoint

PAGE = (Path(__file__).resolve().parents[2] / 'docs' / 'checkpoints.md').read_text(encoding='utf-8')
SOURCE = 'work_dirs/pretrain/epoch_800.pth'
DECODER = dict(embed_dim=64, depth=1, num_heads=4)
CFG = f"model = dict(type='mixedae.MixedAE', encoder=dict(arch='base'), decoder={DECODER})"


@pytest.fixture(scope='module')
def images():
    return torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope='module')
def exported(tmp_path_factory, images):
    """A folder with the checkpoint of the page and what its commands for timm and Hugging Face make of it."""
    folder = tmp_path_factory.mktemp('exported')
    model = MixedAE(encoder=dict(arch='base'), decoder=DECODER, topk_ratio=None).eval()
    (folder / SOURCE).parent.mkdir(parents=True)
    torch.save({'state_dict': model.state_dict(), 'meta': dict(cfg=CFG, iter=1, epoch=0)}, folder / SOURCE)
    for line in re.findall(r'^\.venv/bin/python tools/convert_checkpoint\.py (.*)$', PAGE, flags=re.M):
        words = shlex.split(line)
        if words[0] == SOURCE and words[words.index('--to') + 1] in ('timm', 'hf', 'hf-mae'):
            assert convert_checkpoint.main([str(folder / words[0]), str(folder / words[1]), *words[2:]]) == 0
    with torch.no_grad():
        return folder, model.extract(images)


@pytest.mark.parametrize('library', ['timm', 'transformers'])
def test_page__code_reads_what_the_commands_wrote(exported, images, library, monkeypatch):
    """Strictly into timm's `vit_base_patch16_224` and Hugging Face's ViT, with our features."""
    pytest.importorskip(library)
    folder, expected = exported
    monkeypatch.chdir(folder)
    (block,) = [block for block in re.findall(r'^```py\n(.*?)^```', PAGE, flags=re.S | re.M) if library in block]
    names = {'images': images}
    with torch.no_grad():
        exec(compile(block, 'checkpoints.md', 'exec'), names)
    torch.testing.assert_close(names['tokens'], expected, atol=1e-4, rtol=1e-4)
