"""Checkpoints that are cut, incomplete, of another model, in other number types: one sentence, nothing half loaded."""

import random

import pytest
import torch

from mixedae.checkpoints import CheckpointError, Weights, load_backbone, load_pretrained
from mixedae.checkpoints.encoder_weights import extract
from mixedae.checkpoints.exporting import TARGETS, name_for, prepare
from mixedae.models import MixedAEViT
from tests.checkpoints import layouts
from tests.checkpoints.layouts import ARCH, PATCH, SIDE, images, randomise


def backbone(**changes):
    return MixedAEViT(**{**dict(arch=ARCH, img_size=SIDE, patch_size=PATCH, out_indices=(2,)), **changes}).eval()


def state_of(layout=layouts.MaeViT):
    return randomise(layout()).state_dict()


def refused(state, match, **changes):
    target = backbone(**changes)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(CheckpointError, match=match) as caught:
        load_backbone(target, state, source='a.pth', log=False)
    assert '\n' not in str(caught.value)
    assert all(torch.equal(before[name], value) for name, value in target.state_dict().items()), 'half loaded'


def test_cut_file__anywhere(tmp_path):
    torch.save({'model': state_of()}, tmp_path / 'whole.pth')
    whole = (tmp_path / 'whole.pth').read_bytes()
    for share in (0.0, 0.001, 0.3, 0.9, 0.999):
        (tmp_path / 'cut.pth').write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(CheckpointError):
            load_pretrained(backbone(), tmp_path / 'cut.pth', log=False)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_other_number_types__are_cast(dtype):
    state = state_of()
    target, expected = backbone(), backbone()
    report = load_backbone(target, {name: value.to(dtype) for name, value in state.items()}, log=False)
    load_backbone(expected, {name: value.to(dtype).float() for name, value in state.items()}, log=False)
    assert report.notes == [f'stored as {str(dtype).removeprefix("torch.")}']
    assert all(value.dtype == torch.float32 for value in target.state_dict().values())
    assert torch.equal(target(images())[0], expected(images())[0])


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
@pytest.mark.parametrize('name', ['blocks.1.mlp.fc1.weight', 'pos_embed', 'norm.bias'])
def test_values_that_are_not_finite(name, value):
    state = state_of()
    state[name].view(-1)[3] = value
    refused(state, f'1 weights with values that are not finite numbers .first: {name}.')


def test_quantised_weights():
    state = state_of()
    state['blocks.0.attn.qkv.weight'] = state['blocks.0.attn.qkv.weight'].to(torch.int8)
    refused(state, 'not finite numbers .first: blocks.0.attn.qkv.weight')


def test_missing_blocks():
    state = state_of()
    last = {name: value for name, value in state.items() if not name.startswith('blocks.2.')}
    refused(last, r'a\.pth has 2 blocks, the backbone 3; set the same arch')
    middle = {name: value for name, value in state.items() if not name.startswith('blocks.1.')}
    refused(middle, r'has 2 blocks, the backbone 3 \(block 1 is missing\)')


def test_missing_weights_of_a_block():
    state = state_of()
    del state['blocks.1.mlp.fc1.weight'], state['patch_embed.proj.weight']
    refused(state, 'lacks 2 weights that every ViT has: blocks.1.mlp.fc1.weight, patch_embed.proj.weight')
    target = backbone()
    report = load_backbone(target, state, log=False, partial=True)
    assert report.missing == ['patch_embed.proj.weight', 'blocks.1.mlp.fc1.weight']


def test_split_projections__one_is_missing():
    transformers = pytest.importorskip('transformers')
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=128, image_size=32, patch_size=8
    )
    state = transformers.ViTModel(config).state_dict()
    del state['layers.1.attention.k_proj.weight']
    refused(state, r'a\.pth cannot be loaded: of q, k and v of blocks\.1\.attn only 2 are there')


def test_names_with_control_characters__are_shown_escaped():
    refused({'\x1b[2Jblocks\n.0': torch.zeros(2)}, r"\('\\x1b\[2Jblocks\\n")


def test_two_names_for_one_weight():
    state = state_of()
    state['blocks.0.ls1.gamma'] = state['blocks.0.gamma_1'] = torch.ones(32)
    refused(state, r'a\.pth cannot be loaded: both .* would become blocks\.0\.ls1\.gamma')


def test_more_blocks_than_the_backbone():
    """Its final LayerNorm would stand after the wrong block; raw outputs of the first blocks are what they are."""
    state = state_of()
    shallow = dict(arch=dict(ARCH, depth=2), out_indices=(1,))
    refused(state, 'has 3 blocks, the backbone 2: its final LayerNorm does not belong after block 1', **shallow)
    report = load_backbone(backbone(**shallow, out_norm='none'), state, log=False)
    assert report.left_out['blocks.2.norm1.bias'] == 'a block after the last output'


