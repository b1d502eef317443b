"""Necks: exact sizes, and values against the equations written out."""

import pytest
import torch
from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import nn

import mixedae  # noqa: F401  (registration)
from mixedae.models.necks import LayerNorm2d, MapNorm, MultiBlockPyramid, SimpleFeaturePyramid, build_norm2d


def deconv_by_hand(x, layer):
    """``y[b, o, 2i+r, 2j+s] = sum_c x[b, c, i, j] W[c, o, r, s] + bias[o]``: stride 2, kernel 2, nothing overlaps."""
    y = torch.einsum('bcij,cors->boirjs', x, layer.weight) + layer.bias.view(1, -1, 1, 1, 1, 1)
    batch, out, h, _, w, _ = y.shape
    return y.reshape(batch, out, 2 * h, 2 * w)


def layer_norm_by_hand(x, layer):
    mean = x.mean(1, keepdim=True)
    var = ((x - mean) ** 2).mean(1, keepdim=True)
    return (x - mean) / (var + 1e-6).sqrt() * layer.weight.view(1, -1, 1, 1) + layer.bias.view(1, -1, 1, 1)


def gelu_by_hand(x):
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


def conv3x3_by_hand(x, weight):
    padded = torch.zeros(x.shape[0], x.shape[1], x.shape[2] + 2, x.shape[3] + 2, dtype=x.dtype)
    padded[:, :, 1:-1, 1:-1] = x
    h, w = x.shape[2:]
    return sum(
        torch.einsum('bcij,oc->boij', padded[:, :, r : r + h, s : s + w], weight[:, :, r, s])
        for r in range(3)
        for s in range(3)
    )


def max_pool_by_hand(x):
    h, w = x.shape[2:]
    rows = []
    for i in range(0, h, 2):
        rows.append(torch.stack([x[:, :, i : i + 2, j : j + 2].amax((2, 3)) for j in range(0, w, 2)], dim=-1))
    return torch.stack(rows, dim=-2)


def randomise(module):
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module.double().eval()


def test_multi_block_pyramid__values():
    neck = randomise(MultiBlockPyramid(8, norm='LN'))
    maps = [torch.randn(2, 8, 3, 5, dtype=torch.float64) for _ in range(4)]
    outs = neck(maps)
    first, norm, _, second = neck.up4
    hidden = gelu_by_hand(layer_norm_by_hand(deconv_by_hand(maps[0], first), norm))
    torch.testing.assert_close(outs[0], deconv_by_hand(hidden, second))
    torch.testing.assert_close(outs[1], deconv_by_hand(maps[1], neck.up2))
    assert torch.equal(outs[2], maps[2])
    torch.testing.assert_close(outs[3], max_pool_by_hand(maps[3]))


def test_multi_block_pyramid__batch_norm_is_beits():
    neck = MultiBlockPyramid(8, norm='BN').train()
    x = torch.randn(4, 8, 3, 3)
    hidden = neck.up4[0](x)
    mean, var = hidden.mean((0, 2, 3), keepdim=True), hidden.var((0, 2, 3), unbiased=False, keepdim=True)
    expected = neck.up4[3](gelu_by_hand((hidden - mean) / (var + 1e-5).sqrt()))
    torch.testing.assert_close(neck([x] * 4)[0], expected, rtol=1e-4, atol=1e-5)


def test_simple_feature_pyramid__values():
    neck = randomise(SimpleFeaturePyramid(8, out_channels=6, num_outs=5))
    x = torch.randn(2, 8, 3, 4, dtype=torch.float64)
    outs = neck((None, x))
    up4 = neck.levels[0][0]
    resized = [
        deconv_by_hand(gelu_by_hand(layer_norm_by_hand(deconv_by_hand(x, up4[0]), up4[1])), up4[3]),
        deconv_by_hand(x, neck.levels[1][0]),
        x,
        max_pool_by_hand(x),
    ]
    for level, y, out in zip(neck.levels, resized, outs):
        _, one, norm1, three, norm2 = level
        y = layer_norm_by_hand(torch.einsum('bcij,oc->boij', y, one.weight[:, :, 0, 0]), norm1)
        y = layer_norm_by_hand(conv3x3_by_hand(y, three.weight), norm2)
        torch.testing.assert_close(out, y)
    assert torch.equal(outs[4], outs[3][:, :, ::2, ::2])


