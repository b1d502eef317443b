"""Which weights of a file are taken: averages, teachers, wrappers; and what a file says of itself."""

import argparse
import json

import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.model import ExponentialMovingAverage

from mixedae.checkpoints import CheckpointError, load_backbone, load_pretrained, open_weights
from mixedae.checkpoints.facts import facts_of, parse_config
from mixedae.checkpoints.selecting import choose
from mixedae.models import MixedAEViT
from tests.checkpoints import layouts
from tests.checkpoints.layouts import ARCH, PATCH, SIDE, randomise


def backbone(**changes):
    return MixedAEViT(**{**dict(arch=ARCH, img_size=SIDE, patch_size=PATCH, out_indices=(2,)), **changes})


def weights(value):
    return {'blocks.0.norm1.weight': torch.full((2,), float(value))}


@pytest.mark.parametrize(
    'keys, taken, others',
    [
        (['model'], 'model', []),
        (['state_dict', 'state_dict_ema'], 'state_dict_ema', ['state_dict']),  # timm
        (['model', 'model_ema'], 'model_ema', ['model']),  # DeiT, BEiT
        (['student', 'teacher'], 'teacher', ['student']),  # DINO, iBOT
        (['state_dict', 'ema_state_dict'], 'state_dict', ['ema_state_dict']),  # MMEngine
        (['ema_state_dict'], 'ema_state_dict', []),
        (['module'], 'module', []),
        ([], '', []),
    ],
)
def test_choose__auto(keys, taken, others):
    checkpoint = {key: weights(i) for i, key in enumerate(keys)} | {'epoch': 3, 'optimizer': {'state': {}}}
    assert choose(checkpoint) == (taken, tuple(others))


def test_choose__by_name(tmp_path):
    torch.save(
        {'state_dict': weights(1), 'state_dict_ema': weights(2), 'args': argparse.Namespace(lr=1)}, tmp_path / 'a'
    )
    opened = open_weights(tmp_path / 'a', 'state_dict')
    assert opened.state_dict['blocks.0.norm1.weight'][0] == 1 and opened.others == ('state_dict_ema',)
    assert open_weights(tmp_path / 'a').state_dict['blocks.0.norm1.weight'][0] == 2
    with pytest.raises(CheckpointError, match="no weights under 'teacher'; it has state_dict_ema, state_dict"):
        open_weights(tmp_path / 'a', 'teacher')
    torch.save(weights(1), tmp_path / 'b')
    with pytest.raises(CheckpointError, match='it has one set only'):
        open_weights(tmp_path / 'b', 'teacher')
    torch.save({'encoder': weights(1), 'target_encoder': weights(2)}, tmp_path / 'c')
    assert open_weights(tmp_path / 'c', 'target_encoder').state_dict['blocks.0.norm1.weight'][0] == 2
    with pytest.raises(CheckpointError, match='it has encoder, target_encoder'):
        open_weights(tmp_path / 'c', 'teacher')


def test_choose__mmengine_swaps_when_it_saves():
    """The real hook: after saving, ``state_dict`` holds the averages and ``ema_state_dict`` the raw weights."""
    model = torch.nn.Linear(2, 2)
    hook = EMAHook()
    hook.src_model, hook.ema_model = model, ExponentialMovingAverage(model)
    hook.ema_model.module.weight.data.fill_(7.0)
    checkpoint = {'state_dict': {k: v.clone() for k, v in model.state_dict().items()}}
    hook.before_save_checkpoint(None, checkpoint)
    key, _ = choose(checkpoint)
    assert key == 'state_dict' and checkpoint[key]['weight'].eq(7).all()


@pytest.mark.parametrize(
    'wrap',
    [
        lambda name: f'module.{name}',
        lambda name: f'_orig_mod.{name}',
        lambda name: f'module._orig_mod.{name}',
        lambda name: f'_orig_mod.module.{name}',
        lambda name: name.replace('blocks.1.', 'blocks.1._orig_mod.'),
        lambda name: name.replace('attn.', 'attn._fsdp_wrapped_module.').replace(
            'blocks.0.', 'blocks.0._checkpoint_wrapped_module.'
        ),
    ],
)
def test_load__what_wrappers_add_to_names(wrap):
    state = randomise(layouts.MaePretraining()).state_dict()
    wrapped = {wrap(name): value for name, value in state.items()}
    target = backbone()
    report = load_backbone(target, wrapped, log=False)
    assert report.missing == [] and torch.equal(target.blocks[1].attn.qkv.weight, state['blocks.1.attn.qkv.weight'])
    assert report.loaded['blocks.1.attn.qkv.weight'] == (wrap('blocks.1.attn.qkv.weight'),)
    assert wrap('decoder_embed.bias') in report.left_out


