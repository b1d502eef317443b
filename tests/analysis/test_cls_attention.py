"""[CLS] attention against tests/oracles.py, its summaries, and the command line."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import oracles
import pytest
import torch

from mixedae.analysis import box_shares, cls_attention, concentration, normalise
from mixedae.analysis.figures import heat_overlay
from mixedae.models import MixedAE

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tools.analysis import cls_attention as tool


def pixels_for(count=3):
    return torch.randint(0, 256, (count, 3, 16, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def last_scores(model, pixels):
    """(B, H, N, N) scores of the last block on whole images, from q and k as they come out of its layers."""
    seen = {}
    hook = model.encoder.blocks[-1].register_forward_pre_hook(lambda m, args: seen.update(x=args[0]))
    model(normalise(model, pixels))
    hook.remove()
    block = model.encoder.blocks[-1]
    q, k, _ = (t.detach().double().numpy() for t in block.attn.project_qkv(block.norm1(seen['x'])))
    return oracles.attention_scores(q, k)


def test_cls_attention__oracle(run):
    model, pixels = run[0], pixels_for()
    maps = cls_attention(model, pixels, batch_size=2)
    scores = last_scores(model, pixels)
    weights = oracles.softmax_over(scores, oracles.kept_keys(scores, 6, 1, 'keep'))
    expected = weights[:, :, 0, 1:].mean(1).reshape(3, 4, 6)
    assert maps.shape == (3, 4, 6)
    np.testing.assert_allclose(maps.numpy(), expected, atol=1e-6)
    assert (maps.sum((1, 2)) < 1).all()


def test_cls_attention__competing_cls_keeps_k_keys():
    torch.manual_seed(0)
    encoder = dict(arch=dict(embed_dim=16, depth=3, num_heads=2), img_size=(16, 24), patch_size=4, cls='compete')
    model = MixedAE(encoder=encoder, decoder=dict(embed_dim=8, depth=1, num_heads=2)).eval()
    pixels = torch.randn(2, 3, 16, 24)
    scores = last_scores(model, pixels)
    weights = oracles.softmax_over(scores, oracles.kept_keys(scores, 6, 1, 'compete'))
    expected = weights[:, :, 0, 1:].mean(1).reshape(2, 4, 6)
    np.testing.assert_allclose(cls_attention(model, pixels).numpy(), expected, atol=1e-6)
    assert (expected > 0).sum((1, 2)).max() <= 12  # at most K patches a head


def test_cls_attention__global_attention_is_undone(run):
    model, pixels = run[0], pixels_for()
    before = cls_attention(model, pixels)
    everywhere = cls_attention(model, pixels, global_attention=True)
    assert not torch.allclose(before, everywhere)  # the blocks below differ
    assert [b.attn.topk_ratio for b in model.encoder.blocks] == [None, 0.25, 0.25]
    assert torch.equal(cls_attention(model, pixels), before)


def test_concentration__flat_and_single():
    maps = torch.zeros(3, 2, 4)
    maps[0] = 0.1
    maps[1, 1, 2] = 0.7
    maps[2, 0] = 0.2
    torch.testing.assert_close(concentration(maps), torch.tensor([1.0, 1 / 8, 1 / 2]))


def test_box_shares__covered_parts():
    maps = torch.full((3, 2, 4), 0.1)
    maps[2] = 0
    maps[2, 0, 0] = 0.5
    boxes = torch.tensor([[0, 0, 0.5, 1], [0.125, 0.25, 0.5, 0.75], [0, 0, 0.125, 0.5]])
    inside, area = box_shares(maps, boxes)
    torch.testing.assert_close(area, torch.tensor([0.5, 0.1875, 0.0625]))
    torch.testing.assert_close(inside, torch.tensor([0.5, 0.1875, 0.5]))  # flat maps give the area


def test_heat_overlay__dark_where_low():
    image = np.full((8, 8, 3), 200, np.uint8)
    lit = heat_overlay(image, np.array([[0.0, 0.0], [0.0, 1.0]]), strength=0.5)
    assert lit.shape == image.shape and lit[7, 7, 0] == 200 and lit[0, 0, 0] == 100
    np.testing.assert_array_equal(heat_overlay(image, np.ones((2, 2))), image)


def test_cls_attention_tool(run, mae_run, crop_index, tmp_path):
    out = tmp_path / 'out'
    arguments = [run[1], run[2], '--compare', mae_run[1], mae_run[2], '--name', 'MixedAE', '--name', 'MAE']
    assert tool.main([*arguments, '--crops', str(crop_index), '--count', '6', '--show', '2', '--out', str(out)]) == 0
    numbers = json.loads((out / 'cls_attention.json').read_text())
    maps = np.load(out / 'cls_attention.npz')
    assert sorted(maps.files) == ['MAE', 'MixedAE'] and maps['MAE'].shape == (6, 4, 6)
    for name in ('MixedAE', 'MAE'):
        row = numbers['models'][name]
        assert row['attention_on_patches'] == pytest.approx(maps[name].sum((1, 2)).mean(), rel=1e-4)
        assert 0 < row['inside_box'] < 1 and 0 < row['box_area'] < 1
        share = maps[name] / maps[name].sum((1, 2), keepdims=True)
        entropy = -(share * np.log(np.clip(share, 1e-30, None))).sum((1, 2))
        assert row['spread'] == pytest.approx(np.mean([math.exp(e) for e in entropy]) / 24, rel=1e-4)
    assert numbers['count'] == 6 and len(numbers['names']) == 6
    assert (out / 'cls_attention.png').stat().st_size > 2000


def test_cls_attention_tool__bad_input(run, tmp_path, capsys):
    assert tool.main([run[1], run[2], '--images', str(tmp_path / 'none'), '--out', str(tmp_path / 'out')]) == 2
    assert capsys.readouterr().err.startswith('error: ')
