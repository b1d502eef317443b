"""mixedae.MixedAEViT: equal to the pre-training encoder and to timm's ViT, at any size."""

import pytest
import timm
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS as MMENGINE_MODELS

import mixedae  # noqa: F401  (registration)
from mixedae.checkpoints import CheckpointError, load_backbone
from mixedae.functional import patchify
from mixedae.layers import resample_pos_embed
from mixedae.models import MixedAE, MixedAEViT

ARCH = dict(embed_dim=32, depth=4, num_heads=2)


def vit(**changes):
    torch.manual_seed(0)
    model = MixedAEViT(**{**dict(arch=ARCH, img_size=32, patch_size=8, out_indices=(3,)), **changes})
    return model.eval()


def pretrainer(topk_ratio=0.25):
    torch.manual_seed(1)
    encoder = dict(arch=ARCH, img_size=32, patch_size=8)
    return MixedAE(encoder=encoder, decoder=dict(embed_dim=16, depth=1, num_heads=2), topk_ratio=topk_ratio).eval()


def as_map(tokens, grid):
    return tokens[:, 1:].transpose(1, 2).unflatten(2, grid)


@pytest.mark.parametrize('topk_ratio', [None, 0.25])
def test_forward__equals_pretraining_encoder(topk_ratio):
    model, backbone = pretrainer(topk_ratio), vit(topk_ratio=topk_ratio)
    load_backbone(backbone, model.state_dict(), log=False)
    images = torch.randn(2, 3, 32, 32)
    encoder = model.encoder
    tokens = encoder.embed(patchify(images, 8)) + encoder.pos_embed[:, 1:]
    expected = encoder.norm(encoder(tokens))
    torch.testing.assert_close(backbone(images)[0], as_map(expected, (4, 4)), rtol=1e-4, atol=1e-5)


def test_forward__topk_differs_from_global():
    images = torch.randn(2, 3, 32, 32)
    assert (vit(topk_ratio=0.25)(images)[0] - vit()(images)[0]).abs().max() > 1e-4


