"""mixedae.MAE against the hand-written masked autoencoder of tests/oracles.py."""

import sys
from pathlib import Path

import numpy as np
import oracles
import pytest
import torch

from mixedae.functional.losses import masked_patch_error
from mixedae.models import MAE

sys.path.insert(0, str(Path(__file__).parent))
from pretrain_cases import DECODER, SIZES, numpy_state, small_mae


def images_for(model, count=3):
    size = model.encoder.img_size
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(0)).double()


def hand_forward(model, images, visible, **options):
    hidden = np.ones((len(images), model.encoder.num_patches), bool)
    for row, numbers in zip(hidden, visible.numpy()):
        row[numbers] = False
    return oracles.mae_forward(
        numpy_state(model),
        images.numpy(),
        hidden,
        patch_size=model.encoder.patch_size,
        num_heads=SIZES['num_heads'],
        decoder_heads=DECODER['num_heads'],
        **options,
    )


@pytest.mark.parametrize(
    'options,oracle_options',
    [
        ({}, {}),
        (dict(mask_ratio=0.5), {}),
        (dict(norm_pix=False), dict(norm_pix=False)),
        (dict(encoder=dict(height=16, width=16)), {}),
        (dict(encoder=dict(height=8, width=6, patch_size=2)), {}),
    ],
)
def test_mae__oracle(options, oracle_options):
    model = small_mae(**options)
    images = images_for(model)
    visible = model.draw_visible(len(images), torch.Generator().manual_seed(1), 'cpu')
    expected = hand_forward(model, images, visible, **oracle_options)
    pred = model.predict(model.cut(images), visible)
    np.testing.assert_allclose(pred.detach().numpy(), expected['pred'], atol=2e-5)
    assert model.loss(images, visible)['loss_recon'].item() == pytest.approx(expected['loss'], rel=2e-6)


def test_mae__gradient_is_the_oracles():
    model = small_mae(encoder=dict(height=8, width=8))
    images = images_for(model, 2)
    visible = model.draw_visible(2, torch.Generator().manual_seed(1), 'cpu')
    model.loss(images, visible)['loss_recon'].backward()
    parameters = dict(model.named_parameters())
    checked = {
        'encoder.patch_embed.proj.weight': (3, 1, 2, 0),
        'encoder.cls_token': (0, 0, 5),
        'encoder.blocks.1.attn.qkv.weight': (20, 3),
        'encoder.norm.weight': (9,),
        'decoder.mask_token': (1,),
        'decoder.blocks.0.mlp.fc1.weight': (6, 6),
    }
    for key, index in checked.items():
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameters[key][index] += sign * 1e-5
            values.append(hand_forward(model, images, visible)['loss'])
            with torch.no_grad():
                parameters[key][index] -= sign * 1e-5
        numeric = (values[0] - values[1]) / 2e-5
        assert parameters[key].grad[index].item() == pytest.approx(numeric, rel=1e-3, abs=1e-7), key


def test_mae__order_of_the_visible_patches_does_not_matter():
    model = small_mae()
    images = images_for(model)
    visible = model.draw_visible(3, torch.Generator().manual_seed(1), 'cpu')
    shuffled = visible[:, torch.tensor([3, 1, 0, 5, 2, 4])]
    torch.testing.assert_close(model.loss(images, shuffled), model.loss(images, visible))


def test_mae__masked_pixels_are_not_seen():
    model = small_mae()
    images = images_for(model).requires_grad_()
    visible = model.draw_visible(3, torch.Generator().manual_seed(1), 'cpu')
    pred, masked = model.predict(model.cut(images), visible), model.masked(visible)
    (grad,) = torch.autograd.grad(pred.square().sum(), images)
    touched = torch.from_numpy(oracles.patchify(grad.numpy(), 4)).any(-1)
    assert torch.equal(touched, ~masked)
    assert masked.sum(1).tolist() == [18] * 3 and not masked.gather(1, visible).any()


def test_mae__visible_patches_carry_no_gradient():
    model = small_mae()
    images = images_for(model)
    visible = model.draw_visible(3, torch.Generator().manual_seed(1), 'cpu')
    kept = []
    model.decoder.register_forward_hook(lambda m, i, out: (out.retain_grad(), kept.append(out))[0])
    model.loss(images, visible)['loss_recon'].backward()
    assert kept[0].shape == (3, 18, 48)  # the visible ones are not even computed
    assert kept[0].grad.any(-1).all()


