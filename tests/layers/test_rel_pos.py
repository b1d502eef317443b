"""Relative positions: every entry by hand, resampling, equal to timm's BEiT and SAM functions."""

import pytest
import torch
from timm.layers.pos_embed_rel import resize_rel_pos_bias_table_simple
from timm.models.beit import gen_relative_position_index
from timm.models.vision_transformer_sam import get_decomposed_rel_pos_bias

from mixedae.layers.rel_pos import (
    axis_table,
    decomposed_terms,
    resample_bias_table,
    table_bias,
    table_size,
)
from tests.layers.spatial_oracles import table_entry


@pytest.mark.parametrize('prefix', [0, 1])
@pytest.mark.parametrize('grid', [(2, 3), (3, 3), (1, 4)])
def test_table_bias__every_entry(grid, prefix):
    table = torch.randn(table_size(grid, prefix), 2, dtype=torch.float64)
    bias = table_bias(table, grid, grid, prefix)
    places = ['cls'] * prefix + [(y, x) for y in range(grid[0]) for x in range(grid[1])]
    assert bias.shape == (1, 2, len(places), len(places))
    for i, query in enumerate(places):
        for j, key in enumerate(places):
            assert torch.equal(bias[0, :, i, j], torch.as_tensor(table_entry(table, grid, query, key)))


def test_table_bias__equals_timm_beit():
    grid = (3, 5)
    table = torch.randn(table_size(grid), 4)
    index = gen_relative_position_index(grid)
    assert torch.equal(table_bias(table, grid, grid)[0], table[index].permute(2, 0, 1))


def test_table_bias__trains_after_inference_mode():
    table = torch.zeros(table_size((2, 5)), 1, requires_grad=True)
    with torch.inference_mode():
        table_bias(table, (2, 5), (2, 5))
    table_bias(table, (2, 5), (2, 5)).sum().backward()
    assert table.grad.sum() == 11 * 11


def test_table_bias__gradient_counts_the_pairs_of_an_offset():
    table = torch.zeros(table_size((2, 2)), 1, requires_grad=True)
    table_bias(table, (2, 2), (2, 2)).sum().backward()
    # offsets (dy, dx) of a 2 x 2 grid occur (2 - |dy|)(2 - |dx|) times; [CLS] to 4 patches, 4 patches to [CLS], itself
    assert table.grad[:, 0].tolist() == [1, 2, 1, 2, 4, 2, 1, 2, 1, 4, 4, 1]


def test_resample_bias_table__equals_timm_and_keeps_cls():
    table = torch.randn(table_size((4, 4)), 3)
    new = resample_bias_table(table, (4, 4), (6, 6))
    torch.testing.assert_close(new, resize_rel_pos_bias_table_simple(table, (6, 6), (table_size((6, 6)), 3)))
    assert torch.equal(new[-3:], table[-3:])
    flipped = resample_bias_table(table, (4, 4), (5, 7))
    assert flipped.shape == (table_size((5, 7)), 3)


def test_resample_bias_table__constant_stays_constant():
    new = resample_bias_table(torch.full((table_size((3, 4), 0), 2), 1.5), (3, 4), (7, 2), 0)
    torch.testing.assert_close(new, torch.full((table_size((7, 2), 0), 2), 1.5))


def test_resample_bias_table__wrong_rows():
    with pytest.raises(ValueError, match='A bias table for 3 x 3 has 28 rows, not 25'):
        resample_bias_table(torch.zeros(25, 2), (3, 3), (4, 4))


def test_axis_table__every_entry():
    rel_pos = torch.randn(2 * 4 - 1, 3)
    table = axis_table(rel_pos, 4)
    for i in range(4):
        for j in range(4):
            assert torch.equal(table[i, j], rel_pos[i - j + 3])


def test_axis_table__linear_by_hand():
    """Three entries to five, half-pixel centres: new place i reads old place (i + 0.5) * 3 / 5 - 0.5."""
    rel_pos = torch.tensor([[0.0], [1.0], [4.0]])
    new = axis_table(rel_pos, 3)  # (3, 3, 1) from 5 entries
    at = [max((i + 0.5) * 3 / 5 - 0.5, 0) for i in range(5)]
    old = [0.0, 1.0, 4.0]
    by_hand = [old[int(a)] + (a - int(a)) * (old[min(int(a) + 1, 2)] - old[int(a)]) for a in at]
    for i in range(3):
        for j in range(3):
            assert new[i, j, 0].item() == pytest.approx(by_hand[i - j + 2])


@pytest.mark.parametrize('kept', [(3, 4), (5, 5)])
def test_decomposed_terms__product_is_timms_bias(kept):
    grid = (3, 4)
    q = torch.randn(2, 2, 12, 8, dtype=torch.float64)
    rel_pos_h, rel_pos_w = (torch.randn(2 * side - 1, 8, dtype=torch.float64) for side in kept)
    to_add, one_hot = decomposed_terms(q, rel_pos_h, rel_pos_w, grid)
    assert to_add.shape == (2, 2, 12, 7) and one_hot.shape == (12, 7)
    expected = get_decomposed_rel_pos_bias(q.flatten(0, 1), rel_pos_h, rel_pos_w, grid, grid)
    torch.testing.assert_close((to_add @ one_hot.T).flatten(0, 1), expected)