def test_extra_names__stay_behind_with_a_reason():
    state = state_of()
    extra = {'optimizer.lr': torch.zeros(1), 'queue': torch.zeros(9), 'bbox_head.fc.weight': torch.zeros(2)}
    target = backbone()
    report = load_backbone(target, {**state, **extra}, log=False)
    assert report.left_out == {
        'optimizer.lr': 'a state of training',
        'queue': 'a state of training',
        'bbox_head.fc.weight': 'neck, head',
    }
    of_another_part = {'text.rope.freqs': torch.zeros(2), 'teacher_copy.register_tokens': torch.zeros(2)}
    load_backbone(backbone(), {**state, **of_another_part}, log=False)
    refused({**state, 'rope.freqs': torch.zeros(2)}, r'has another kind of stem or positions \(rope\.freqs\)')
    refused({**state, 'colour_bias': torch.zeros(2)}, r'a part that is not known \(colour_bias\): .* partial=True')
    report = load_backbone(backbone(), {**state, 'colour_bias': torch.zeros(2)}, log=False, partial=True)
    assert report.left_out == {'colour_bias': 'weights of a part that is not known'}
    lightning = {f'model.visual.{name}': value for name, value in state.items()}
    beside = {'model.colour_bias': torch.zeros(2)}
    report = load_backbone(backbone(), {**lightning, **beside}, log=False)
    assert report.left_out == {'model.colour_bias': 'no part of a ViT encoder'}
    unknown = {f'blocks.{i}.adapter.weight': torch.zeros(2) for i in range(3)}
    refused({**state, **unknown}, r'its features depend on .*: blocks\.\* \(3\)\. partial=True')


@pytest.mark.parametrize(
    'names',
    [
        ['layer1.0.conv1.weight', 'fc.bias'],  # a ResNet
        ['layers.0.blocks.0.attn.qkv.weight', 'patch_embed.proj.weight'],  # Swin
        ['stages.0.blocks.0.conv_dw.weight', 'stem.0.weight'],  # ConvNeXt
        ['encoder.layer.0.attention.self.query.weight'],  # BERT
        ['model.layers.0.self_attn.q_proj.weight'],  # a language model
    ],
)
def test_other_architectures(names):
    refused({name: torch.zeros(2) for name in names}, 'holds no weights of a plain vision transformer')


def test_wider_model():
    refused(
        state_of(),
        r'cls_token is \(1, 1, 32\) in the file and \(1, 1, 64\) in the backbone',
        arch=dict(embed_dim=64, depth=3, num_heads=2),
    )


LAYOUTS = [layouts.MaePretraining, layouts.Distillation, layouts.MmpretrainMae]


def damaged(whole, rng):
    """A copy with some names dropped or changed, some shapes and types changed."""
    state = dict(whole)
    for _ in range(rng.choice([1, 1, 2, 5])):
        name = rng.choice(list(state))
        value = state.pop(name)
        change = rng.randrange(8)
        if change == 0:
            continue
        if change == 1:
            name = name[: rng.randrange(1, len(name))]
        elif change == 2:
            name = rng.choice(['module.', 'x.', 'blocks.', 'encoder.', 'backbone.']) + name
        elif change == 3:
            value = value[..., :-1] if value.ndim else value
        elif change == 4:
            value = value.flatten()
        elif change == 5:
            value = value.to(rng.choice([torch.int64, torch.float16, torch.complex64, torch.bool]))
        elif change == 6:
            value = value.unsqueeze(0)
        else:
            value = torch.zeros(0)
        state[name] = value
    return state


@pytest.mark.parametrize('layout', LAYOUTS, ids=lambda layout: layout.__name__)
def test_random_damage__loads_with_every_name_accounted_for_or_one_sentence(layout):
    """Names dropped and changed, shapes and types changed, a hundred times: no other exception, no half load."""
    rng = random.Random(0)
    whole = state_of(layout)
    outcomes = {'loaded': 0, 'refused': 0}
    for _ in range(100):
        state = damaged(whole, rng)
        target = backbone()
        before = {name: value.clone() for name, value in target.state_dict().items()}
        try:
            report = load_backbone(target, state, source='a.pth', log=False, partial=rng.random() < 0.3)
        except CheckpointError as error:
            outcomes['refused'] += 1
            assert '\n' not in str(error)
            assert all(torch.equal(before[name], value) for name, value in target.state_dict().items()), 'half loaded'
        else:
            outcomes['loaded'] += 1
            used = {source for sources in report.loaded.values() for source in sources}
            assert used | set(report.left_out) == set(state) and not used & set(report.left_out)
            assert all(value.isfinite().all() for value in target.state_dict().values())
    assert min(outcomes.values()) > 5, outcomes


@pytest.mark.parametrize('target', ['timm', 'hf', 'mixedae'])
def test_random_damage__converts_or_one_sentence(tmp_path, target):
    """The same damage before conversion: what is converted is a whole encoder of the right shapes."""
    rng = random.Random(1)
    whole = state_of(layouts.MaePretraining)
    sound = prepare(extract(Weights(whole, 'a.pth'), num_heads=2), TARGETS[target])
    shapes = {name: value.shape for name, value in name_for(sound, TARGETS[target]).items()}
    outcomes = {'converted': 0, 'refused': 0}
    for _ in range(60):
        try:
            encoder = prepare(extract(Weights(damaged(whole, rng), 'a.pth'), num_heads=2), TARGETS[target])
        except CheckpointError as error:
            outcomes['refused'] += 1
            assert '\n' not in str(error)
        else:
            outcomes['converted'] += 1
            found = {name: value.shape for name, value in name_for(encoder, TARGETS[target]).items()}
            assert found == shapes or (target == 'mixedae' and found.items() <= shapes.items())
    assert min(outcomes.values()) > 3, outcomes
