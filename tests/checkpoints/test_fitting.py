"""Resampling to another size: values, not only shapes."""

import pytest
import torch
import torch.nn.functional as F

from mixedae.checkpoints import CheckpointError, load_backbone
from mixedae.checkpoints.fitting import fit_axis_table, fit_bias_table, fit_patch_embed, fit_pos_embed, table_grid
from mixedae.models import MixedAEViT
from tests.checkpoints import layouts
from tests.checkpoints.layouts import ARCH, PATCH, SIDE, randomise


@pytest.mark.parametrize(
    'rows, grid, told, expected',
    [
        (17, None, None, ((4, 4), 1)),
        (16, None, None, ((4, 4), 0)),
        (37, None, (4, 9), ((4, 9), 1)),  # told: 36 patches need not be 6 x 6
        (36, None, (4, 9), ((4, 9), 0)),
        (37, (6, 6), None, ((6, 6), 1)),
        (17, (4, 9), None, ((4, 4), 1)),
        (37, (4, 9), (4, 9), ((4, 9), 1)),
        (19, (3, 6), None, ((3, 6), 1)),
        (17, None, (5, 5), ((4, 4), 1)),  # told wrongly (another layer's grid): what the rows say counts
    ],
)
def test_table_grid(rows, grid, told, expected):
    assert table_grid(rows, grid, told, 'a.pth') == expected


def test_table_grid__unknown():
    with pytest.raises(CheckpointError, match=r'of a\.pth has 19 rows.*source_grid'):
        table_grid(19, (4, 4), None, 'a.pth')


@pytest.mark.parametrize(
    'rows, grid, choices',
    [(37, (4, 9), '6 x 6 patches with .* or 4 x 9'), (16, (3, 5), '4 x 4 patches without .* or 3 x 5')],
)
def test_table_grid__never_guessed(rows, grid, choices):
    with pytest.raises(CheckpointError, match=f'{choices} patches with .*give source_grid'):
        table_grid(rows, grid, None, 'a.pth')


@pytest.mark.parametrize('old, new', [((4, 4), (6, 6)), ((4, 9), (6, 6)), ((3, 5), (6, 10)), ((8, 8), (4, 2))])
@pytest.mark.parametrize('old_prefix, prefix', [(1, 1), (0, 1), (1, 0), (0, 0)])
def test_pos_embed__values_and_class_row(old, new, old_prefix, prefix, generator):
    table = torch.randn(1, old_prefix + old[0] * old[1], 8, generator=generator)
    wanted = torch.zeros(1, prefix + new[0] * new[1], 8)
    found, change = fit_pos_embed(table, wanted, new, prefix, old, 'a.pth')
    patches = table[:, old_prefix:].reshape(1, *old, 8).permute(0, 3, 1, 2)
    expected = F.interpolate(patches, new, mode='bicubic', antialias=True).flatten(2).transpose(1, 2)
    torch.testing.assert_close(found[:, prefix:], expected)
    if prefix:
        row = table[:, :1] if old_prefix else torch.zeros(1, 1, 8)
        assert torch.equal(found[:, :1], row)
    assert found.shape == wanted.shape and f'{old[0]} x {old[1]} -> {new[0]} x {new[1]} patches' in change


def test_bias_table__as_timm(generator):
    from timm.layers import resize_rel_pos_bias_table_simple

    table = torch.randn(7 * 7 + 3, 2, generator=generator)
    wanted = torch.zeros(11 * 11 + 3, 2)
    found = fit_bias_table(table, wanted, (6, 6), 1, None)
    torch.testing.assert_close(found, resize_rel_pos_bias_table_simple(table, (6, 6), (124, 2)))
    assert torch.equal(found[-3:], table[-3:])


def test_bias_table__rectangles_and_rows_of_the_class_token(generator):
    table = torch.randn(5 * 9 + 3, 2, generator=generator)  # of a grid of 3 x 5
    wide = torch.zeros(7 * 7 + 3, 2)
    found = fit_bias_table(table, wide, (4, 4), 1, (3, 5))
    expected = F.interpolate(table[:45].t().reshape(1, 2, 5, 9), (7, 7), mode='bicubic').flatten(2)[0].t()
    torch.testing.assert_close(found, torch.cat([expected, table[45:]]))
    without = fit_bias_table(table[:45], wide, (4, 4), 1, (3, 5))  # made without [CLS]: its rows are zero
    torch.testing.assert_close(without, torch.cat([expected, torch.zeros(3, 2)]))
    torch.testing.assert_close(fit_bias_table(table, wide[:49], (4, 4), 0, (3, 5)), expected)
    assert fit_bias_table(table, wide, (4, 4), 1, None).shape == table.shape, 'a grid that is not known is left to fail'


def test_bias_table__same_rows_other_sides(generator):
    """3 x 5 and 5 x 3 have tables of the same length."""
    table = torch.randn(5 * 9 + 3, 2, generator=generator)
    assert torch.equal(fit_bias_table(table, table, (5, 3), 1, None), table), 'nothing is told: taken as it is'
    found = fit_bias_table(table, table, (5, 3), 1, (3, 5))
    expected = F.interpolate(table[:45].t().reshape(1, 2, 5, 9), (9, 5), mode='bicubic').flatten(2)[0].t()
    torch.testing.assert_close(found, torch.cat([expected, table[45:]]))


