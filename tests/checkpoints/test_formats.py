"""Every format that is read: saved as its library saves it, loaded by the file, and the features are the same."""

import collections
import pickle

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from mixedae.checkpoints import CheckpointError, load_pretrained
from mixedae.models import MAE, MixedAE, MixedAEViT
from tests.checkpoints import layouts
from tests.checkpoints.layouts import ARCH, DEPTH, DIM, HEADS, PATCH, SIDE, images, randomise

LAST = (DEPTH - 1,)


def backbone(**changes):
    return MixedAEViT(**{**dict(arch=ARCH, img_size=SIDE, patch_size=PATCH, out_indices=LAST), **changes}).eval()


def check(path, tokens, *, left_out=None, format=None, target=None, **options):
    """Loads a file and compares the backbone's map with the patch tokens ``(B, 1 + L, D)`` of the reference."""
    target = target or backbone()
    report = load_pretrained(target, path, log=False, **options)
    with torch.no_grad():
        (found,) = target(images())
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), tokens[:, 1:], atol=2e-5, rtol=1e-4)
    assert report.missing == []
    if format:
        assert report.format == format
    if left_out is not None:
        assert set(report.left_out) == set(left_out)
    return report


def tokens_of(model):
    with torch.no_grad():
        return model(images())


def test_mae__pretraining(tmp_path):
    model = randomise(layouts.MaePretraining())
    torch.save({'model': model.state_dict(), 'epoch': 1}, tmp_path / 'mae.pth')
    report = check(tmp_path / 'mae.pth', tokens_of(model), format='MAE pre-training')
    extra = [name for name in model.state_dict() if name.startswith(('mask_token', 'decoder'))]
    assert list(report.left_out) == extra
    assert report.left_out['decoder_pred.bias'] == "the pretext task's decoder"


def test_mae__finetuned_with_average_pooling_has_no_final_norm(tmp_path):
    model = randomise(layouts.MaeViT())
    state = {k.replace('norm.', 'fc_norm.') if k.startswith('norm.') else k: v for k, v in model.state_dict().items()}
    torch.save(
        {'model': {**state, 'head.weight': torch.zeros(5, DIM), 'head.bias': torch.zeros(5)}}, tmp_path / 'a.pth'
    )
    target = backbone(out_norm='none')
    report = load_pretrained(target, tmp_path / 'a.pth', log=False)
    model.norm = torch.nn.Identity()
    torch.testing.assert_close(
        target(images())[0].flatten(2).transpose(1, 2), tokens_of(model)[:, 1:], atol=2e-5, rtol=1e-4
    )
    assert report.left_out['fc_norm.weight'] == 'normalises pooled features, not the tokens'
    report = load_pretrained(backbone(), tmp_path / 'a.pth', log=False)
    assert report.missing == ['norm.weight', 'norm.bias']
    assert report.notes == ["it has no LayerNorm after the last block: out_norm='none' gives equal features"]


def test_load__without_absolute_positions_says_the_setting(tmp_path):
    model = randomise(layouts.MaeViT())
    state = {name: value for name, value in model.state_dict().items() if name != 'pos_embed'}
    torch.save(state, tmp_path / 'a.pth')
    report = load_pretrained(backbone(), tmp_path / 'a.pth', log=False)
    assert report.missing == ['pos_embed']
    assert report.notes == ['it has no absolute positions: abs_pos_embed=False gives equal features']
    model.pos_embed.data.zero_()
    report = check(tmp_path / 'a.pth', tokens_of(model), target=backbone(abs_pos_embed=False))
    assert report.notes == []


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('pool', [dict(), dict(global_pool='avg', fc_norm=False), dict(no_embed_class=True)])
def test_timm__vision_transformer(tmp_path, suffix, pool):
    sizes = dict(img_size=SIDE, patch_size=PATCH, num_classes=5, **ARCH, **pool)
    model = randomise(timm.models.VisionTransformer(**sizes))
    path = tmp_path / f'model{suffix}'
    save_file(model.state_dict(), path) if suffix == '.safetensors' else torch.save(model.state_dict(), path)
    with torch.no_grad():
        tokens = model.forward_features(images())
    report = check(path, tokens, left_out=['head.weight', 'head.bias'], format='MAE / timm ViT')
    assert ('a row of zeros' in str(report.resampled)) == ('no_embed_class' in pool)


