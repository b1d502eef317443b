"""MixedAEViT with relative positions, windows and padding: equal to timm's BEiT and SAM and to transformers' ViTDet."""

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models.beit import Beit
from timm.models.vision_transformer_sam import VisionTransformerSAM

import mixedae  # noqa: F401  (registration)
from mixedae.models import MixedAEViT

ARCH = dict(embed_dim=32, depth=4, num_heads=2)


def vit(**changes):
    torch.manual_seed(0)
    model = MixedAEViT(**{**dict(arch=ARCH, img_size=32, patch_size=8, out_indices=(3,)), **changes})
    return model.eval()


def randomise(model, std=0.2):
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(std * torch.randn_like(parameter))
    return model.eval()


def as_map(tokens, grid):
    return tokens.transpose(1, 2).unflatten(2, grid)


@pytest.mark.parametrize('shared', [False, True])
def test_table__equals_timm_beit(shared):
    reference = Beit(
        img_size=32,
        patch_size=8,
        embed_dim=32,
        depth=4,
        num_heads=2,
        num_classes=0,
        init_values=0.5,
        global_pool='token',
        use_abs_pos_emb=False,
        use_rel_pos_bias=not shared,
        use_shared_rel_pos_bias=shared,
    )
    reference = randomise(reference)
    state = {}
    for name, value in reference.state_dict().items():
        if name.endswith('q_bias'):
            q, v = value, reference.state_dict()[name.replace('q_bias', 'v_bias')]
            state[name.replace('q_bias', 'qkv.bias')] = torch.cat([q, torch.zeros_like(q), v])
        elif not name.endswith('v_bias'):
            state[name.replace('gamma_1', 'ls1.gamma').replace('gamma_2', 'ls2.gamma')] = value
    ours = vit(rel_pos='shared' if shared else 'table', abs_pos_embed=False, init_values=0.5)
    ours.load_state_dict(state)
    images = torch.randn(2, 3, 32, 32)
    expected = reference.forward_features(images)[:, 1:]
    torch.testing.assert_close(ours(images)[0], as_map(expected, (4, 4)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('img_size', [32, 48])  # 4 x 4 patches, and 6 x 6, which three windows of 4 do not fill
def test_decomposed_windows__equal_timm_sam(img_size):
    reference = VisionTransformerSAM(
        img_size=img_size,
        patch_size=8,
        embed_dim=32,
        depth=4,
        num_heads=2,
        num_classes=0,
        init_values=0.5,
        neck_chans=0,
        use_rel_pos=True,
        window_size=4,
        global_attn_indexes=(1, 3),
    )
    reference = randomise(reference)
    state = {name: value for name, value in reference.state_dict().items() if not name.startswith('neck')}
    state['pos_embed'] = state['pos_embed'].flatten(1, 2)
    ours = vit(
        img_size=img_size,
        with_cls_token=False,
        rel_pos='decomposed',
        window_size=4,
        window_padding='zeros',
        global_blocks=(1, 3),
        out_norm='none',
        init_values=0.5,
    )
    ours.load_state_dict(state)
    images = torch.randn(2, 3, img_size, img_size)
    expected = reference.forward_intermediates(images, [3], intermediates_only=True)[0]
    torch.testing.assert_close(ours(images)[0], expected, rtol=1e-4, atol=1e-5)


def test_decomposed_windows__equal_transformers_vitdet():
    transformers = pytest.importorskip('transformers')
    config = transformers.VitDetConfig(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=48,
        pretrain_image_size=32,
        patch_size=8,
        window_size=4,
        window_block_indices=[0, 2],
        residual_block_indices=[],
        use_relative_position_embeddings=True,
    )
    reference = randomise(transformers.VitDetModel(config))
    state = {}
    for name, value in reference.state_dict().items():
        name = name.replace('encoder.layer.', 'blocks.').replace('attention.', 'attn.')
        name = name.replace('embeddings.projection', 'patch_embed.proj')
        state[name.replace('embeddings.position_embeddings', 'pos_embed')] = value
    state['pos_embed'] = state['pos_embed'][:, 1:]  # ViTDet keeps the row of [CLS] and drops it in forward
    ours = vit(
        img_size=32,
        rel_pos_size=48,
        with_cls_token=False,
        rel_pos='decomposed',
        window_size=4,
        window_padding='zeros',
        global_blocks=(1, 3),
        out_norm='none',
        pos_embed_antialias=False,
    )
    ours.load_state_dict(state)
    for size in ((32, 32), (48, 48), (24, 40)):  # (32, 32): the size of the position table
        images = torch.randn(2, 3, *size)
        with torch.no_grad():
            expected = reference(images).last_hidden_state
            assert (ours(images)[0] - expected).abs().max() < 1e-5


def test_with_cls_token_false__equals_timm_without():
    reference = timm.models.VisionTransformer(
        img_size=32,
        patch_size=8,
        embed_dim=32,
        depth=4,
        num_heads=2,
        num_classes=0,
        class_token=False,
        global_pool='avg',
    )
    reference = randomise(reference)
    ours = vit(with_cls_token=False, out_norm='none')
    ours.load_state_dict({k: v for k, v in reference.state_dict().items() if not k.startswith('fc_norm')})
    images = torch.randn(2, 3, 32, 32)
    expected = reference.get_intermediate_layers(images, n=[3])[0]
    torch.testing.assert_close(ours(images)[0], as_map(expected, (4, 4)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('rel_pos', ['table', 'shared', 'decomposed'])
def test_rel_pos__starts_without_effect(rel_pos):
    plain, ours = vit(), vit(rel_pos=rel_pos)
    assert ours.load_state_dict(plain.state_dict(), strict=False).unexpected_keys == []
    images = torch.randn(1, 3, 40, 24)
    torch.testing.assert_close(ours(images)[0], plain(images)[0])


@pytest.mark.parametrize('rel_pos', ['table', 'decomposed'])
@pytest.mark.parametrize('window_size', [None, 3])
@pytest.mark.parametrize('size', [(32, 32), (40, 24), (33, 50), (8, 8)])
def test_forward__any_size(size, window_size, rel_pos):
    ours = vit(rel_pos=rel_pos, window_size=window_size, global_blocks=(1, 3), out_indices=(0, 3)).train()
    maps = ours(torch.randn(2, 3, *size))
    grid = tuple(-(-side // 8) for side in size)
    assert [tuple(m.shape) for m in maps] == [(2, 32, *grid)] * 2
    sum(m.square().sum() for m in maps).backward()
    assert [name for name, p in ours.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()] == []


def test_global_blocks__last_of_each_quarter():
    for depth, expected in ((12, (2, 5, 8, 11)), (24, (5, 11, 17, 23)), (32, (7, 15, 23, 31)), (6, (1, 2, 4, 5))):
        arch = dict(embed_dim=8, depth=depth, num_heads=1)
        ours = vit(arch=arch, window_size=2, out_indices=(depth - 1,))
        assert ours.global_blocks == expected
        assert [i for i, b in enumerate(ours.blocks) if b.attn.window_size is None] == list(expected)


def test_windows__keep_things_apart():
    """A patch of another window has no influence while no block is global; with one it has."""
    images = torch.randn(1, 3, 32, 32)
    other = images.clone()
    other[:, :, 24:, 24:] += 1.0
    for global_blocks, apart in (((), True), ((1,), False)):
        ours = vit(window_size=2, global_blocks=global_blocks, with_cls_token=False)
        same = (ours(images)[0] - ours(other)[0])[0, :, :2, :2].abs().max() == 0
        assert same == apart


def padded_batch():
    """Three images of different sizes, as mm's pre-processors stack them, and each of them alone."""
    torch.manual_seed(3)
    images = [torch.randn(3, height, width) for height, width in ((32, 32), (16, 28), (20, 32))]
    return torch.stack([F.pad(x, (0, 32 - x.shape[2], 0, 32 - x.shape[1])) for x in images]), images


@pytest.mark.parametrize('options', [dict(), dict(window_size=2, global_blocks=(1, 3)), dict(with_cls_token=False)])
def test_mask_padding__an_image_does_not_see_its_batch(options):
    ours = randomise(vit(mask_padding=True, **options), std=0.05)
    batch, images = padded_batch()
    together = ours(batch)[0]
    for i, image in enumerate(images):
        alone = ours(image[None])[0][0]
        torch.testing.assert_close(together[i, :, : alone.shape[1], : alone.shape[2]], alone, rtol=1e-4, atol=1e-5)
    without = randomise(vit(**options), std=0.05)(batch)[0]
    assert (without[1, :, :2, :4] - ours(images[1][None])[0][0]).abs().max() > 1e-2  # what it changes


def test_mask_padding__gradients_reach_everything():
    ours = vit(mask_padding=True, rel_pos='decomposed').train()
    batch, _ = padded_batch()
    ours(batch)[0].square().sum().backward()
    assert [name for name, p in ours.named_parameters() if p.grad is None] == []


def test_with_cp__same_values_and_gradients():
    batch, _ = padded_batch()
    results = []
    for with_cp in (False, True):
        ours = vit(with_cp=with_cp, mask_padding=True, rel_pos='shared').train()
        out = ours(batch)[0]
        out.square().sum().backward()
        results.append(
            (out.detach(), ours.patch_embed.proj.weight.grad, *(p.grad for p in ours.rel_pos_bias.parameters()))
        )
    for a, b in zip(*results):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('rel_pos', ['table', 'shared', 'decomposed'])
def test_autocast__bfloat16_stays_close(rel_pos):
    batch, _ = padded_batch()
    ours = randomise(vit(mask_padding=True, rel_pos=rel_pos), std=0.05).train()
    full = ours(batch)[0]
    with torch.autocast('cpu', dtype=torch.bfloat16):
        half = ours(batch)[0]
    assert (full - half.float()).norm() < 0.03 * full.norm()
    half.float().square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in ours.parameters())


def test_get_layer_depth__relative_positions():
    table = vit(rel_pos='table')
    assert table.get_layer_depth('blocks.2.attn.relative_position_bias_table') == (3, 6)
    assert vit(rel_pos='decomposed').get_layer_depth('backbone.blocks.0.attn.rel_pos_h', 'backbone.') == (1, 6)
    shared = vit(rel_pos='shared')
    (name,) = [name for name in shared.state_dict() if 'relative_position_bias_table' in name]
    assert name == 'rel_pos_bias.relative_position_bias_table' and shared.get_layer_depth(name) == (5, 6)


def test_frozen_stages__shared_table_with_the_last_block():
    for frozen_stages in (3, 4):
        ours = vit(frozen_stages=frozen_stages, rel_pos='shared')
        trained = {name.split('.')[0] for name, p in ours.named_parameters() if p.requires_grad}
        assert trained == (set() if frozen_stages == 4 else {'blocks', 'rel_pos_bias', 'norm'})


def test_frozen_stages__without_tables():
    ours = vit(frozen_stages=1, with_cls_token=False, abs_pos_embed=False, rel_pos='decomposed')
    assert not ours.blocks[0].attn.rel_pos_h.requires_grad and ours.blocks[1].attn.rel_pos_h.requires_grad


@pytest.mark.parametrize(
    'changes, sentence',
    [
        (dict(rel_pos='rope'), "rel_pos must be 'table', 'shared', 'decomposed' or None"),
        (dict(rel_pos='shared', window_size=2), 'One table cannot serve windows and global blocks'),
        (dict(topk_ratio=0.5, mask_padding=True), 'topk_ratio goes with neither'),
        (dict(mask_padding=True, window_size=2, window_padding='zeros'), "goes with window_padding='mask' alone"),
        (dict(rel_pos_size=30), 'rel_pos_size .30, 30. is not a multiple of the patch size 8'),
        (dict(global_blocks=(4,)), 'global_blocks .4,. must name blocks of 0..3'),
    ],
)
def test_init__bad_arguments(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        vit(**changes)
