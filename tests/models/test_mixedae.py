"""The whole MixedAE against the hand-written forward of tests/oracles.py, its invariances and its options."""

import math
import sys
from pathlib import Path

import numpy as np
import oracles
import pytest
import torch

from mixedae.functional import homologous_contrastive_loss, mix, patchify, reconstruction_loss
from mixedae.models import MixedAE

sys.path.insert(0, str(Path(__file__).parent))
from pretrain_cases import DECODER, SIZES, batch, masks, numpy_state, small_encoder, small_mixedae

# One line an option: arguments of the model, arguments of the oracle.
CASES = {
    'default': ({}, {}),
    'half': (dict(mixing_ratio=1 / 2, topk_ratio=0.5), {}),
    'third': (dict(mixing_ratio=1 / 3), {}),
    'seventh': (dict(mixing_ratio=1 / 7, encoder=dict(height=8, width=28)), {}),
    'square': (dict(encoder=dict(height=16, width=16)), {}),
    'tall': (dict(encoder=dict(height=24, width=8, patch_size=4)), {}),
    'patch 2': (dict(encoder=dict(height=8, width=4, patch_size=2)), {}),
    'full': (dict(mode='full'), {}),
    'compete': (dict(encoder=dict(cls='compete')), dict(cls='compete')),
    'all blocks homologous': (dict(encoder=dict(global_layers=())), dict(global_layers=())),
    'first and last global': (dict(encoder=dict(global_layers=(0, -1))), dict(global_layers=(0, 2))),
    'few keys': (dict(topk_ratio=0.1), {}),
    'no segments': (dict(segment_embed=False), dict(segment_embed=False)),
    'naive mixing': (
        dict(segment_embed=False, topk_ratio=None, contrastive_weight=0),
        dict(segment_embed=False, global_layers=(0, 1, 2)),
    ),
    'attention only': (dict(contrastive_weight=0), {}),
    'contrastive only': (dict(topk_ratio=None), dict(global_layers=(0, 1, 2))),
    'averaged positives': (dict(positives='averaged'), dict(positives='averaged')),
    'features before the norm': (dict(contrastive_features='before_norm'), dict(feature='before_norm')),
    'temperature and weight': (
        dict(temperature=0.1, contrastive_weight=0.7),
        dict(temperature=0.1, contrastive_weight=0.7),
    ),
    'decoder without [CLS]': (dict(decoder_cls=False), dict(decoder_cls=False)),
    'raw pixels': (dict(norm_pix=False), dict(norm_pix=False)),
    'light decoder': (dict(decoder=dict(depth=1, embed_dim=12, num_heads=3)), dict(decoder_heads=3)),
}


def hand_forward(model, images, mask, **options):
    """The oracle on a batch; in full mode a group is repeated once for each of its masks."""
    groups = images.unflatten(0, (-1, model.group_size)).repeat_interleave(mask.shape[1], 0)
    length = model.encoder.num_patches
    topk = next((b.attn.topk_ratio for b in model.encoder.blocks if b.attn.topk_ratio), 1)
    options = dict(decoder_heads=DECODER['num_heads'], topk=max(1, round(topk * length))) | options
    return oracles.mixedae_forward(
        numpy_state(model),
        groups.numpy(),
        mask.flatten(0, 1).numpy(),
        patch_size=model.encoder.patch_size,
        num_heads=SIZES['num_heads'],
        **options,
    )


def predict(model, images, mask):
    """Predictions (S, g, L, P*P*3) of the model for given masks (G, V, L)."""
    mixed = mix(model.group(images), mask).flatten(0, 1)
    return model.decode(model.encoder.norm(model.encode(mixed, mask.flatten(0, 1))), mask.flatten(0, 1))