@pytest.mark.parametrize('init_values', [None, 1.0])
def test_timm__layer_scale_has_a_place_or_is_folded(tmp_path, init_values):
    model = randomise(timm.models.VisionTransformer(img_size=SIDE, patch_size=PATCH, init_values=0.1, **ARCH))
    torch.save(model.state_dict(), tmp_path / 'a.pth')
    with torch.no_grad():
        tokens = model.forward_features(images())
    report = check(tmp_path / 'a.pth', tokens, target=backbone(init_values=init_values))
    assert bool(report.notes) == (init_values is None)
    if init_values is None:
        assert report.notes == ['layer scale of 3 blocks multiplied into the projections before it, which is the same']
        assert 'blocks.0.ls1.gamma' in report.loaded['blocks.0.attn.proj.bias']


@pytest.mark.parametrize(
    'change, what',
    [
        (dict(reg_tokens=4), 'reg_token'),
        (dict(pre_norm=True), 'norm_pre'),
        (dict(qk_norm=True), 'blocks.* (12)'),
    ],
)
def test_timm__parts_that_the_backbone_lacks_are_refused(tmp_path, change, what):
    model = timm.models.VisionTransformer(img_size=SIDE, patch_size=PATCH, num_classes=0, **ARCH, **change)
    torch.save(model.state_dict(), tmp_path / 'a.pth')
    target = backbone()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(CheckpointError, match='features') as caught:
        load_pretrained(target, tmp_path / 'a.pth', log=False)
    assert what in str(caught.value) and 'partial=True' in str(caught.value)
    assert all(torch.equal(before[name], value) for name, value in target.state_dict().items()), 'half loaded'


def test_dinov2__registers_are_refused_without_them_it_loads(tmp_path):
    """facebookresearch/dinov2: timm's names, ``mask_token``, layer scale, ``register_tokens``."""
    model = randomise(timm.models.VisionTransformer(img_size=SIDE, patch_size=PATCH, init_values=1.0, **ARCH))
    state = {k: v for k, v in model.state_dict().items() if not k.startswith('head')} | {
        'mask_token': torch.zeros(1, DIM)
    }
    torch.save(state, tmp_path / 'dinov2.pth')
    with torch.no_grad():
        check(tmp_path / 'dinov2.pth', model.forward_features(images()), left_out=['mask_token'])
    torch.save({**state, 'register_tokens': torch.zeros(1, 4, DIM)}, tmp_path / 'registers.pth')
    with pytest.raises(CheckpointError, match=r'tokens besides \[CLS\] \(register_tokens\)'):
        load_pretrained(backbone(), tmp_path / 'registers.pth', log=False)


@pytest.mark.parametrize('scale', [False, True])
def test_ibot__teacher_is_taken_student_by_name(tmp_path, scale):
    student = randomise(layouts.Distillation(scale, masked_embed=True), 1)
    teacher = randomise(layouts.Distillation(scale), 2)
    wrapped = {f'module.{name}': value for name, value in student.state_dict().items()}
    torch.save({'student': wrapped, 'teacher': teacher.state_dict(), 'epoch': 3}, tmp_path / 'checkpoint.pth')
    target = backbone(init_values=1.0 if scale else None)
    report = check(
        tmp_path / 'checkpoint.pth', tokens_of(teacher.backbone), format='DINO / iBOT training', target=target
    )
    assert "its weights 'teacher' were taken; it also has student" in report.notes
    report = check(tmp_path / 'checkpoint.pth', tokens_of(student.backbone), weights='student', target=target)
    assert report.left_out['module.backbone.masked_embed'] == "the pretext task's mask token"
    assert report.left_out['module.head.last_layer.weight'] == 'a classifier or projection head'


