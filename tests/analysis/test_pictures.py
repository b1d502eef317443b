"""Attention of patches, pictures of the pretext task, bounds of the contrastive loss."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mixedae.analysis import patch_attention, pretraining_rows
from mixedae.analysis.contrastive_bounds import contrastive_floor, contrastive_uniform
from mixedae.analysis.pictures import HIDDEN, nearest
from mixedae.functional import draw_mixing_mask, homologous_contrastive_loss
from mixedae.models import MAE, MixedAE

TINY = dict(arch=dict(embed_dim=16, depth=3, num_heads=2), img_size=32, patch_size=8)
DECODER = dict(embed_dim=16, depth=1, num_heads=2)
PREPROCESSOR = dict(type='mmengine.ImgDataPreprocessor', mean=[120.0] * 3, std=[60.0] * 3)


def build(cls: type, **options) -> torch.nn.Module:
    torch.manual_seed(0)
    return cls(TINY, DECODER, data_preprocessor=PREPROCESSOR, **options).eval()


def test_patch_attention__equals_a_plain_computation() -> None:
    model = build(MixedAE)
    tokens = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(1))
    found = patch_attention(model.encoder, tokens)
    encoder = model.encoder
    x = torch.cat([(encoder.cls_token + encoder.pos_embed[:, :1]).expand(2, -1, -1), tokens], 1)
    with torch.no_grad():
        for block in encoder.blocks[:2]:
            x = block(x)
        block = encoder.blocks[2]
        qkv = block.attn.qkv(block.norm1(x)).view(2, 17, 3, 2, 8)
    for b in range(2):
        for query in range(1, 17):
            expected = np.zeros(16)
            for head in range(2):
                q, k = qkv[b, query, 0, head], qkv[b, :, 1, head]
                scores = (k @ q / 8**0.5).double().numpy()
                kept = [0, *(np.argsort(-scores[1:], kind='stable')[:4] + 1)]  # [CLS] and K = 4 patches
                weights = np.zeros(17)
                weights[kept] = np.exp(scores[kept]) / np.exp(scores[kept]).sum()
                expected += weights[1:] / 2
            np.testing.assert_allclose(found[b, query - 1].numpy(), expected, atol=1e-5)
    first = patch_attention(model.encoder, tokens, layer=0)
    assert (first > 0).all()  # the first block is global


def test_pretraining_rows__mixedae() -> None:
    model = build(MixedAE)
    pixels = torch.randint(1, 250, (8, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    pixels[pixels == HIDDEN] = 0
    columns, rows = pretraining_rows(model, pixels, seed=3)
    assert columns[:5] == ['source', 'mixing mask', 'mix', 'unmixed', 'reconstruction']
    assert {picture.shape for row in rows for picture in row} == {(32, 32, 3)}
    assert [len(row) for row in rows] == [7] * 8
    for group in (rows[:4], rows[4:]):
        seen = np.stack([(row[3] != HIDDEN).any(-1) for row in group])
        assert (seen.sum(0) == 1).all()  # each pixel of the mix is of one image
        mix = sum(np.where(s[..., None], row[3].astype(int), 0) for s, row in zip(seen, group))
        assert np.abs(mix - group[0][2]).max() <= 1
        for s, row in zip(seen, group):
            np.testing.assert_array_equal(row[3][s], row[0][s])
            assert np.abs(row[4].astype(int) - row[0])[s].max() <= 1  # its own patches are pasted in
            assert np.abs(row[4].astype(int) - row[0])[~s].max() > 20
    again = pretraining_rows(model, pixels, seed=3)[1]
    assert all((a == b).all() for x, y in zip(rows, again) for a, b in zip(x, y))


@pytest.mark.parametrize(('topk_ratio', 'kept'), [(0.5, 8), (0.25, 4), (None, 4)])
def test_pretraining_rows__frames_around_the_kept_patches(topk_ratio: float | None, kept: int) -> None:
    model = build(MixedAE, topk_ratio=topk_ratio)
    pixels = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    _, rows = pretraining_rows(model, pixels)
    corners = np.stack([row[-1][::8, ::8] for row in rows])  # of each patch: in its frame
    assert set((corners > 0).any(-1).sum((1, 2)).tolist()) <= {kept, kept + 1}  # the query has one, too


def test_pretraining_rows__without_decoder_and_mae() -> None:
    pixels = torch.randint(0, 250, (4, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    columns, rows = pretraining_rows(build(MixedAE, reconstruction_weight=0), pixels)
    assert 'reconstruction' not in columns
    assert len(rows[0]) == len(columns) == 6
    columns, rows = pretraining_rows(build(MAE), pixels[:3])
    assert columns[:3] == ['source', 'visible', 'reconstruction']
    hidden = (rows[0][1] == HIDDEN).all(-1)
    assert hidden.sum() >= 12 * 64  # three quarters of the 16 patches
    np.testing.assert_array_equal(rows[0][1][~hidden], rows[0][0][~hidden])


def test_nearest__own_patch() -> None:
    own = np.zeros(16, dtype=bool)
    own[[0, 7, 15]] = True
    assert nearest(own, 10, (4, 4)) == 7  # one up, one across, as far as 15: the first of equals
    assert nearest(own, 0, (4, 4)) == 0


@pytest.mark.parametrize(('length', 'group_size', 'temperature'), [(16, 4, 0.25), (12, 2, 0.5), (12, 3, 1.0)])
def test_contrastive_floor__is_reached_and_not_passed(length: int, group_size: int, temperature: float) -> None:
    floor = contrastive_floor(length, group_size, temperature)
    generator = torch.Generator().manual_seed(0)
    mask = draw_mixing_mask(1, length, group_size, generator=generator)
    corners = torch.eye(group_size, dtype=torch.float64) - 1 / group_size
    simplex = homologous_contrastive_loss(corners[mask], mask, temperature)
    assert simplex.item() == pytest.approx(floor, abs=1e-6)
    features = torch.randn(1, length, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.Adam([features], lr=0.05)
    for _ in range(150):
        loss = homologous_contrastive_loss(features, mask, temperature)
        assert loss.item() >= floor - 1e-6
        solver.zero_grad()
        loss.backward()
        solver.step()
    assert loss.item() == pytest.approx(floor, abs=2e-2)


def test_contrastive_uniform__features_that_are_all_alike() -> None:
    mask = draw_mixing_mask(1, 16, 4, generator=torch.Generator().manual_seed(0))
    alike = homologous_contrastive_loss(torch.ones(1, 16, 3), mask)
    assert alike.item() == pytest.approx(contrastive_uniform(16)) == pytest.approx(math.log(15))