def test_load__both_with_and_without_wrapper_is_refused():
    state = randomise(layouts.MaeViT()).state_dict()
    with pytest.raises(CheckpointError, match=r'cls_token and module\.cls_token are the same weight'):
        load_backbone(backbone(), {**state, 'module.cls_token': state['cls_token']}, log=False)


def test_load__which_weights_stands_in_the_report(tmp_path):
    raw, averaged = randomise(layouts.MaeViT(), 1), randomise(layouts.MaeViT(), 2)
    torch.save({'model': raw.state_dict(), 'model_ema': averaged.state_dict()}, tmp_path / 'a.pth')
    target = backbone()
    report = load_pretrained(target, tmp_path / 'a.pth', log=False)
    assert "note: its weights 'model_ema' were taken; it also has model" in str(report)
    assert torch.equal(target.cls_token, averaged.cls_token)
    target = backbone(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth'), weights='model'))
    target.init_weights()
    assert torch.equal(target.cls_token, raw.cls_token)


def test_open__folders(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'holds none of model\.safetensors, pytorch_model\.bin'):
        open_weights(tmp_path)
    (tmp_path / 'model.safetensors.index.json').write_text('{}')
    with pytest.raises(CheckpointError, match='weights in several files'):
        open_weights(tmp_path)
    torch.save(weights(3), tmp_path / 'pytorch_model.bin')
    assert open_weights(tmp_path).state_dict['blocks.0.norm1.weight'][0] == 3


CONFIG = """
import os
_base_ = ['../a.py']
max_iters = 4000
evil = __import__('os').system('touch {marker}')
also = [open('{marker}', 'w') for _ in range(1)]
model = dict(
    type='MixedAE',
    encoder=dict(arch='tiny', img_size=(64, 128), patch_size=16, norm_eps=1e-5),
    data_preprocessor=dict(mean=[1.0, 2.0, 3.0], std=[4, 5, 6], channel=os.getcwd()),
    topk_ratio=0.5)
"""


def test_config__is_parsed_never_run(tmp_path):
    marker = tmp_path / 'it_ran'
    text = CONFIG.replace('{marker}', str(marker))
    values = parse_config(text)
    assert not marker.exists()
    assert values['max_iters'] == 4000 and values['evil'] is None and values['also'] is None
    assert values['model']['encoder']['img_size'] == [64, 128]
    assert values['model']['data_preprocessor'] == dict(mean=[1.0, 2.0, 3.0], std=[4, 5, 6], channel=None)
    facts = facts_of({'meta': dict(cfg=text, iter=7, epoch=1)})
    assert (facts.grid, facts.num_heads, facts.norm_eps) == ((4, 8), 3, 1e-5)
    assert facts.mean == (1.0, 2.0, 3.0) and facts.std == (4.0, 5.0, 6.0) and facts.training['iter'] == 7


@pytest.mark.parametrize(
    'text', ['model = (', '\0', 'a' * 3_000_000, '[' * 5000, 'model = dict(encoder=dict(arch=1))', 'x: int']
)
def test_config__nonsense_says_nothing(text):
    facts = facts_of({'meta': dict(cfg=text)})
    assert facts.num_heads is None


@pytest.mark.parametrize(
    'meta', [None, 3, [], {'cfg': 3}, {'mixedae': 'no json'}, {'mixedae': {'encoder': {'arch': 5}}}]
)
def test_facts__of_odd_meta(meta):
    assert facts_of({'meta': meta}).num_heads is None


def test_facts__odd_config_json(tmp_path):
    for text in ('no json', '[]', '{"model_type": "vit", "image_size": "x", "num_attention_heads": true}', '[' * 9999):
        (tmp_path / 'config.json').write_text(text)
        facts = facts_of({}, tmp_path / 'pytorch_model.bin')
        assert facts.grid is None and facts.num_heads is None
    (tmp_path / 'config.json').write_text(json.dumps(dict(model_type='vit', image_size=[32, 64], patch_size=8)))
    facts = facts_of({}, tmp_path / 'pytorch_model.bin')
    assert (facts.grid, facts.num_heads, facts.norm_eps) == ((4, 8), 12, 1e-12), "Hugging Face's defaults"
    assert facts_of({}, tmp_path / 'another.pth').grid is None, 'config.json is that of the model beside it'


def test_load__rectangular_grid_that_the_own_config_tells(tmp_path):
    """4 x 9 patches could be 6 x 6: the config that MMEngine stores says which."""
    source = randomise(backbone(img_size=(32, 72)))
    cfg = "model = dict(backbone=dict(type='mixedae.MixedAEViT', img_size=(32, 72), patch_size=8))"
    state = {f'backbone.{name}': value for name, value in source.state_dict().items()}
    torch.save({'state_dict': state, 'meta': dict(cfg=cfg)}, tmp_path / 'a.pth')
    target = backbone(img_size=48)
    report = load_pretrained(target, tmp_path / 'a.pth', log=False)
    assert report.resampled == {'pos_embed': '4 x 9 -> 6 x 6 patches'}