@pytest.mark.parametrize('name', CASES)
def test_mixedae__oracle(name):
    options, oracle_options = CASES[name]
    model = small_mixedae(**options)
    images, mask = batch(model), masks(model)
    expected = hand_forward(model, images, mask, **oracle_options)
    losses = model.loss(images, mask)
    # The model keeps its position tables in float32: that, not the arithmetic, sets the tolerance.
    assert losses['loss_recon'].item() == pytest.approx(expected['loss_recon'], rel=2e-6)
    np.testing.assert_allclose(predict(model, images, mask).detach().numpy(), expected['pred'], atol=2e-5)
    if 'contrastive' in expected:
        assert losses['contrastive'].item() == pytest.approx(expected['contrastive'], rel=2e-6)
        weight = oracle_options.get('contrastive_weight', 0.1)
        assert losses['loss_contrastive'].item() == pytest.approx(weight * expected['contrastive'], rel=2e-6)
    total, logged = model.parse_losses(losses)
    assert total.item() == pytest.approx(expected['loss'], rel=2e-6)
    assert logged['loss'].item() == total.item()


@pytest.mark.parametrize('name', ['default', 'compete'])
def test_mixedae__gradient_is_the_oracles(name):
    """Central differences of the hand-written forward at entries of many kinds of parameters."""
    options, oracle_options = CASES[name]
    model = small_mixedae(encoder=dict(height=8, width=16) | options.get('encoder', {}))
    images, mask = batch(model, groups=1), masks(model, groups=1)
    sum(v for k, v in model.loss(images, mask).items() if k.startswith('loss')).backward()
    checked = {
        'encoder.patch_embed.proj.weight': (3, 1, 2, 0),
        'encoder.cls_token': (0, 0, 5),
        'encoder.segment_embed': (2, 7),
        'encoder.blocks.1.attn.qkv.weight': (20, 3),
        'encoder.blocks.2.attn.qkv.bias': (4,),
        'encoder.norm.weight': (9,),
        'projector.weight': (17, 2),
        'decoder.mask_token': (1,),
        'decoder.blocks.0.mlp.fc1.weight': (6, 6),
        'decoder.pred.bias': (11,),
    }
    parameters = dict(model.named_parameters())
    step = 1e-5
    for key, index in checked.items():
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameters[key][index] += sign * step
            values.append(hand_forward(model, images, mask, **oracle_options)['loss'])
            with torch.no_grad():
                parameters[key][index] -= sign * step
        numeric = (values[0] - values[1]) / (2 * step)
        assert parameters[key].grad[index].item() == pytest.approx(numeric, rel=1e-3, abs=1e-7), key


@pytest.mark.parametrize('name', ['default', 'full', 'naive mixing', 'decoder without [CLS]', 'compete'])
def test_mixedae__every_parameter_has_a_gradient(name):
    model = small_mixedae(**CASES[name][0]).train()
    sum(v for k, v in model.loss(batch(model), masks(model)).items() if k.startswith('loss')).backward()
    missing = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not missing


# ------------------------------------------------------------------------------------------------------- invariances
@pytest.mark.parametrize('mode', ['compose', 'full'])
def test_mixedae__permuting_a_group_permutes_the_outputs(mode):
    model = small_mixedae(mode=mode)
    images, mask = batch(model, groups=1), masks(model, groups=1)
    order = torch.tensor([2, 0, 3, 1])  # new image i is old image order[i]
    pred, losses = predict(model, images, mask), model.loss(images, mask)
    with torch.no_grad():
        model.encoder.segment_embed.copy_(model.encoder.segment_embed[order].clone())
    moved = order.argsort()[mask]
    torch.testing.assert_close(predict(model, images[order], moved), pred[:, order])
    for key, value in model.loss(images[order], moved).items():
        torch.testing.assert_close(value, losses[key])


def test_mixedae__a_mixed_sample_never_sees_another_group():
    model = small_mixedae()
    images, mask = batch(model).requires_grad_(), masks(model)
    pred = predict(model, images, mask)
    for group in range(2):
        (grad,) = torch.autograd.grad(pred[group].square().sum(), images, retain_graph=True)
        grad = grad.unflatten(0, (2, 4))
        assert (grad[1 - group] == 0).all() and grad[group].flatten(1).any(1).all()
    alone = predict(model, images[4:], mask[1:])
    torch.testing.assert_close(alone[0], pred[1])


