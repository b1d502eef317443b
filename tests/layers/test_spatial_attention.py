"""SpatialAttention: values and gradients against attention written out score by score."""

import pytest
import torch
from timm.models.vision_transformer_sam import Attention as SamAttention

from mixedae.layers import Attention, SpatialAttention
from tests.layers.spatial_oracles import spatial_attention

DIM, HEADS = 12, 2


def build(seed=0, **options):
    """A float64 attention whose weights are all random."""
    torch.manual_seed(seed)
    attention = SpatialAttention(DIM, HEADS, **options).double()
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.copy_(0.5 * torch.randn_like(parameter))
    return attention


def arrays(attention):
    return {name: value.detach().numpy() for name, value in attention.state_dict().items()}


def tokens(grid, prefix=1, batch=2, seed=1):
    return torch.randn(batch, prefix + grid[0] * grid[1], DIM, generator=torch.Generator().manual_seed(seed)).double()


PADDED = torch.zeros(2, 15, dtype=torch.bool)
PADDED[1, 3:5] = PADDED[1, 8:] = True  # a 2 x 3 image in a 3 x 5 grid, nearly


@pytest.mark.parametrize('padded', [None, PADDED], ids=['all', 'padded'])
@pytest.mark.parametrize('window, window_padding', [(None, 'mask'), (2, 'mask'), (2, 'zeros'), (5, 'mask')])
@pytest.mark.parametrize('rel_pos', [None, 'table', 'decomposed'])
@pytest.mark.parametrize('prefix', [0, 1])
def test_forward__equals_oracle(prefix, rel_pos, window, window_padding, padded):
    grid = (3, 5)
    options = dict(window_size=window, window_padding=window_padding, rel_pos=rel_pos, rel_pos_grid=grid)
    attention = build(num_prefix_tokens=prefix, **options)
    x = tokens(grid, prefix)
    out = attention(x, grid, padded).detach()
    expected = spatial_attention(
        x.numpy(),
        arrays(attention),
        HEADS,
        grid,
        cls=bool(prefix),
        window=window,
        window_padding=window_padding,
        padded=None if padded is None else padded.numpy(),
    )
    expected = torch.from_numpy(expected)
    if padded is not None:  # what comes out at padded places is not used, and a window of them alone has no keys
        real = torch.cat([torch.ones(2, prefix, dtype=torch.bool), ~padded], dim=1)
        out, expected = out[real], expected[real]
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('rel_pos', [None, 'table', 'decomposed'])
@pytest.mark.parametrize('window', [None, 2])
def test_gradients__equal_numerical_ones(rel_pos, window):
    attention = build(window_size=window, rel_pos=rel_pos, rel_pos_grid=(2, 3))
    x = tokens((2, 3), batch=1).requires_grad_()
    names = [name for name, _ in attention.named_parameters() if name.startswith('rel') or name == 'qkv.weight']

    def run(x, *values):
        return torch.func.functional_call(attention, dict(zip(names, values)), (x, (2, 3)))

    values = [dict(attention.named_parameters())[name].detach().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(run, (x, *values), fast_mode=True)


@pytest.mark.parametrize('window_padding', ['mask', 'zeros'])
def test_padded__never_changes_the_real_ones(window_padding):
    attention = build(window_size=2, window_padding=window_padding, rel_pos='decomposed')
    x = tokens((3, 5))
    other = x.clone()
    other[1, 1:][PADDED[1]] = 100.0
    real = torch.cat([torch.ones(2, 1, dtype=torch.bool), ~PADDED], dim=1)
    a, b = attention(x, (3, 5), PADDED), attention(other, (3, 5), PADDED)
    torch.testing.assert_close(a[real], b[real], rtol=0, atol=1e-12)
    assert torch.isfinite(a).all()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_padded__exactly_zero_weight_in_every_dtype(dtype):
    attention = build().to(dtype)
    x = tokens((3, 5)).to(dtype)
    other = x.clone()
    other[1, 1:][PADDED[1]] = -3.0
    assert torch.equal(attention(x, (3, 5), PADDED)[1, :4], attention(other, (3, 5), PADDED)[1, :4])


def test_window_as_large_as_the_grid__is_global():
    whole, windowed = build(), build(window_size=7)
    windowed.load_state_dict(whole.state_dict())
    for grid in [(7, 7), (3, 5)]:
        torch.testing.assert_close(windowed(tokens(grid), grid), whole(tokens(grid), grid))


def test_plain__equals_attention_of_pretraining():
    ours = build()
    plain = Attention(DIM, HEADS).double()
    plain.load_state_dict(ours.state_dict())
    x = tokens((3, 5))
    torch.testing.assert_close(ours(x, (3, 5)), plain(x))


def test_topk__goes_to_attention_of_pretraining():
    ours, plain = build(topk_ratio=0.25), Attention(DIM, HEADS, topk_ratio=0.25).double()
    plain.load_state_dict(ours.state_dict())
    x = tokens((3, 5))
    assert torch.equal(ours(x, (3, 5)), plain(x))
    with pytest.raises(ValueError, match='TopK attention cannot leave padded patches out'):
        ours(x, (3, 5), PADDED)


def test_decomposed__equals_timm_sam():
    ours = build(num_prefix_tokens=0, rel_pos='decomposed', rel_pos_grid=(4, 4))
    theirs = SamAttention(DIM, HEADS, use_rel_pos=True, input_size=(4, 4)).double()
    theirs.load_state_dict(ours.state_dict())
    for grid in [(4, 4), (3, 5)]:  # the second is resampled
        x = tokens(grid, prefix=0)
        expected = theirs(x.unflatten(1, grid)).flatten(1, 2)
        torch.testing.assert_close(ours(x, grid), expected)


def test_shared_bias__adds_to_own_table():
    grid = (2, 3)
    both, own = build(rel_pos='table', rel_pos_grid=grid), build(rel_pos='table', rel_pos_grid=grid)
    bias = torch.randn(1, HEADS, 7, 7).double()
    x = tokens(grid)
    assert not torch.allclose(both(x, grid, None, bias), own(x, grid))
    with torch.no_grad():
        both.relative_position_bias_table.zero_()
    plain = build()
    q, k, v = both.project_qkv(x)
    scores = (q @ k.transpose(2, 3)) * (DIM // HEADS) ** -0.5 + bias
    expected = both.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(both(x, grid, None, bias), expected)
    assert not hasattr(plain, 'relative_position_bias_table')


@pytest.mark.parametrize(
    'options, sentence',
    [
        (dict(rel_pos='rope'), "rel_pos must be 'table', 'decomposed' or None, not 'rope'"),
        (dict(window_padding='wrap'), "window_padding must be 'mask' or 'zeros'"),
        (dict(window_size=0), 'window_size is a number of patches'),
        (dict(topk_ratio=0.5, window_size=2), 'TopK attention is not defined with relative positions or windows'),
    ],
)
def test_bad_options(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        build(**options)
