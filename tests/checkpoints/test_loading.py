"""Loading into the backbone: formats are recognised, every name is accounted for, positions are resampled."""

import pytest
import timm
import torch
import torch.nn.functional as F

from mixedae.checkpoints import CheckpointError, find_format, load_backbone
from mixedae.models import MAE, MixedAE, MixedAEViT

ARCH = dict(embed_dim=32, depth=2, num_heads=2)
ENCODER = dict(arch=ARCH, img_size=32, patch_size=8)
DECODER = dict(embed_dim=16, depth=1, num_heads=2)


def backbone(**changes):
    return MixedAEViT(**{**dict(arch=ARCH, img_size=32, patch_size=8, out_indices=(1,)), **changes})


def accounted_for(report, state_dict, target):
    """Each name of the file was loaded or left out, each name of the backbone was loaded or is missing."""
    used = {source for sources in report.loaded.values() for source in sources}
    assert used | set(report.left_out) == set(state_dict) and not used & set(report.left_out)
    assert set(report.loaded) | set(report.missing) == set(target.state_dict())
    assert not set(report.loaded) & set(report.missing)


@pytest.mark.parametrize('model_cls', [MixedAE, MAE])
def test_load__own_pretraining(model_cls):
    state = model_cls(encoder=ENCODER, decoder=DECODER).state_dict()
    target = backbone()
    report = load_backbone(target, state, log=False)
    accounted_for(report, state, target)
    assert report.format == 'mixedae pre-training' and report.missing == [] and report.resampled == {}
    assert all(torch.equal(target.state_dict()[name], state[f'encoder.{name}']) for name in report.loaded)
    assert ('encoder.segment_embed' in report.left_out) == (model_cls is MixedAE)
    assert {name.split('.')[0] for name in report.left_out} - {'encoder'} <= {'decoder', 'projector'}


def test_load__timm():
    state = timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=5
    ).state_dict()
    target = backbone()
    report = load_backbone(target, state, log=False)
    accounted_for(report, state, target)
    assert list(report.left_out) == ['head.weight', 'head.bias'] and report.missing == []


def facebook_mae_state():
    """The names of facebookresearch/mae's pre-training checkpoints."""
    torch.manual_seed(3)
    state = {f'{k}': v for k, v in backbone().state_dict().items()}
    state |= {'mask_token': torch.zeros(1, 1, 16), 'decoder_pos_embed': torch.zeros(1, 17, 16)}
    state |= {'decoder_blocks.0.attn.qkv.weight': torch.zeros(48, 16), 'decoder_pred.bias': torch.zeros(192)}
    return state


def test_load__facebook_mae():
    state, target = facebook_mae_state(), backbone()
    report = load_backbone(target, state, log=False)
    accounted_for(report, state, target)
    assert list(report.left_out) == [name for name in state if name.startswith(('mask_token', 'decoder_'))] != []
    assert torch.equal(target.blocks[1].mlp.fc2.weight, state['blocks.1.mlp.fc2.weight'])


def test_load__mm_model():
    torch.manual_seed(4)
    state = {f'backbone.{k}': v for k, v in backbone(init_values=0.1).state_dict().items()}
    state |= {'neck.up2.weight': torch.zeros(2), 'decode_head.conv_seg.weight': torch.zeros(2)}
    target = backbone(init_values=1.0)
    report = load_backbone(target, state, log=False)
    accounted_for(report, state, target)
    assert report.format == 'mm model with this backbone'
    assert list(report.left_out) == ['neck.up2.weight', 'decode_head.conv_seg.weight'] and report.missing == []
    assert torch.equal(target.blocks[0].ls1.gamma, torch.full((32,), 0.1))


def test_load__missing_keep_their_values():
    target = backbone(init_values=1.0, out_norm='each')
    report = load_backbone(target, facebook_mae_state(), log=False)
    assert set(report.missing) == {
        *(f'blocks.{i}.ls{j}.gamma' for i in (0, 1) for j in (1, 2)),
        'out_norms.0.weight',
        'out_norms.0.bias',
    }
    assert torch.equal(target.blocks[1].ls2.gamma, torch.ones(32))
    assert 'norm.weight' in report.left_out


def test_load__fewer_outputs_leave_blocks_out():
    target = backbone(out_indices=(0,))
    report = load_backbone(target, facebook_mae_state(), log=False)
    assert report.missing == [] and 'blocks.1.attn.qkv.weight' in report.left_out and 'norm.weight' in report.left_out