def test_mixedae__only_the_patches_in_the_mix_are_seen():
    model = small_mixedae()
    images, mask = batch(model, groups=1).requires_grad_(), masks(model, groups=1)
    (grad,) = torch.autograd.grad(predict(model, images, mask).square().sum(), images)
    touched = patchify(grad, 4).any(-1)  # (g, L)
    for image in range(4):
        assert torch.equal(touched[image], mask[0, 0] == image)


def test_mixedae__visible_patches_carry_no_reconstruction_gradient():
    """They are not even computed, and all others are used."""
    model = small_mixedae(contrastive_weight=0)
    images, mask = batch(model), masks(model)
    kept = []
    model.decoder.register_forward_hook(lambda m, i, out: (out.retain_grad(), kept.append(out))[0])
    model.loss(images, mask)['loss_recon'].backward()
    assert kept[0].shape == (8, 18, 48) and kept[0].grad.any(-1).all()
    unseen = [[pos for pos in range(24) if mask[group, 0, pos] != i] for group in range(2) for i in range(4)]
    assert model.unseen(mask[:, 0]).flatten(0, 1).tolist() == unseen


@pytest.mark.parametrize(
    'name', ['default', 'half', 'full', 'decoder without [CLS]', 'raw pixels', 'light decoder', 'compete']
)
def test_mixedae__loss_is_that_of_predicting_everything(name):
    """Values and gradients, although only the patches that are not in the mix pass the end of the decoder."""
    lean, whole = small_mixedae(**CASES[name][0]), small_mixedae(**CASES[name][0])
    images, mask = batch(lean), masks(lean)
    losses = lean.loss(images, mask)
    expected = losses_of_everything(whole, images, mask)
    assert set(losses) - {'contrastive'} == set(expected)
    for key, value in expected.items():
        torch.testing.assert_close(losses[key], value)
    sum(losses[key] for key in expected).backward()
    sum(expected.values()).backward()
    for (key, ours), theirs in zip(lean.named_parameters(), whole.parameters()):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=key)


def losses_of_everything(model, images, mask):
    """The losses from predictions of every patch of every image."""
    patches, flat = model.group(images), mask.flatten(0, 1)
    tokens = model.encoder.norm(model.encode(mix(patches, mask).flatten(0, 1), flat))
    targets = patches.repeat_interleave(model.mixes_per_group, 0)
    contrastive = homologous_contrastive_loss(model.projector(tokens[:, 1:]), flat)
    return dict(
        loss_recon=reconstruction_loss(model.decode(tokens, flat), targets, flat, model.norm_pix),
        loss_contrastive=0.1 * contrastive,
    )


def test_mixedae__unbalanced_mask_is_refused():
    model = small_mixedae()
    mask = masks(model)
    mask[0, 0, (mask[0, 0] == 1).nonzero()[0]] = 2
    with pytest.raises(ValueError, match='must choose 18 of its 24'):
        model.loss(batch(model), mask)


def test_mixedae__all_keys_equal_plain_attention():
    topk, plain = small_mixedae(topk_ratio=1.0), small_mixedae(topk_ratio=None)
    assert topk.encoder.blocks[1].attn.num_kept(25) == 24 and plain.encoder.blocks[1].attn.num_kept(25) is None
    images, mask = batch(topk), masks(topk)
    a, b = topk.loss(images, mask), plain.loss(images, mask)
    for key in a:
        torch.testing.assert_close(a[key], b[key])


def test_mixedae__mixing_before_or_after_the_patch_embedding():
    model = small_mixedae()
    images, mask = batch(model), masks(model)[:, 0]
    patches = model.group(images)
    before = model.encoder.embed(mix(patches, mask))
    conv = model.encoder.patch_embed(images.flatten(0, 0)).unflatten(0, (-1, 4))  # timm's convolution, image by image
    torch.testing.assert_close(before, mix(conv, mask))
    torch.testing.assert_close(model.encoder.embed(patches), conv)


