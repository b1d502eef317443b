"""Layer-wise learning rates: values, weight decay, which parameters, and bad options."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

import mixedae  # noqa: F401  (registration)
from mixedae.engine.layer_decay import LayerDecayOptimWrapperConstructor, find_depth_askers
from mixedae.models import MixedAEViT, SimpleFeaturePyramid

CONSTRUCTOR = 'mixedae.LayerDecayOptimWrapperConstructor'


class Detector(nn.Module):
    """A model as mm builds them: backbone under any name, neck, head."""

    def __init__(self, name='backbone', **changes):
        super().__init__()
        arch = dict(embed_dim=16, depth=3, num_heads=2)
        vit = MixedAEViT(**{**dict(arch=arch, img_size=16, patch_size=8, out_indices=(2,), init_values=1.0), **changes})
        setattr(self, name, vit)
        self.neck = SimpleFeaturePyramid(16, 8)
        self.head = nn.Linear(8, 3)


def build(model, lr=1e-3, weight_decay=0.1, **options):
    return build_optim_wrapper(
        model,
        dict(
            type='OptimWrapper',
            constructor=CONSTRUCTOR,
            optimizer=dict(type='AdamW', lr=lr, weight_decay=weight_decay),
            paramwise_cfg=options,
        ),
    )


def settings(model, wrapper):
    """{name: (lr, weight decay)} of what the optimizer really got."""
    names = {id(p): name for name, p in model.named_parameters()}
    groups = wrapper.optimizer.param_groups
    return {names[id(p)]: (group['lr'], group['weight_decay']) for group in groups for p in group['params']}


@pytest.mark.parametrize('name', ['backbone', 'image_encoder'])
def test_learning_rates__by_hand(name):
    model = Detector(name)
    found = settings(model, build(model, layer_decay_rate=0.5))
    assert set(found) == {n for n, _ in model.named_parameters()}
    # 3 blocks: depths 0 (stem), 1, 2, 3 (blocks), 4 (the rest)
    expected = {
        f'{name}.patch_embed.proj.weight': 1 / 16,
        f'{name}.cls_token': 1 / 16,
        f'{name}.pos_embed': 1 / 16,
        f'{name}.blocks.0.attn.qkv.weight': 1 / 8,
        f'{name}.blocks.1.ls1.gamma': 1 / 4,
        f'{name}.blocks.2.mlp.fc2.bias': 1 / 2,
        f'{name}.norm.weight': 1,
        'neck.levels.0.0.0.weight': 1,
        'head.weight': 1,
    }
    for parameter, scale in expected.items():
        assert found[parameter][0] == pytest.approx(1e-3 * scale), parameter


def test_weight_decay__not_on_vectors_and_tokens():
    model = Detector()
    found = settings(model, build(model, layer_decay_rate=0.5))
    for parameter, tensor in model.named_parameters():
        free = tensor.ndim == 1 or parameter in ('backbone.cls_token', 'backbone.pos_embed')
        assert found[parameter][1] == (0.0 if free else 0.1), parameter
    assert found['backbone.blocks.0.ls1.gamma'][1] == 0 and found['head.weight'][1] == 0.1


@pytest.mark.parametrize('rel_pos', ['table', 'shared', 'decomposed'])
def test_relative_positions__rate_of_their_block_and_no_decay(rel_pos):
    model = Detector(rel_pos=rel_pos)
    found = settings(model, build(model, layer_decay_rate=0.5))
    names = [name for name in found if 'relative_position_bias_table' in name or 'rel_pos_' in name]
    assert len(names) == {'table': 3, 'shared': 1, 'decomposed': 6}[rel_pos]
    for name in names:
        depth = 4 if rel_pos == 'shared' else int(name.split('.')[2]) + 1
        assert found[name] == (pytest.approx(1e-3 * 0.5 ** (4 - depth)), 0.0), name


def test_weight_decay__one_name_without_a_tuple():
    model = Detector()
    alone = settings(model, build(model, layer_decay_rate=0.5, no_decay='head'))
    assert alone == settings(model, build(model, layer_decay_rate=0.5, no_decay=('head',)))
    assert alone['backbone.blocks.0.attn.qkv.weight'][1] == 0.1


def test_weight_decay__options():
    model = Detector()
    found = settings(model, build(model, layer_decay_rate=0.5, no_decay=('head',), no_decay_1d=False))
    assert found['head.weight'][1] == 0 and found['backbone.cls_token'][1] == 0.1
    assert found['backbone.norm.bias'][1] == 0.1


def test_custom_keys__longest_first_and_multiplied():
    model = Detector()
    keys = {'head': dict(lr_mult=10.0), 'head.bias': dict(lr_mult=3.0, decay_mult=2.0), 'blocks.2': dict(lr_mult=0.1)}
    found = settings(model, build(model, decay_rate=0.5, no_decay_1d=False, custom_keys=keys))
    assert found['head.weight'] == (pytest.approx(1e-2), 0.1)
    assert found['head.bias'] == (pytest.approx(3e-3), pytest.approx(0.2))
    assert found['backbone.blocks.2.attn.proj.weight'][0] == pytest.approx(1e-3 * 0.5 * 0.1)


def test_rate_one__same_rate_everywhere():
    model = Detector()
    assert {lr for lr, _ in settings(model, build(model)).values()} == {1e-3}


def test_frozen_parameters__left_out():
    model = Detector(frozen_stages=1)
    found = settings(model, build(model, layer_decay_rate=0.5))
    assert not any(n.startswith(('backbone.patch_embed', 'backbone.blocks.0', 'backbone.cls')) for n in found)
    assert 'backbone.blocks.1.attn.qkv.weight' in found


def test_step__moves_layers_by_their_rate():
    """AdamW's first step without decay is lr * sign(grad): the move of a parameter is its learning rate."""
    model = Detector()
    wrapper = build(model, weight_decay=0.0, layer_decay_rate=0.5)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    wrapper.step()
    moved = {name: (before[name] - p).abs().mean().item() for name, p in model.named_parameters()}
    assert moved['backbone.patch_embed.proj.weight'] == pytest.approx(1e-3 / 16, rel=1e-2)
    assert moved['backbone.blocks.1.attn.qkv.weight'] == pytest.approx(1e-3 / 4, rel=1e-2)
    assert moved['head.weight'] == pytest.approx(1e-3, rel=1e-2)