def test_forward__equals_timm():
    reference = timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=4, num_heads=2, num_classes=0, init_values=0.5
    ).eval()
    backbone = vit(init_values=0.5, out_indices=(1, 3))
    report = load_backbone(backbone, reference.state_dict(), log=False)
    assert report.missing == [] and not report.left_out and report.format == 'MAE / timm ViT'
    images = torch.randn(2, 3, 32, 32)
    expected = reference.forward_features(images)
    torch.testing.assert_close(backbone(images)[1], as_map(expected, (4, 4)), rtol=1e-4, atol=1e-5)
    middle = reference.get_intermediate_layers(images, n=[1])[0]  # (B, L, D), raw
    torch.testing.assert_close(backbone(images)[0].flatten(2).transpose(1, 2), middle, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('size, grid', [((32, 32), (4, 4)), ((40, 24), (5, 3)), ((33, 50), (5, 7)), ((8, 8), (1, 1))])
def test_forward__any_size(size, grid):
    backbone = vit(out_indices=(0, 3))
    maps = backbone(torch.randn(2, 3, *size))
    assert [tuple(m.shape) for m in maps] == [(2, 32, *grid)] * 2
    assert all(m.is_contiguous() for m in maps)


def test_forward__pads_bottom_and_right_with_zeros():
    backbone = vit()
    images = torch.randn(1, 3, 33, 50)
    torch.testing.assert_close(backbone(images)[0], backbone(F.pad(images, (0, 6, 0, 7)))[0], rtol=0, atol=0)


def test_forward__other_grid_is_resampled_table():
    backbone = vit()
    images = torch.randn(1, 3, 40, 24)
    large = vit(img_size=(40, 24))
    state = backbone.state_dict()
    state['pos_embed'] = resample_pos_embed(state['pos_embed'], (4, 4), (5, 3), 1)
    large.load_state_dict(state)
    torch.testing.assert_close(backbone(images)[0], large(images)[0], rtol=1e-5, atol=1e-6)


def test_pos_embed_at__cached_at_inference_only():
    backbone = vit()
    with torch.no_grad():
        assert backbone.pos_embed_at((5, 3)) is backbone.pos_embed_at((5, 3))
    assert backbone.pos_embed_at((5, 3)).requires_grad
    backbone.train()
    backbone(torch.randn(1, 3, 40, 24))[0].sum().backward()
    assert backbone.pos_embed.grad.abs().sum() > 0


def change_in_place(backbone):
    backbone.pos_embed.add_(1.0)


def change_by_optimizer(backbone):
    backbone.pos_embed.grad = torch.ones_like(backbone.pos_embed)
    torch.optim.SGD([backbone.pos_embed], lr=1.0).step()


def change_as_ema_hook(backbone):
    backbone.pos_embed.data.copy_(backbone.pos_embed.data + 1.0)  # not counted by the version
    backbone.eval()


def change_by_loading(backbone):
    state = backbone.state_dict()
    state['pos_embed'] = state['pos_embed'] + 1.0
    backbone.load_state_dict(state)


def change_by_load_backbone(backbone):
    state = {k: v + 1.0 if k == 'pos_embed' else v.clone() for k, v in backbone.state_dict().items()}
    load_backbone(backbone, state, log=False)


@pytest.mark.parametrize(
    'change', [change_in_place, change_by_optimizer, change_as_ema_hook, change_by_loading, change_by_load_backbone]
)
def test_pos_embed_at__never_stale(change):
    backbone = vit()
    with torch.no_grad():
        before = backbone.pos_embed_at((5, 3)).clone()
        change(backbone)
        after = backbone.pos_embed_at((5, 3))
    assert (after - before).abs().min() > 0.9


def test_pos_embed_at__cache_is_bounded():
    backbone = vit()
    with torch.no_grad():
        for width in range(1, 30):
            backbone.pos_embed_at((5, width))
    assert len(backbone._pos_embed_cache) <= 8


def test_out_norm__values():
    images = torch.randn(2, 3, 32, 32)
    raw, final, each = (vit(out_indices=(1, 3), out_norm=kind) for kind in ('none', 'final', 'each'))
    final.load_state_dict(raw.state_dict(), strict=False)
    each.load_state_dict(raw.state_dict(), strict=False)
    with torch.no_grad():
        final.norm.weight.uniform_(0.5, 2)
        each.out_norms[0].bias.fill_(3.0)
    a, b, c = raw(images), final(images), each(images)
    torch.testing.assert_close(b[0], a[0])
    tokens = a[1].flatten(2).transpose(1, 2)
    expected = F.layer_norm(tokens, (32,), final.norm.weight, final.norm.bias, 1e-6)
    torch.testing.assert_close(b[1].flatten(2).transpose(1, 2), expected)
    for i, shift in ((0, 3.0), (1, 0.0)):
        tokens = a[i].flatten(2).transpose(1, 2)
        torch.testing.assert_close(
            c[i].flatten(2).transpose(1, 2), F.layer_norm(tokens, (32,), eps=1e-6) + shift, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize('out_norm', ['none', 'final', 'each'])
@pytest.mark.parametrize('out_indices', [(0, 2), (-1,), (1, 3)])
def test_parameters__all_get_a_gradient(out_norm, out_indices):
    backbone = vit(out_norm=out_norm, out_indices=out_indices, init_values=1.0).train()
    sum((m * torch.randn_like(m)).sum() for m in backbone(torch.randn(2, 3, 40, 24))).backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is None] == []


def test_drop_path__rises_linearly():
    backbone = vit(drop_path_rate=0.3)
    rates = [getattr(block.drop_path1, 'drop_prob', 0.0) for block in backbone.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])


def test_init_values__layer_scale():
    backbone = vit(init_values=0.5)
    assert torch.equal(backbone.blocks[2].ls1.gamma, torch.full((32,), 0.5))
    assert not any('ls1' in name for name in vit().state_dict())


@pytest.mark.parametrize('stages', [-1, 0, 2, 4])
def test_frozen_stages(stages):
    backbone = vit(frozen_stages=stages, drop_path_rate=0.5).train()
    frozen = {name for name, p in backbone.named_parameters() if not p.requires_grad}
    expected = set()
    for name, _ in backbone.named_parameters():
        depth = backbone.get_layer_depth(name)[0]
        if depth <= stages or (stages == 4 and name.startswith('norm.')):
            expected.add(name)
    assert frozen == expected
    assert [block.training for block in backbone.blocks] == [i >= max(stages, 0) for i in range(4)]