def test_mixedae__segment_embedding_is_zero_mean():
    model = small_mixedae()
    images, mask = batch(model), masks(model)
    before = model.loss(images, mask)
    np.testing.assert_allclose(model.encoder.segments().mean(0).detach().numpy(), 0, atol=1e-12)
    with torch.no_grad():
        model.encoder.segment_embed += torch.randn(16).double()  # one vector for all images of a group: no effect
    for key, value in model.loss(images, mask).items():
        torch.testing.assert_close(value, before[key])


@pytest.mark.parametrize('mode,mixes', [('compose', 2), ('full', 8)])
def test_mixedae__sequences_in_encoder_and_decoder(mode, mixes):
    """Compose: B/g sequences in the encoder, B in the decoder. Full: B and B·g."""
    model = small_mixedae(mode=mode)
    seen = {}
    model.encoder.blocks[0].register_forward_pre_hook(lambda m, args: seen.update(encoder=tuple(args[0].shape)))
    model.decoder.blocks[0].register_forward_pre_hook(lambda m, args: seen.update(decoder=tuple(args[0].shape)))
    model.loss(batch(model))
    assert seen == {'encoder': (mixes, 25, 16), 'decoder': (4 * mixes, 25, 8)}


def test_mixedae__full_masks_are_not_complementary():
    model = small_mixedae(mode='full')
    mask = model.draw_mask(3, torch.Generator().manual_seed(0), 'cpu')
    assert mask.shape == (3, 4, 24)
    for group in mask:
        assert len({tuple(row.tolist()) for row in group}) == 4
        assert not torch.equal(group.sort(0).values, torch.arange(4)[:, None].expand(4, 24))


# ------------------------------------------------------------------------------------------------ randomness, meters
def test_mixedae__masks_follow_seed_and_step(monkeypatch):
    def drawn(model):
        return model.draw_mask(2, model.generator(), 'cpu')

    one, same, other = small_mixedae(seed=3), small_mixedae(seed=3), small_mixedae(seed=4)
    images, first_mask = batch(one), drawn(one)
    assert torch.equal(drawn(one), drawn(same)) and not torch.equal(drawn(one), drawn(other))
    before = torch.get_rng_state()
    first = one(images, mode='loss')['loss_recon']
    assert torch.equal(before, torch.get_rng_state())  # masks leave the global state alone
    assert one.step == 1 and not torch.equal(drawn(one), drawn(same))
    same.load_state_dict(one.state_dict())
    torch.testing.assert_close(same(images, mode='loss')['loss_recon'], first)
    monkeypatch.setattr('mixedae.models.pretrainer.get_rank', lambda: 1)
    assert not torch.equal(drawn(small_mixedae(seed=3)), first_mask)  # another rank, another mask


def test_mixedae__meters_are_the_oracles():
    model = small_mixedae()
    images, mask = batch(model), masks(model)
    model.measure = True
    inputs = []
    for block in model.encoder.blocks:
        block.register_forward_pre_hook(lambda m, args: inputs.append((m, args[0])))
    measured = model.loss(images, mask)
    assert set(model.meters) == {'topk_acc', 'own_attention'}
    for i, (block, x) in enumerate(inputs):
        q, k, _ = (t.detach().numpy() for t in block.attn.project_qkv(block.norm1(x)))
        expected = oracles.topk_accuracy(q, k, mask[:, 0].numpy(), 6).mean()
        assert model.meters['topk_acc'][i].item() == pytest.approx(expected, rel=1e-5)
        share = oracles.own_image_attention(q, k, mask[:, 0].numpy(), None if i == 0 else 6).mean()
        assert model.meters['own_attention'][i].item() == pytest.approx(share, rel=1e-5)
    assert not model.meters['topk_acc'].requires_grad
    model.measure = False
    for key, value in model.loss(images, mask).items():
        assert torch.equal(value, measured[key])  # measuring changes nothing