@pytest.mark.parametrize('options', [{}, dict(mask_ratio=0.5, norm_pix=False), dict(decoder=dict(depth=1))])
def test_mae__loss_is_that_of_predicting_everything(options):
    """Values and gradients, although only the masked patches pass the end of the decoder."""
    lean, whole = small_mae(**options), small_mae(**options)
    images = images_for(lean)
    visible = lean.draw_visible(3, torch.Generator().manual_seed(1), 'cpu')
    loss = lean.loss(images, visible)['loss_recon']
    patches = whole.cut(images)
    expected = masked_patch_error(whole.predict(patches, visible), patches, whole.masked(visible), whole.norm_pix)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    for (name, ours), theirs in zip(lean.named_parameters(), whole.parameters()):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)


def test_mae__wanted_patches_in_any_order():
    model = small_mae()
    patches = model.cut(images_for(model))
    visible = model.draw_visible(3, torch.Generator().manual_seed(1), 'cpu')
    wanted = torch.tensor([[5, 2], [23, 0], [7, 8]])
    everything = model.predict(patches, visible)
    some = model.predict(patches, visible, wanted)
    for row in range(3):
        torch.testing.assert_close(some[row], everything[row, wanted[row]])


def test_mae__a_patch_shown_twice_is_refused():
    model = small_mae()
    with pytest.raises(ValueError, match='must choose 18 of its 24'):
        model.loss(images_for(model), torch.zeros(3, 6, dtype=torch.int64))


def test_mae__encoder_sees_the_visible_tokens_only():
    model = small_mae()
    seen = {}
    model.encoder.blocks[0].register_forward_pre_hook(lambda m, args: seen.update(encoder=tuple(args[0].shape)))
    model.decoder.blocks[0].register_forward_pre_hook(lambda m, args: seen.update(decoder=tuple(args[0].shape)))
    model.loss(images_for(model))
    assert seen == {'encoder': (3, 7, 16), 'decoder': (3, 25, 8)}


def test_mae__masks_are_uniform_and_seeded():
    model = small_mae()
    visible = model.draw_visible(8000, torch.Generator().manual_seed(1), 'cpu')
    assert all(len(set(row)) == 6 for row in visible[:200].tolist())
    share = torch.bincount(visible.flatten(), minlength=24).double() / 8000
    assert (share - 0.25).abs().max() < 5 * (0.25 * 0.75 / 8000) ** 0.5
    images = images_for(model)
    first = model(images, mode='loss')['loss_recon']
    assert model.step == 1
    model.step = 0
    torch.testing.assert_close(model(images, mode='loss')['loss_recon'], first)


@pytest.mark.parametrize('ratio,visible', [(0.75, 49), (0.5, 98), (0.6, 78), (0.9, 19)])
def test_mae__visible_count_is_maes(ratio, visible):
    """int(L (1 - ratio)) patches stay, as in MAE's code."""
    with torch.device('meta'):
        assert MAE(encoder=dict(arch='tiny'), mask_ratio=ratio).num_visible == visible


def test_mae__base_has_the_published_size():
    with torch.device('meta'):
        model = MAE(encoder=dict(arch='base'))
    assert sum(p.numel() for p in model.parameters()) == 111_655_680
    assert not any(k.startswith('projector') or 'segment' in k for k in model.state_dict())
    assert all(b.attn.num_kept(50) is None for b in model.encoder.blocks)


def test_mae__reconstruct():
    model = small_mae()
    images = images_for(model)
    out = model.reconstruct(images, generator=torch.Generator().manual_seed(7))
    masked = out['masked'].numpy()
    visible = torch.from_numpy(np.stack([np.flatnonzero(~row) for row in masked]))
    pred = hand_forward(model, images, visible)['pred']
    patches = oracles.patchify(images.numpy(), 4)
    predicted = oracles.patchify(out['predicted'].numpy(), 4)
    for b, pos in np.ndindex(*masked.shape):
        patch = patches[b, pos]
        expected = pred[b, pos] * (patch.var(ddof=1) + 1e-6) ** 0.5 + patch.mean() if masked[b, pos] else patch
        np.testing.assert_allclose(predicted[b, pos], expected, atol=1e-4)


def test_mae__every_parameter_has_a_gradient():
    model = small_mae().train()
    model.loss(images_for(model))['loss_recon'].backward()
    assert not [k for k, p in model.named_parameters() if p.grad is None or not p.grad.any()]


def test_mae__bf16_autocast():
    model, exact = small_mae().float(), small_mae()
    images = images_for(model)
    visible = model.draw_visible(3, torch.Generator().manual_seed(1), 'cpu')
    with torch.autocast('cpu', torch.bfloat16):
        loss = model.loss(images.float(), visible)['loss_recon']
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.loss(images, visible)['loss_recon'].item(), rel=0.05)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize('ratio', [0, 1, 0.99, -0.5, 1.5])
def test_mae__bad_mask_ratio(ratio):
    with pytest.raises(ValueError, match='mask_ratio'):
        small_mae(mask_ratio=ratio)
