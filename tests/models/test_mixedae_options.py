"""What MixedAE's options build: baselines, sizes, names of the weights, and the options that it refuses."""

import sys
from pathlib import Path

import numpy as np
import oracles
import pytest
import torch

from mixedae.functional import mix, unmix
from mixedae.models import MixedAE

sys.path.insert(0, str(Path(__file__).parent))
from pretrain_cases import SIZES, batch, masks, small_mixedae


def test_mixedae__baselines_by_config():
    naive = small_mixedae(segment_embed=False, topk_ratio=None, contrastive_weight=0)
    assert not any('segment' in k or 'projector' in k for k in naive.state_dict())
    assert all(b.attn.num_kept(25) is None for b in naive.encoder.blocks)
    assert set(naive.loss(batch(naive))) == {'loss_recon'}

    attention = small_mixedae(contrastive_weight=0)
    assert [b.attn.num_kept(25) for b in attention.encoder.blocks] == [None, 6, 6]
    assert attention.projector is None

    contrastive = small_mixedae(topk_ratio=None)
    assert contrastive.projector.weight.shape == (128, 16)
    assert set(contrastive.loss(batch(contrastive))) == {'loss_recon', 'loss_contrastive', 'contrastive'}

    alone = small_mixedae(reconstruction_weight=0)
    assert not any('decoder' in k for k in alone.state_dict())
    assert set(alone.loss(batch(alone))) == {'loss_contrastive', 'contrastive'}
    assert 'predicted' not in alone.reconstruct(batch(alone))


def test_mixedae__decoder_blocks_are_global():
    assert all(b.attn.num_kept(25) is None for b in small_mixedae().decoder.blocks)


def test_mixedae__contrastive_without_reconstruction_is_eq_7():
    model = small_mixedae(reconstruction_weight=0, contrastive_weight=1)
    images, mask = batch(model), masks(model)
    tokens = model.encoder.norm(model.encode(mix(model.group(images), mask).flatten(0, 1), mask.flatten(0, 1)))
    projected = model.projector(tokens[:, 1:]).detach().numpy()
    expected = oracles.contrastive_loss(projected, mask.flatten(0, 1).numpy())
    assert model.loss(images, mask)['loss_contrastive'].item() == pytest.approx(expected)


def vit_parameters(dim, depth, patch_size):
    """Of a ViT with [CLS], no head, fixed positions."""
    block = 4 * dim + (dim * 3 * dim + 3 * dim) + (dim * dim + dim) + (8 * dim * dim + 5 * dim)
    return depth * block + 2 * dim + (3 * patch_size**2 * dim + dim) + dim