def test_axis_table__linear_as_in_vitdet(generator):
    table = torch.randn(13, 4, generator=generator)
    found = fit_axis_table(table, torch.zeros(27, 4))
    expected = F.interpolate(table.reshape(1, 13, -1).permute(0, 2, 1), size=27, mode='linear')
    torch.testing.assert_close(found, expected.reshape(-1, 27).permute(1, 0))


def test_patch_embed__enlarged_image_gives_the_same_tokens(generator):
    """A projection of 8 px patches, resampled to 16 px, sees in an image of twice the size what it saw before."""
    weight = torch.randn(5, 3, 8, 8, generator=generator)
    image = torch.randn(1, 3, 32, 32, generator=generator)
    large = torch.cat(  # each patch enlarged on its own, as the resampling assumes
        [
            torch.cat([F.interpolate(part, (16, 16), mode='bicubic', antialias=True) for part in row.split(8, 3)], 3)
            for row in image.split(8, 2)
        ],
        2,
    )
    found = fit_patch_embed(weight, torch.zeros(5, 3, 16, 16))
    torch.testing.assert_close(
        F.conv2d(large, found, stride=16), F.conv2d(image, weight, stride=8), atol=1e-3, rtol=1e-3
    )


def test_patch_embed__channels(generator):
    weight = torch.randn(5, 3, 8, 8, generator=generator)
    grey = torch.randn(1, 1, 16, 16, generator=generator)
    expected = F.conv2d(grey.expand(-1, 3, -1, -1), weight, stride=8)
    one = fit_patch_embed(weight, torch.zeros(5, 1, 8, 8))
    torch.testing.assert_close(F.conv2d(grey, one, stride=8), expected, atol=1e-4, rtol=1e-4)
    four = fit_patch_embed(weight, torch.zeros(5, 4, 8, 8))
    torch.testing.assert_close(four, weight[:, [0, 1, 2, 0]] * 0.75)


def backbone(**changes):
    return MixedAEViT(**{**dict(arch=ARCH, img_size=SIDE, patch_size=PATCH, out_indices=(2,)), **changes})


@pytest.mark.parametrize('change', [dict(patch_size=16), dict(in_channels=4), dict(in_channels=1)])
def test_load__patch_embedding_is_adapted_only_if_asked(change):
    state = randomise(layouts.MaeViT()).state_dict()
    target = backbone(**change)
    with pytest.raises(CheckpointError, match='adapt_patch_embed=True in init_cfg, which resamples it'):
        load_backbone(target, state, log=False)
    report = load_backbone(target, state, log=False, adapt_patch_embed=True)
    expected = fit_patch_embed(state['patch_embed.proj.weight'], target.patch_embed.proj.weight)
    assert torch.equal(target.patch_embed.proj.weight, expected)
    assert report.resampled['patch_embed.proj.weight'].startswith('32 x 3 x 8 x 8 -> 32 x ')


def test_load__through_init_cfg(tmp_path):
    torch.save(randomise(layouts.MaeViT()).state_dict(), tmp_path / 'a.pth')
    entry = dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth'), adapt_patch_embed=True)
    target = backbone(patch_size=16, init_cfg=entry)
    target.init_weights()
    state = randomise(layouts.MaeViT()).state_dict()
    assert torch.equal(target.blocks[2].mlp.fc2.weight, state['blocks.2.mlp.fc2.weight'])
    assert torch.equal(
        target.patch_embed.proj.weight, fit_patch_embed(state['patch_embed.proj.weight'], torch.zeros(32, 3, 16, 16))
    )
    with pytest.raises(ValueError, match="has no setting 'adapt'"):
        backbone(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth'), adapt=True)).init_weights()


def test_load__relative_positions_of_other_sizes():
    source = backbone(rel_pos='decomposed', window_size=2, global_blocks=(2,))
    state = randomise(source).state_dict()
    target = backbone(rel_pos='decomposed', window_size=3, global_blocks=(2,), img_size=48)
    report = load_backbone(target, state, log=False)
    assert report.resampled['blocks.0.attn.rel_pos_h'] == '3 x 16 -> 5 x 16'
    assert report.resampled['blocks.2.attn.rel_pos_w'] == '7 x 16 -> 11 x 16'
    expected = F.interpolate(state['blocks.2.attn.rel_pos_w'].t()[None], size=11, mode='linear')[0].t()
    torch.testing.assert_close(target.blocks[2].attn.rel_pos_w, expected)

    source = backbone(rel_pos='shared')
    state = randomise(source).state_dict()
    target = backbone(rel_pos='shared', img_size=48)
    assert list(load_backbone(target, state, log=False).resampled) == [
        'pos_embed',
        'rel_pos_bias.relative_position_bias_table',
    ]
    per_block = backbone(rel_pos='table')
    load_backbone(per_block, state, log=False)
    for block in per_block.blocks:
        assert torch.equal(block.attn.relative_position_bias_table, state['rel_pos_bias.relative_position_bias_table'])