@pytest.mark.parametrize('img_size, grid', [(64, (8, 8)), ((40, 56), (5, 7)), (16, (2, 2))])
def test_load__positions_resampled_class_token_kept(img_size, grid):
    state, target = facebook_mae_state(), backbone(img_size=img_size)
    state['pos_embed'] = torch.randn(1, 17, 32)
    report = load_backbone(target, state, log=False)
    table = state['pos_embed'][:, 1:].reshape(1, 4, 4, 32).permute(0, 3, 1, 2)
    expected = F.interpolate(table, grid, mode='bicubic', antialias=True).flatten(2).transpose(1, 2)
    torch.testing.assert_close(target.pos_embed[:, 1:], expected)
    assert torch.equal(target.pos_embed[:, :1], state['pos_embed'][:, :1])
    assert report.resampled == {'pos_embed': f'4 x 4 -> {grid[0]} x {grid[1]} patches'}
    assert 'pos_embed' in report.loaded


def test_load__table_without_class_token():
    state, target = facebook_mae_state(), backbone()
    del state['cls_token']
    state['pos_embed'] = torch.randn(1, 16, 32)
    report = load_backbone(target, state, log=False)
    assert torch.equal(target.pos_embed[:, 1:], state['pos_embed'])
    assert target.pos_embed[:, 0].abs().max() == 0 and report.missing == ['cls_token']


def test_report__reads_in_a_few_lines():
    state = MixedAE(encoder=ENCODER, decoder=DECODER).state_dict()
    text = str(load_backbone(backbone(img_size=64, init_values=1.0), state, source='a.pth', log=False))
    lines = text.split('\n')
    assert lines[0] == 'a.pth: mixedae pre-training, 30 weights loaded into the backbone'
    assert lines[1] == '  resampled: pos_embed 4 x 4 -> 8 x 8 patches'
    assert lines[2] == '  left out, the segment embedding of pre-training: encoder.segment_embed'
    assert lines[3] == "  left out, the pretext task's mask token: decoder.mask_token"
    assert lines[4].startswith("  left out, the pretext task's decoder: decoder.* (")
    assert lines[5] == '  left out, the projector of the contrastive loss: projector.* (2)'
    assert lines[6:] == ['  missing, keep their initial values: blocks.* (4)']


@pytest.mark.parametrize(
    'state, changes, sentence',
    [
        ({'layer1.0.conv.weight': torch.zeros(2)}, {}, 'a.pth holds no weights of a plain vision transformer'),
        (None, dict(arch=dict(embed_dim=64, depth=2, num_heads=2)), 'does not fit the backbone'),
        (None, dict(patch_size=16), r'patch_embed.proj.weight is \(32, 3, 8, 8\) in the file'),
        (
            None,
            dict(arch=dict(embed_dim=32, depth=3, num_heads=2), out_indices=(2,)),
            'a.pth has 2 blocks, the backbone 3',
        ),
        ({'blocks.0.other': torch.zeros(2)}, {}, 'no weight of its blocks fits'),
    ],
)
def test_load__refusals(state, changes, sentence):
    target = backbone(**changes)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(CheckpointError, match=sentence):
        load_backbone(target, facebook_mae_state() if state is None else state, source='a.pth', log=False)
    assert all(torch.equal(before[name], value) for name, value in target.state_dict().items()), 'half loaded'


def test_load__table_of_no_square_grid():
    state = facebook_mae_state()
    state['pos_embed'] = torch.randn(1, 1 + 18, 32)
    with pytest.raises(CheckpointError, match=r'has 19 rows: neither .* give source_grid=\(rows, columns\)'):
        load_backbone(backbone(), state, log=False)
    target = backbone()
    report = load_backbone(target, state, log=False, source_grid=(3, 6))
    assert report.resampled == {'pos_embed': '3 x 6 -> 4 x 4 patches'}
    table = state['pos_embed'][:, 1:].reshape(1, 3, 6, 32).permute(0, 3, 1, 2)
    expected = F.interpolate(table, (4, 4), mode='bicubic', antialias=True).flatten(2).transpose(1, 2)
    torch.testing.assert_close(target.pos_embed[:, 1:], expected)
    with pytest.raises(CheckpointError, match=r'source_grid \(4, 6\) has 24 patches, .* has 19 rows'):
        load_backbone(backbone(), state, log=False, source_grid=(4, 6))
    with pytest.raises(ValueError, match=r'source_grid is \(rows, columns\) in patches, not \[6\]'):
        load_backbone(backbone(), state, log=False, source_grid=[6])
    # as many patches as the backbone has: taken to be on its grid
    target = backbone(img_size=(24, 48))
    assert not load_backbone(target, state, log=False).resampled
    assert torch.equal(target.pos_embed, state['pos_embed'])


def test_find_format__order():
    """A detector's checkpoint also has names with 'blocks.'; the prefix decides."""
    names = {'backbone.blocks.0.x': torch.zeros(1), 'encoder.blocks.0.x': torch.zeros(1)}
    assert find_format(names).name == 'mixedae pre-training'
    assert find_format({'a': torch.zeros(1)}) is None