@pytest.mark.parametrize(
    'arch,dim,depth,heads,patch_size',
    [
        ('tiny', 192, 12, 3, 16),
        ('small', 384, 12, 6, 16),
        ('base', 768, 12, 12, 16),
        ('large', 1024, 24, 16, 16),
        ('huge', 1280, 32, 16, 14),
    ],
)
def test_mixedae__parameter_counts(arch, dim, depth, heads, patch_size):
    with torch.device('meta'):
        model = MixedAE(encoder=dict(arch=arch, img_size=224, patch_size=patch_size))
    count = sum(p.numel() for k, p in model.named_parameters() if k.startswith('encoder.'))
    assert count == vit_parameters(dim, depth, patch_size) + 4 * dim  # and g segment embeddings
    assert model.encoder.blocks[0].attn.num_heads == heads
    assert model.projector.weight.shape == (128, dim)
    length = (224 // patch_size) ** 2
    kept = [b.attn.num_kept(1 + length) for b in model.encoder.blocks]
    assert kept == [None] + [length // 4] * (depth - 1)


def test_mixedae__base_has_the_size_of_maes_base():
    """MAE's ViT-B pre-training model has 111 655 680 learned values; MixedAE adds segments and the projector."""
    with torch.device('meta'):
        model = MixedAE(encoder=dict(arch='base'))
    extra = 4 * 768 + 768 * 128 + 128
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 111_655_680 + extra
    assert not any('pos_embed' in k for k, _ in model.named_parameters())


def test_mixedae__state_dict_keys_are_timms_under_a_prefix():
    """A timm ViT takes the encoder's weights as they are and gives the same tokens for whole images."""
    from timm.models.vision_transformer import VisionTransformer

    model = small_mixedae(topk_ratio=None)
    vit = VisionTransformer(
        img_size=(16, 24), patch_size=4, num_classes=0, global_pool='', mlp_ratio=4, **SIZES
    ).double()
    state = {k[len('encoder.') :]: v for k, v in model.state_dict().items() if k.startswith('encoder.')}
    segments = state.pop('segment_embed')
    assert segments.shape == (4, 16)
    vit.load_state_dict(state, strict=True)
    images = batch(model)
    torch.testing.assert_close(model.extract(images), vit.eval()(images))
    torch.testing.assert_close(model(images, mode='tensor'), vit(images))


def test_mixedae__position_table_is_maes():
    encoder = small_mixedae().encoder
    np.testing.assert_allclose(encoder.pos_embed[0].numpy(), oracles.sincos_table(16, (4, 6), 1), atol=1e-6)


# ------------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize('count', [0, 2, 6])
def test_mixedae__batch_not_divisible(count):
    model = small_mixedae()
    with pytest.raises(ValueError, match=r'groups of 4.*batch_size'):
        model.loss(batch(model)[:count])


def test_mixedae__image_of_another_size():
    with pytest.raises(ValueError, match='img_size'):
        small_mixedae().loss(torch.zeros(4, 3, 16, 16).double())


@pytest.mark.parametrize(
    'options,message',
    [
        (dict(mixing_ratio=1 / 5), '24 patches'),  # r·L is no integer
        (dict(mixing_ratio=0.3), 'mixing_ratio'),
        (dict(mixing_ratio=0), 'mixing_ratio'),
        (dict(mixing_ratio=-0.25), 'mixing_ratio'),
        (dict(mixing_ratio=1.0), 'mixing_ratio'),
        (dict(mixing_ratio=1 / 24), 'contrastive'),  # r·L = 1: no positives
        (dict(mode='both'), 'mode'),
        (dict(topk_ratio=0), 'topk_ratio'),
        (dict(topk_ratio=1.5), 'topk_ratio'),
        (dict(contrastive_weight=0, reconstruction_weight=0), 'both 0'),
        (dict(positives='best'), 'positives'),
        (dict(contrastive_features='middle'), 'contrastive_features'),
        (dict(temperature=0), 'temperature'),
        (dict(encoder=dict(height=18)), 'multiple'),
        (dict(encoder=dict(arch='giant')), 'giant'),
        (dict(encoder=dict(arch=dict(embed_dim=16))), 'depth'),
        (dict(encoder=dict(global_layers=(3,))), 'global_layers'),
        (dict(encoder=dict(cls='drop')), 'cls'),
        (dict(decoder=dict(embed_dim=10)), 'multiple of 4'),
        (dict(decoder=dict(num_heads=3)), 'heads'),
        (dict(decoder=dict(depth=0)), 'a block'),
    ],
)
def test_mixedae__bad_options_fail_when_built(options, message):
    with pytest.raises(ValueError, match=message):
        small_mixedae(**options)


def test_mixedae__unmix_uses_the_decoders_mask_token():
    model = small_mixedae()
    images, mask = batch(model), masks(model)[:, 0]
    tokens = model.encoder.norm(model.encode(mix(model.group(images), mask), mask))
    seen = []
    model.decoder.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    model.decode(tokens, mask)
    expected = unmix(model.decoder.embed(tokens)[:, 1:], mask, 4, model.decoder.mask_token)
    torch.testing.assert_close(seen[0].unflatten(0, (2, 4)), expected)