def test_mixedae__reconstruct():
    model = small_mixedae()
    images = batch(model)
    out = model.reconstruct(images, generator=torch.Generator().manual_seed(7))
    again = model.reconstruct(images, generator=torch.Generator().manual_seed(7))
    assert set(out) == {'mask', 'mixed', 'predicted'}
    assert all(torch.equal(out[k], again[k]) for k in out)
    assert out['mask'].shape == (2, 24) and out['mixed'].shape == (2, 3, 16, 24)
    assert out['predicted'].shape == images.shape
    groups = oracles.patchify(images.numpy(), 4).reshape(2, 4, 24, 48)
    mask = out['mask'].numpy()
    np.testing.assert_array_equal(oracles.patchify(out['mixed'].numpy(), 4), oracles.mix(groups, mask))
    pred = hand_forward(model, images, out['mask'][:, None])['pred']
    predicted = oracles.patchify(out['predicted'].numpy(), 4).reshape(2, 4, 24, 48)
    for a, i, pos in np.ndindex(2, 4, 24):
        patch = groups[a, i, pos]
        if mask[a, pos] == i:
            expected = patch  # what the encoder saw of this image is pasted in
        else:
            expected = pred[a, i, pos] * math.sqrt(patch.var(ddof=1) + 1e-6) + patch.mean()
        np.testing.assert_allclose(predicted[a, i, pos], expected, atol=1e-4)
    assert set(model(images, mode='predict')) == set(out)


# --------------------------------------------------------------------------------------------- precision, processes
def test_mixedae__bf16_autocast():
    model, exact = small_mixedae().float(), small_mixedae()
    images, mask = batch(model), masks(model)
    with torch.autocast('cpu', torch.bfloat16):
        losses = model.loss(images.float(), mask)
    expected = exact.loss(images, mask)
    for key, value in losses.items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(expected[key].item(), rel=0.05)
    (losses['loss_recon'] + losses['loss_contrastive']).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_mixedae__measured_step_under_autocast_has_the_same_gradients():
    """What the meters cast to bfloat16 without gradients must not be what the blocks then use."""
    model = small_mixedae().float()
    images, mask = batch(model).float(), masks(model)
    gradients = []
    for measure in (False, True):
        model.zero_grad()
        model.measure = measure
        with torch.autocast('cpu', torch.bfloat16):
            losses = model.loss(images, mask)
        (losses['loss_recon'] + losses['loss_contrastive']).backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for plain, measured in zip(*gradients):
        assert torch.equal(plain, measured)


@pytest.mark.parametrize(
    'changes, sentence',
    [
        (dict(encoder=dict(topk_ratio=0.5)), 'encoder.topk_ratio is set by the method: .* set topk_ratio'),
        (dict(encoder=dict(num_segments=3)), 'encoder.num_segments .* set segment_embed'),
        (dict(decoder=dict(use_cls=False)), 'decoder.use_cls .* set decoder_cls'),
    ],
)
def test_mixedae__options_of_the_method_are_not_overwritten_in_silence(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        small_mixedae(**changes)


def test_mixedae__activation_checkpointing_changes_nothing():
    gradients = []
    for with_cp in (False, True):
        model = small_mixedae(encoder=dict(with_cp=with_cp)).train()
        losses = model.loss(batch(model), masks(model))
        (losses['loss_recon'] + losses['loss_contrastive']).backward()
        gradients.append([p.grad for p in model.parameters()])
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b)


def test_mixedae__learns_a_batch():
    """A few steps on one batch with one mask lower both losses."""
    torch.manual_seed(0)
    model = MixedAE(encoder=small_encoder(), decoder=DECODER)
    images, mask = batch(model).float(), masks(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    history = []
    for _ in range(40):
        losses = model.loss(images, mask)
        optimizer.zero_grad()
        (losses['loss_recon'] + losses['loss_contrastive']).backward()
        optimizer.step()
        history.append((losses['loss_recon'].item(), losses['contrastive'].item()))
    assert history[-1][0] < 0.95 * history[0][0] and history[-1][1] < 0.95 * history[0][1]
    assert history[-1][1] > oracles.contrastive_minimum(24, 4)
