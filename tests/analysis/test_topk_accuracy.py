"""TopK accuracy by layer against tests/oracles.py, along training, and the command line."""

import json
import sys
from pathlib import Path

import numpy as np
import oracles
import pytest
import torch

from mixedae.analysis import accuracy_along_training, layer_accuracy, normalise
from mixedae.functional import draw_mixing_mask

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tools.analysis import topk_accuracy as tool


def pixels_for(count=8):
    return torch.randint(0, 256, (count, 3, 16, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_layer_accuracy__oracle(run):
    model, pixels = run[0], pixels_for()
    measured = layer_accuracy(model, pixels, seed=5)
    mask = draw_mixing_mask(2, 24, 4, generator=torch.Generator().manual_seed(5))
    seen = []
    for block in model.encoder.blocks:
        block.register_forward_pre_hook(lambda m, args: seen.append((m, args[0])))
    model.loss(normalise(model, pixels), mask[:, None])
    assert measured.topk_acc.shape == measured.own_attention.shape == (2, 3, 2)
    assert measured.topk == [6, 6, 6] and measured.is_global == [True, False, False] and measured.chance == 0.25
    for i, (block, x) in enumerate(seen):
        q, k, _ = (t.detach().numpy() for t in block.attn.project_qkv(block.norm1(x)))
        for s in range(2):
            sample = q[s : s + 1], k[s : s + 1], mask[s : s + 1].numpy()
            np.testing.assert_allclose(measured.topk_acc[s, i], oracles.topk_accuracy(*sample, 6), rtol=1e-5)
            expected = oracles.own_image_attention(*sample, None if i == 0 else 6)
            np.testing.assert_allclose(measured.own_attention[s, i], expected, rtol=1e-4)
    np.testing.assert_allclose(measured.by_layer, measured.topk_acc.mean((0, 2)))


def test_layer_accuracy__agrees_with_the_training_meter(run):
    model, pixels = run[0], pixels_for()
    mask = draw_mixing_mask(2, 24, 4, generator=torch.Generator().manual_seed(5))
    model.measure = True
    model.loss(normalise(model, pixels), mask[:, None])
    measured = layer_accuracy(model, pixels, seed=5)
    np.testing.assert_allclose(measured.by_layer, model.meters['topk_acc'].numpy(), rtol=1e-5)
    np.testing.assert_allclose(measured.own_attention.mean((0, 2)), model.meters['own_attention'].numpy(), rtol=1e-5)


def test_layer_accuracy__without_segments_is_what_a_zero_embedding_gives(run):
    model, pixels = run[0], pixels_for()
    with torch.no_grad():
        model.encoder.segment_embed.mul_(50)  # so that it decides
    blind = layer_accuracy(model, pixels, seed=5, use_segments=False)
    seeing = layer_accuracy(model, pixels, seed=5)
    with torch.no_grad():
        model.encoder.segment_embed.zero_()
    np.testing.assert_array_equal(blind.topk_acc, layer_accuracy(model, pixels, seed=5).topk_acc)
    assert not np.array_equal(blind.topk_acc, seeing.topk_acc)


def test_layer_accuracy__batches_and_draws(run):
    model, pixels = run[0], pixels_for(16)
    steps = []
    one = layer_accuracy(model, pixels, batch_groups=4, seed=1)
    same = layer_accuracy(model, pixels, batch_groups=4, seed=1, progress=lambda *s: steps.append(s))
    np.testing.assert_array_equal(one.topk_acc, same.topk_acc)
    assert steps == [(4, 4)]
    more = layer_accuracy(model, pixels, batch_groups=2, draws=3, seed=1)
    assert more.topk_acc.shape == (4, 3, 2) and (more.error > 0).all()


def test_layer_accuracy__a_group_is_the_mean_of_its_draws(run):
    model, pixels = run[0], pixels_for(4)
    apart = layer_accuracy(model, torch.cat([pixels, pixels]), batch_groups=1, seed=1)  # the same masks, one a group
    both = layer_accuracy(model, pixels, draws=2, seed=1)
    np.testing.assert_allclose(both.topk_acc, apart.topk_acc.mean(0, keepdims=True), atol=1e-6)
    np.testing.assert_allclose(both.own_attention, apart.own_attention.mean(0, keepdims=True), atol=1e-6)
    assert not np.array_equal(apart.topk_acc[0], apart.topk_acc[1]) and (both.error == 0).all()


def test_layer_accuracy__mae_is_measured_without_segments(mae_run):
    measured = layer_accuracy(mae_run[0], pixels_for())
    assert measured.is_global == [True] * 3 and measured.chance == 0.25 and (measured.topk_acc <= 1).all()


def test_layer_accuracy__a_model_that_finds_its_own_image(run):
    """Colours tell the images apart: an encoder of identity-like q and k on colour finds them all."""
    model = run[0]
    with torch.no_grad():
        model.encoder.pos_embed.zero_()
        model.encoder.segment_embed.copy_(20 * torch.eye(4, 16))
        for block in model.encoder.blocks:
            block.attn.qkv.weight.zero_()
            block.attn.qkv.weight[:16] = block.attn.qkv.weight[16:32] = 4 * torch.eye(16)
            block.attn.qkv.bias.zero_()
            block.norm1.weight.fill_(1)
            block.norm1.bias.zero_()
        model.encoder.patch_embed.proj.weight.zero_()
        model.encoder.patch_embed.proj.bias.zero_()
    measured = layer_accuracy(model, pixels_for())
    # All four segments lie in the first of the two heads; the second sees equal scores and takes the lowest keys.
    np.testing.assert_array_equal(measured.topk_acc[:, 0, 0], 1.0)
    assert measured.own_attention[:, 0, 0].min() > 0.95


@pytest.mark.parametrize(
    'count,options,message', [(6, {}, 'groups of 4'), (0, {}, 'groups'), (6, dict(group_size=2), '4')]
)
def test_layer_accuracy__bad_groups(run, count, options, message):
    with pytest.raises(ValueError, match=message):
        layer_accuracy(run[0], pixels_for(8)[:count], **options)


def test_layer_accuracy__bad_size(run):
    with pytest.raises(ValueError, match='px'):
        layer_accuracy(run[0], pixels_for()[..., :16])


def test_accuracy_along_training(run, mae_run):
    layers = accuracy_along_training(Path(run[2]).parent)
    assert sorted(layers) == [0, 1, 2]
    assert layers[2][0].tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(layers[2][1], [0.27, 0.29, 0.31, 0.33])
    with pytest.raises(FileNotFoundError):
        accuracy_along_training(Path(mae_run[2]).parent)
    log = Path(run[2]).parent / '20260101_000000' / 'vis_data' / 'scalars.json'
    log.write_text('{"loss": 1.0, "step": 1}\n')
    with pytest.raises(ValueError, match='PretrainMeterHook'):
        accuracy_along_training(Path(run[2]).parent)


def test_topk_accuracy_tool(run, mae_run, photos, tmp_path, capsys):
    out = tmp_path / 'out'
    arguments = [run[1], run[2], '--compare', mae_run[1], mae_run[2], '--name', 'MixedAE', '--name', 'MAE']
    assert tool.main([*arguments, '--images', str(photos), '--count', '8', '--out', str(out)]) == 0
    numbers = json.loads((out / 'topk_accuracy.json').read_text())
    assert list(numbers['models']) == ['MixedAE', 'MAE'] and list(numbers['training']) == ['MixedAE']
    assert [row['layer'] for row in numbers['models']['MixedAE']['layers']] == [0, 1, 2]
    assert numbers['models']['MixedAE']['groups'] == 2 and numbers['models']['MAE']['chance'] == 0.25
    assert numbers['training']['MixedAE']['02'] == [[1, 2, 3, 4], [0.27, 0.29, 0.31, 0.33]]
    assert (out / 'layers.png').stat().st_size > 2000 and (out / 'training.png').stat().st_size > 2000
    assert 'chance 25.0%' in capsys.readouterr().out


def test_topk_accuracy_tool__without_segments(run, mae_run, photos, tmp_path):
    arguments = [run[1], run[2], '--compare', mae_run[1], mae_run[2], '--name', 'MixedAE', '--name', 'MAE']
    arguments += ['--without-segments', '--images', str(photos), '--count', '8', '--out', str(tmp_path)]
    assert tool.main(arguments) == 0
    models = json.loads((tmp_path / 'topk_accuracy.json').read_text())['models']
    assert {name: model['use_segments'] for name, model in models.items()} == {
        'MixedAE': True,
        'MixedAE, segments left out': False,
        'MAE': True,
    }


def test_topk_accuracy_tool__crops_and_two_checkpoints(run, crop_index, tmp_path):
    out, second = tmp_path / 'out', Path(run[2]).with_name('iter_8.pth')
    second.write_bytes(Path(run[2]).read_bytes())
    assert tool.main([run[1], run[2], str(second), '--crops', str(crop_index), '--count', '8', '--out', str(out)]) == 0
    numbers = json.loads((out / 'topk_accuracy.json').read_text())
    one, two = numbers['models']['mixed/iter_4'], numbers['models']['mixed/iter_8']
    assert one['layers'] == two['layers'] and list(numbers['training']) == ['mixed/iter_4']


@pytest.mark.parametrize(
    'change,message',
    [
        (dict(checkpoint='none.pth'), 'does not exist'),
        (dict(images='none'), 'does not exist'),
        (dict(count='3'), 'not one group'),
        (dict(name=['a', 'b']), '2 names'),
    ],
)
def test_topk_accuracy_tool__bad_input(run, photos, tmp_path, capsys, change, message):
    given = dict(checkpoint=run[2], images=str(photos), count='8', name=[]) | change
    names = [part for name in given['name'] for part in ('--name', name)]
    arguments = [run[1], given['checkpoint'], '--images', given['images'], '--count', given['count'], *names]
    assert tool.main([*arguments, '--out', str(tmp_path / 'out')]) == 2
    error = capsys.readouterr().err
    assert error.startswith('error: ') and message in error and 'Traceback' not in error