@pytest.mark.parametrize('h, w', [(14, 14), (7, 16), (5, 3), (1, 1)])
def test_sizes(h, w):
    half = (-(-h // 2), -(-w // 2))
    maps = [torch.randn(1, 8, h, w)] * 4
    sizes = [tuple(m.shape[2:]) for m in MultiBlockPyramid(8, norm='BN').eval()(maps)]
    assert sizes == [(4 * h, 4 * w), (2 * h, 2 * w), (h, w), half]
    outs = SimpleFeaturePyramid(8, 6, num_outs=6)(maps)
    quarter = (-(-half[0] // 2), -(-half[1] // 2))
    eighth = (-(-quarter[0] // 2), -(-quarter[1] // 2))
    assert [tuple(m.shape[2:]) for m in outs] == [*sizes, quarter, eighth]
    assert {m.shape[1] for m in outs} == {6}


def test_simple_feature_pyramid__start_level_leaves_fine_levels_out():
    x = torch.randn(1, 8, 4, 4)
    whole, part = SimpleFeaturePyramid(8, 6, num_outs=6), SimpleFeaturePyramid(8, 6, num_outs=5, start_level=1)
    state = {f'levels.{int(k.split(".")[1]) - 1}.{k.split(".", 2)[2]}': v for k, v in whole.state_dict().items()}
    part.load_state_dict({k: v for k, v in state.items() if not k.startswith('levels.-1')})
    outs = part(x)
    assert len(outs) == 5 and len(part.levels) == 3
    for a, b in zip(outs, whole(x)[1:]):
        assert torch.equal(a, b)


def test_map_norm__each_channel_over_the_batch():
    norm = MapNorm(3).train()
    x = torch.randn(4, 3, 5, 5) * 3 + 1
    (y,) = norm([x])
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.var((0, 2, 3), unbiased=False), torch.ones(3), atol=1e-4, rtol=0)
    assert list(norm.parameters()) == []


def test_simple_feature_pyramid__takes_last_map_or_one_map():
    neck = SimpleFeaturePyramid([8, 8], 6, num_outs=4)
    x = torch.randn(1, 8, 4, 4)
    for a, b in zip(neck([torch.zeros(1, 8, 4, 4), x]), neck(x)):
        assert torch.equal(a, b)


def test_necks__all_parameters_train():
    for neck in (MultiBlockPyramid(8, norm='SyncBN'), SimpleFeaturePyramid(8, 6)):
        maps = [torch.randn(2, 8, 4, 4) for _ in range(4)]
        sum((m * torch.randn_like(m)).sum() for m in neck(maps)).backward()
        assert [name for name, p in neck.named_parameters() if p.grad is None] == []


def test_registered():
    cfg = [
        dict(type='mixedae.MultiBlockPyramid', in_channels=[8] * 4),
        dict(type='mixedae.SimpleFeaturePyramid', in_channels=8),
    ]
    assert [type(MMENGINE_MODELS.build(c)).__name__ for c in cfg] == ['MultiBlockPyramid', 'SimpleFeaturePyramid']


def test_layer_norm_2d__each_place_alone():
    norm = LayerNorm2d(16)
    x = torch.randn(2, 16, 3, 4) * 5 + 2
    y = norm(x)
    torch.testing.assert_close(y.mean(1), torch.zeros(2, 3, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.var(1, unbiased=False), torch.ones(2, 3, 4), atol=1e-4, rtol=0)


def test_bad_arguments():
    with pytest.raises(ValueError, match="norm must be 'BN', 'SyncBN', 'GN' or 'LN', not 'XN'"):
        build_norm2d('XN', 8)
    with pytest.raises(ValueError, match='takes four maps, got 3'):
        MultiBlockPyramid(8)([torch.zeros(1, 8, 2, 2)] * 3)
    with pytest.raises(ValueError, match='same width'):
        MultiBlockPyramid([8, 16, 8, 8])
    with pytest.raises(ValueError, match='multiple of 4'):
        SimpleFeaturePyramid(6)
    with pytest.raises(ValueError, match='4 levels from level 0 on at least, not 3'):
        SimpleFeaturePyramid(8, num_outs=3)
    with pytest.raises(ValueError, match=r'start_level must be 0 \(stride 4\) \.\. 3 \(stride 32\), not 4'):
        SimpleFeaturePyramid(8, start_level=4)