@pytest.mark.parametrize('prefix', ['', 'backbone.'])
@pytest.mark.parametrize('scale', [False, True])
def test_mmpretrain__vit(tmp_path, prefix, scale):
    model = randomise(layouts.MmpretrainViT(scale))
    state = {prefix + name: value for name, value in model.state_dict().items()}
    state |= {'head.fc.weight': torch.zeros(3, DIM), f'{prefix}ln2.weight': torch.ones(DIM)}
    torch.save({'state_dict': state, 'meta': {}}, tmp_path / 'a.pth')
    report = check(tmp_path / 'a.pth', tokens_of(model), format='mmpretrain ViT / MAE')
    assert report.left_out[f'{prefix}ln2.weight'] == 'normalises pooled features, not the tokens'


def test_mmpretrain__mae(tmp_path):
    model = randomise(layouts.MmpretrainMae())
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'a.pth')
    report = check(tmp_path / 'a.pth', tokens_of(model.backbone))
    assert all(name.startswith('neck.') for name in report.left_out) and len(report.left_out) == 15


def test_mmseg__vision_transformer(tmp_path):
    mmseg = pytest.importorskip('mmseg.models.backbones')
    sizes = dict(img_size=SIDE, patch_size=PATCH, embed_dims=DIM, num_layers=DEPTH, num_heads=HEADS)
    model = mmseg.VisionTransformer(**sizes, final_norm=True, norm_cfg=dict(type='LN', eps=1e-6))
    model = randomise(model)
    torch.save({'state_dict': {f'backbone.{k}': v for k, v in model.state_dict().items()}}, tmp_path / 'a.pth')
    target = backbone()
    report = load_pretrained(target, tmp_path / 'a.pth', log=False)
    assert report.format == 'mmseg VisionTransformer' and report.missing == [] and not report.left_out
    assert report.notes == ['biases that it does not have were set to zero: patch_embed.proj.bias']
    torch.testing.assert_close(target(images())[0], model(images())[-1], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize('name', ['BEiT', 'MAE'])
def test_mmseg__beit_and_mae(tmp_path, name):
    mmseg = pytest.importorskip('mmseg.models.backbones')
    sizes = dict(img_size=SIDE, patch_size=PATCH, embed_dims=DIM, num_layers=DEPTH, num_heads=HEADS)
    model = randomise(getattr(mmseg, name)(**sizes, norm_cfg=dict(type='LN', eps=1e-6), out_indices=[DEPTH - 1]))
    torch.save({'state_dict': {f'backbone.{k}': v for k, v in model.state_dict().items()}}, tmp_path / 'a.pth')
    target = backbone(rel_pos='table', init_values=1.0, out_norm='none', abs_pos_embed=name == 'MAE')
    report = load_pretrained(target, tmp_path / 'a.pth', log=False)
    assert report.missing == [] and set(report.left_out.values()) == {'an index that is computed anew'}
    torch.testing.assert_close(target(images())[0], model(images())[0], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize('shared', [False, True])
def test_beit__timm_class(tmp_path, shared):
    """Tables of each block, or one for all as in BEiT's pre-training, which each block gets a copy of."""
    kind = dict(use_rel_pos_bias=not shared, use_shared_rel_pos_bias=shared)
    model = timm.models.Beit(
        img_size=SIDE,
        patch_size=PATCH,
        init_values=0.1,
        num_classes=5,
        global_pool='token',
        use_abs_pos_emb=False,
        **ARCH,
        **kind,
    )
    model = randomise(model)
    torch.save({'model': model.state_dict()}, tmp_path / 'beit.pth')
    with torch.no_grad():
        tokens = model.forward_features(images())
    eps = model.norm.eps
    target = backbone(rel_pos='table', init_values=1.0, abs_pos_embed=False, norm_eps=eps)
    check(tmp_path / 'beit.pth', tokens, format='BEiT', target=target)
    # with a table of absolute positions it is set to zero, without layer scale it is folded
    target = backbone(rel_pos='table', norm_eps=eps)
    load_pretrained(target, tmp_path / 'beit.pth', log=False)
    torch.testing.assert_close(target(images())[0].flatten(2).transpose(1, 2), tokens[:, 1:], atol=2e-5, rtol=1e-4)
    with pytest.raises(CheckpointError, match="Set rel_pos='table' in the backbone, or partial=True"):
        load_pretrained(backbone(), tmp_path / 'beit.pth', log=False)


def hugging_face(name, **changes):
    transformers = pytest.importorskip('transformers')
    config = getattr(transformers, 'ViTMAEConfig' if 'MAE' in name else 'ViTConfig')
    sizes = dict(
        hidden_size=DIM,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        intermediate_size=4 * DIM,
        image_size=SIDE,
        patch_size=PATCH,
        layer_norm_eps=1e-6,
    )
    if 'MAE' in name:
        sizes |= dict(
            mask_ratio=0.0,
            decoder_hidden_size=16,
            decoder_num_hidden_layers=1,
            decoder_num_attention_heads=2,
            decoder_intermediate_size=32,
        )
    return randomise(getattr(transformers, name)(config(**{**sizes, **changes})))


def encode(model):
    """Tokens of any of the classes, in the order of the patches."""
    encoder = getattr(model, 'vit', model)
    noise = dict(noise=torch.arange(16.0).expand(2, -1)) if 'MAE' in type(encoder).__name__ else {}
    with torch.no_grad():
        return encoder(images(), **noise).last_hidden_state


@pytest.mark.parametrize('name', ['ViTModel', 'ViTForImageClassification', 'ViTMAEModel', 'ViTMAEForPreTraining'])
@pytest.mark.parametrize('how', ['folder', 'file', 'memory'])
def test_hugging_face(tmp_path, name, how):
    """Files hold the names of transformers 4, a state dict in memory those of transformers 5."""
    model = hugging_face(name)
    if how == 'memory':
        torch.save(model.state_dict(), tmp_path / 'a.bin')
        path = tmp_path / 'a.bin'
    else:
        model.save_pretrained(tmp_path / 'hf')
        path = tmp_path / 'hf' if how == 'folder' else tmp_path / 'hf' / 'model.safetensors'
    report = check(path, encode(model))
    assert report.format == ('Hugging Face ViTMAE' if 'PreTraining' in name else 'Hugging Face ViT')
    kept = {'ViTModel': {'pooler'}, 'ViTForImageClassification': {'classifier'}}.get(name, {'decoder'})
    assert {n.split('.')[0] for n in report.left_out} <= kept


BEIT = dict(intermediate_size=4 * DIM, layer_norm_eps=1e-6)
TABLE, SHARED = dict(BEIT, use_relative_position_bias=True), dict(BEIT, use_shared_relative_position_bias=True)
RELATIVE = dict(rel_pos='table', abs_pos_embed=False)


@pytest.mark.parametrize('how', ['folder', 'memory'])
@pytest.mark.parametrize(
    'name, changes, target',
    [
        ('Beit', TABLE, dict(RELATIVE, out_norm='none')),
        ('Beit', SHARED, dict(RELATIVE, out_norm='none')),
        ('Beit', SHARED, dict(rel_pos='shared', abs_pos_embed=False, out_norm='none')),
        ('Beit', dict(TABLE, use_mean_pooling=False, use_absolute_position_embeddings=True), dict(rel_pos='table')),
        ('Data2VecVision', TABLE, dict(RELATIVE, out_norm='none')),
        ('Data2VecVision', SHARED, dict(RELATIVE, out_norm='none')),
        ('Dinov2', {}, {}),
    ],
)
def test_hugging_face__relatives(tmp_path, name, changes, target, how):
    transformers = pytest.importorskip('transformers')
    sizes = dict(hidden_size=DIM, num_hidden_layers=DEPTH, num_attention_heads=HEADS, image_size=SIDE, patch_size=PATCH)
    config = getattr(transformers, f'{name}Config')(**sizes, **changes)
    model = randomise(getattr(transformers, f'{name}Model')(config))
    path = tmp_path / ('hf' if how == 'folder' else 'a.bin')
    model.save_pretrained(path) if how == 'folder' else torch.save(model.state_dict(), path)
    report = check(path, encode(model), target=backbone(init_values=1.0, **target), format='Hugging Face ViT')
    assert {n.split('.')[0] for n in report.left_out} <= {'pooler', 'embeddings'}
    if changes:
        with pytest.raises(CheckpointError, match=r"Set rel_pos='table' in the backbone"):
            load_pretrained(backbone(init_values=1.0), path, log=False)


@pytest.mark.parametrize('name', ['BeitForMaskedImageModeling', 'Data2VecVisionForImageClassification'])
def test_hugging_face__heads_stay_behind(tmp_path, name):
    transformers = pytest.importorskip('transformers')
    kind = name.split('For')[0]
    sizes = dict(hidden_size=DIM, num_hidden_layers=DEPTH, num_attention_heads=HEADS, image_size=SIDE, patch_size=PATCH)
    model = randomise(getattr(transformers, name)(getattr(transformers, f'{kind}Config')(**sizes, **SHARED)))
    model.save_pretrained(tmp_path / 'hf')
    encoder = model.beit if kind == 'Beit' else model.data2vec_vision
    with torch.no_grad():
        tokens = encoder(images()).last_hidden_state
        tokens = model.layernorm(tokens) if kind == 'Beit' else tokens
    out_norm = 'final' if kind == 'Beit' else 'none'  # the pre-training's LayerNorm stands beside the encoder
    report = check(tmp_path / 'hf', tokens, target=backbone(init_values=1.0, **RELATIVE, out_norm=out_norm))
    assert set(report.left_out.values()) <= {'a classifier or projection head', 'pools tokens for a classifier'}


def test_hugging_face__says_its_epsilon_and_heads(tmp_path):
    hugging_face('ViTModel', layer_norm_eps=1e-12).save_pretrained(tmp_path / 'hf')
    report = load_pretrained(backbone(), tmp_path / 'hf', log=False)
    assert any('epsilon 1e-12, the backbone has 1e-06' in note for note in report.notes)
    assert load_pretrained(backbone(norm_eps=1e-12), tmp_path / 'hf', log=False).notes == []
    with pytest.raises(CheckpointError, match='trained with 2 attention heads and the backbone has 4'):
        load_pretrained(backbone(arch=dict(ARCH, num_heads=4)), tmp_path / 'hf', log=False)


def test_hugging_face__rectangular_images(tmp_path):
    """``config.json`` tells the grid, which the number of patches does not (4 x 9 could be 6 x 6)."""
    model = hugging_face('ViTModel', image_size=[4 * PATCH, 9 * PATCH])
    model.save_pretrained(tmp_path / 'hf')
    target = backbone(img_size=(4 * PATCH, 9 * PATCH))
    report = load_pretrained(target, tmp_path / 'hf', log=False)
    assert not report.resampled
    x = images(height=4 * PATCH, width=9 * PATCH)
    with torch.no_grad():
        tokens = model(x).last_hidden_state
    torch.testing.assert_close(target(x)[0].flatten(2).transpose(1, 2), tokens[:, 1:], atol=2e-5, rtol=1e-4)
    report = load_pretrained(backbone(img_size=6 * PATCH), tmp_path / 'hf', log=False)
    assert report.resampled == {'pos_embed': '4 x 9 -> 6 x 6 patches'}


@pytest.mark.parametrize('kind', ['pickle of numpy', 'torch'])
def test_detectron2__vitdet(tmp_path, kind):
    """Windows of 3 on a grid of 4, so that padding shows; positions of [CLS] without [CLS]."""
    model = randomise(layouts.Vitdet())
    state = {f'backbone.net.{name}': value for name, value in model.state_dict().items()}
    state |= {'backbone.simfp_2.0.weight': torch.zeros(2), 'roi_heads.box_head.0.conv1.weight': torch.zeros(2)}
    if kind == 'torch':
        path = tmp_path / 'model_final.pth'
        torch.save({'model': state, 'iteration': 7}, path)
    else:
        path = tmp_path / 'model_final.pkl'
        arrays = collections.OrderedDict((name, np.asfortranarray(value.numpy())) for name, value in state.items())
        path.write_bytes(pickle.dumps({'model': arrays, '__author__': 'Detectron2 Model Zoo'}))
    options = dict(with_cls_token=False, rel_pos='decomposed', window_size=3, global_blocks=(2,), out_norm='none')
    target = backbone(**options, window_padding='zeros')
    report = load_pretrained(target, path, log=False)
    assert report.format == 'detectron2 ViTDet' and report.missing == []
    assert report.resampled == {'pos_embed': 'its row of [CLS] dropped'}
    assert set(report.left_out.values()) == {'neck, head'}
    torch.testing.assert_close(target(images())[0], tokens_of(model), atol=2e-5, rtol=1e-4)
    with pytest.raises(CheckpointError, match="Set rel_pos='decomposed' in the backbone"):
        load_pretrained(backbone(with_cls_token=False), path, log=False)


@pytest.mark.parametrize('kind', [MixedAE, MAE])
def test_own__pretraining(tmp_path, kind):
    model = kind(
        encoder=dict(arch=ARCH, img_size=SIDE, patch_size=PATCH),
        decoder=dict(embed_dim=16, depth=1, num_heads=2),
        **(dict(topk_ratio=None) if kind is MixedAE else {}),
    )
    model = randomise(model)
    torch.save({'state_dict': model.state_dict(), 'meta': dict(iter=3)}, tmp_path / 'iter_3.pth')
    check(tmp_path / 'iter_3.pth', model.extract(images()).detach(), format='mixedae pre-training')


def test_own__detector(tmp_path):
    model = randomise(backbone(init_values=0.5))
    state = {f'backbone.{name}': value for name, value in model.state_dict().items()}
    torch.save({'state_dict': state | {'neck.up2.weight': torch.zeros(2)}}, tmp_path / 'a.pth')
    target = backbone(init_values=1.0)
    report = load_pretrained(target, tmp_path / 'a.pth', log=False)
    assert report.format == 'mm model with this backbone' and list(report.left_out) == ['neck.up2.weight']
    assert torch.equal(target(images())[0], model(images())[0])


def test_any_prefix__one_encoder_is_found_of_two_one_must_be_named(tmp_path):
    """Lightning and the like: ``model.visual.blocks.0``."""
    first, second = randomise(layouts.MaeViT(), 1), randomise(layouts.MaeViT(), 2)
    state = {f'model.visual.{name}': value for name, value in first.state_dict().items()}
    torch.save({'state_dict': state}, tmp_path / 'one.ckpt')
    check(tmp_path / 'one.ckpt', tokens_of(first), format='ViT under a prefix')
    state |= {f'model.other.{name}': value for name, value in second.state_dict().items()}
    torch.save({'state_dict': state}, tmp_path / 'two.ckpt')
    with pytest.raises(CheckpointError, match=r"it holds 2 encoders: choose one by prefix='model\.visual\.'"):
        load_pretrained(backbone(), tmp_path / 'two.ckpt', log=False)
    check(tmp_path / 'two.ckpt', tokens_of(second), prefix='model.other')