def test_groups__one_for_each_setting():
    groups = build(Detector(), layer_decay_rate=0.5).optimizer.param_groups
    keys = [(g['lr'], g['weight_decay']) for g in groups]
    assert len(keys) == len(set(keys)) == 10  # 5 depths, with and without weight decay
    assert [g['depth'] for g in groups] == sorted(g['depth'] for g in groups)


def test_model_wrapper__is_unwrapped():
    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    model = Wrapper(Detector())
    found = settings(model, build(model, layer_decay_rate=0.5))
    assert found['module.backbone.pos_embed'][0] == pytest.approx(1e-3 / 16)


def test_find_depth_askers__outermost():
    assert [prefix for prefix, _ in find_depth_askers(Detector('trunk'))] == ['trunk.']
    assert [prefix for prefix, _ in find_depth_askers(Detector().backbone)] == ['']


def test_table__printed_once(monkeypatch):
    printed = []
    monkeypatch.setattr('mixedae.engine.layer_decay.print_log', lambda text, **_: printed.append(text))
    build(Detector(), layer_decay_rate=0.5)
    text = '\n'.join(printed)
    assert text.count('Layer-wise learning rates, decay 0.5 a layer') == 1
    assert 'backbone.blocks.2.attn.qkv.weight and 3 more' in text


def test_amp_wrapper_and_other_optimizers():
    wrapper = LayerDecayOptimWrapperConstructor(
        dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1, momentum=0.9), clip_grad=dict(max_norm=1.0)),
        dict(layer_decay_rate=0.9),
    )(Detector())
    assert type(wrapper.optimizer) is torch.optim.SGD and wrapper.clip_grad_kwargs == dict(max_norm=1.0)
    assert wrapper.optimizer.param_groups[0]['momentum'] == 0.9


@pytest.mark.parametrize(
    'options, sentence',
    [
        (dict(layer_decay=0.5), 'Unknown option layer_decay in paramwise_cfg'),
        (dict(layer_decay_rate=0.0), r'layer_decay_rate must lie in \(0, 1\]'),
        (dict(layer_decay_rate=1.5), r'layer_decay_rate must lie in \(0, 1\]'),
    ],
)
def test_bad_options(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        LayerDecayOptimWrapperConstructor(dict(optimizer=dict(type='AdamW', lr=1.0)), options)


def test_model_without_depths():
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(
        ValueError, match=r'No part of the model can tell the depth .* use the backbone mixedae\.MixedAEViT'
    ):
        LayerDecayOptimWrapperConstructor(dict(optimizer=dict(type='AdamW', lr=1.0)), {})(model)
    with pytest.raises(ValueError, match='no `lr`'):
        LayerDecayOptimWrapperConstructor(dict(optimizer=dict(type='AdamW')), {})
    with pytest.raises(ValueError, match='no `optimizer`'):
        LayerDecayOptimWrapperConstructor(dict(type='OptimWrapper'), {})