def test_with_cp__same_values_and_gradients():
    images = torch.randn(2, 3, 32, 32)
    results = []
    for with_cp in (False, True):
        backbone = vit(with_cp=with_cp).train()
        out = backbone(images)[0]
        out.square().sum().backward()
        results.append((out.detach(), backbone.patch_embed.proj.weight.grad, backbone.pos_embed.grad))
    for a, b in zip(*results):
        torch.testing.assert_close(a, b)


def test_autocast__bfloat16_stays_close():
    images = torch.randn(2, 3, 40, 24)
    backbone = vit(out_indices=(1, 3)).train()
    full = backbone(images)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        half = backbone(images)
    for a, b in zip(full, half):
        assert (a - b.float()).norm() < 0.03 * a.norm()
    sum(m.float().square().sum() for m in half).backward()
    assert all(torch.isfinite(p.grad).all() for p in backbone.parameters())


def test_autocast__without_absolute_positions_the_stream_is_float32():
    backbone = vit(abs_pos_embed=False, rel_pos='table', out_norm='none', out_indices=(0, 3))
    with torch.no_grad(), torch.autocast('cpu', dtype=torch.bfloat16):
        assert [x.dtype for x in backbone(torch.randn(1, 3, 32, 32))] == [torch.float32] * 2


def test_out_indices__one_number():
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(vit(out_indices=2)(images)[0], vit(out_indices=(2,))(images)[0])


def test_fix_pos_embed():
    assert not vit(fix_pos_embed=True).pos_embed.requires_grad
    assert vit().pos_embed.requires_grad


def test_get_layer_depth__values():
    backbone = vit(out_norm='each')
    depths = {name: backbone.get_layer_depth(f'neck.body.{name}', 'neck.body.') for name in backbone.state_dict()}
    assert {n for _, n in depths.values()} == {6}
    assert depths['patch_embed.proj.weight'][0] == depths['cls_token'][0] == depths['pos_embed'][0] == 0
    assert depths['blocks.0.norm1.weight'][0] == 1 and depths['blocks.3.mlp.fc2.bias'][0] == 4
    assert depths['out_norms.0.weight'][0] == 5
    assert backbone.get_layer_depth('decode_head.weight', 'neck.body.') == (5, 6)


def test_init_weights__pretrained_goes_through_safe_loader(tmp_path):
    model = pretrainer()
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'pretrain.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'pretrain.pth'))
    backbone = MMENGINE_MODELS.build(
        dict(type='mixedae.MixedAEViT', arch=ARCH, img_size=32, patch_size=8, out_indices=(3,), init_cfg=init_cfg)
    )
    assert not torch.equal(backbone.blocks[1].attn.qkv.weight, model.encoder.blocks[1].attn.qkv.weight)
    backbone.init_weights()
    assert torch.equal(backbone.blocks[1].attn.qkv.weight, model.encoder.blocks[1].attn.qkv.weight)
    assert torch.equal(backbone.norm.bias, model.encoder.norm.bias)
    assert backbone.init_cfg == init_cfg


def test_init_weights__missing_file():
    backbone = vit(init_cfg=dict(type='Pretrained', checkpoint='nowhere.pth'))
    with pytest.raises(FileNotFoundError, match=r'The checkpoint nowhere\.pth does not exist'):
        backbone.init_weights()


def test_init_weights__other_width(tmp_path):
    torch.save(pretrainer().state_dict(), tmp_path / 'narrow.pth')
    arch = dict(embed_dim=64, depth=4, num_heads=2)
    backbone = vit(arch=arch, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'narrow.pth')))
    with pytest.raises(CheckpointError, match=r'does not fit the backbone: .* set the same arch'):
        backbone.init_weights()


@pytest.mark.parametrize(
    'changes, sentence',
    [
        (dict(img_size=30), 'img_size .30, 30. is not a multiple of the patch size 8'),
        (dict(img_size=(32,)), r'img_size must be pixels or .height, width.*32'),
        (dict(patch_size=0), 'patch_size above 0'),
        (dict(frozen_stages=5), 'frozen_stages must lie in -1..4'),
        (dict(out_indices=(4,)), 'out_indices .4,. must name blocks of 0..3'),
        (dict(out_indices=()), 'at least one'),
        (dict(out_indices=(3, 1)), 'must rise'),
        (dict(out_norm='last'), "out_norm must be 'final', 'none' or 'each'"),
        (dict(arch='giant'), "Unknown ViT 'giant'"),
    ],
)
def test_init__bad_arguments(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        vit(**changes)
