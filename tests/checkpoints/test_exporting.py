"""Round trips: our checkpoint in another library's layout, loaded by its real class, gives the same features."""

import json

import pytest
import timm
import torch

from mixedae.checkpoints import CheckpointError, load_pretrained, open_weights
from mixedae.checkpoints.encoder_weights import extract
from mixedae.checkpoints.exporting import TARGETS, prepare
from mixedae.checkpoints.writing import write
from mixedae.models import MAE, MixedAE, MixedAEViT
from tests.checkpoints import layouts
from tests.checkpoints.exported import close, convert, pretraining, saved, tokens_of
from tests.checkpoints.layouts import ARCH, HEADS, PATCH, SIDE, images, randomise


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('size', [(SIDE, SIDE), (32, 72)])
def test_timm__loads_strictly_with_equal_output(tmp_path, suffix, size):
    model = pretraining(size)
    convert(saved(tmp_path, model, size), 'timm', tmp_path / f'out{suffix}')
    theirs = timm.create_model(
        'vit_tiny_patch16_224',
        img_size=size,
        patch_size=PATCH,
        num_classes=0,
        **ARCH,
        checkpoint_path=str(tmp_path / f'out{suffix}'),  # strict
    ).eval()
    x = images(height=size[0], width=size[1])
    close(theirs.forward_features(x), tokens_of(model, x))
    close(theirs(x), tokens_of(model, x)[:, 0])  # global_pool='token': [CLS] after the final LayerNorm
    assert theirs.norm.eps == 1e-6


@pytest.mark.parametrize('name, arch', [('vit_tiny_patch16_224', 'tiny'), ('vit_small_patch16_224', 'small')])
def test_timm__named_models_of_224_px(tmp_path, name, arch):
    model = randomise(MixedAEViT(arch, out_indices=(11,)))
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'a.pth')
    convert(tmp_path / 'a.pth', 'timm', tmp_path / 'out.safetensors')
    theirs = timm.create_model(name, num_classes=0, checkpoint_path=str(tmp_path / 'out.safetensors')).eval()
    x = images(1, 224, 224)
    with torch.no_grad():
        close(theirs.forward_features(x)[:, 1:], model(x)[0].flatten(2).transpose(1, 2))


def test_timm__average_pooling_model_has_no_place_for_the_final_norm(tmp_path):
    """The pitfall: with ``global_pool='avg'`` timm's final LayerNorm is ``fc_norm``; asked to keep ``norm`` it fits."""
    model = pretraining()
    convert(saved(tmp_path, model), 'timm', tmp_path / 'out.pth')
    sizes = dict(img_size=SIDE, patch_size=PATCH, num_classes=0, global_pool='avg', **ARCH)
    with pytest.raises(RuntimeError, match='fc_norm'):
        timm.create_model('vit_tiny_patch16_224', **sizes, checkpoint_path=str(tmp_path / 'out.pth'))
    theirs = timm.create_model(
        'vit_tiny_patch16_224', **sizes, fc_norm=False, checkpoint_path=str(tmp_path / 'out.pth')
    ).eval()
    close(theirs(images()), tokens_of(model)[:, 1:].mean(1))


@pytest.mark.parametrize('size', [(SIDE, SIDE), (32, 72)])
def test_hugging_face__vit_model(tmp_path, size):
    transformers = pytest.importorskip('transformers')
    model = pretraining(size)
    convert(saved(tmp_path, model, size), 'hf', tmp_path / 'hf')
    theirs, info = transformers.ViTModel.from_pretrained(
        tmp_path / 'hf', add_pooling_layer=False, output_loading_info=True
    )
    assert not any(info.values()), info
    assert theirs.config.layer_norm_eps == 1e-6, 'their default is 1e-12'
    x = images(height=size[0], width=size[1])
    with torch.no_grad():
        close(theirs.eval()(x).last_hidden_state, tokens_of(model, x))
    _, info = transformers.ViTModel.from_pretrained(tmp_path / 'hf', output_loading_info=True)
    assert info['missing_keys'] == {'pooler.dense.weight', 'pooler.dense.bias'}, 'a new pooler, as the docs say'


def test_hugging_face__image_classification_takes_the_encoder(tmp_path):
    transformers = pytest.importorskip('transformers')
    model = pretraining()
    convert(saved(tmp_path, model), 'hf', tmp_path / 'hf')
    theirs = transformers.ViTForImageClassification.from_pretrained(tmp_path / 'hf', num_labels=3).eval()
    with torch.no_grad():
        close(theirs.vit(images()).last_hidden_state, tokens_of(model))


def test_hugging_face__pixels_are_the_training_s(tmp_path):
    transformers = pytest.importorskip('transformers')
    numpy = pytest.importorskip('numpy')
    convert(saved(tmp_path, pretraining()), 'hf', tmp_path / 'hf')
    pixels = numpy.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=numpy.uint8)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / 'hf')
    found = torch.as_tensor(processor(pixels, return_tensors='pt')['pixel_values'])[0]
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    close(found, ((torch.from_numpy(pixels).float() - mean) / std).permute(2, 0, 1))


def test_hugging_face__vit_mae_encoder_and_decoder(tmp_path):
    """With the decoder the reconstruction of our MAE is that of ViTMAEForPreTraining, the loss too."""
    transformers = pytest.importorskip('transformers')
    model = pretraining(kind=MAE)
    source = saved(tmp_path, model)
    convert(source, 'hf-mae', tmp_path / 'encoder')
    theirs, info = transformers.ViTMAEModel.from_pretrained(
        tmp_path / 'encoder', mask_ratio=0.0, output_loading_info=True
    )
    assert not any(info.values()), info
    with torch.no_grad():
        found = theirs.eval()(images(), noise=torch.arange(16.0).expand(2, -1)).last_hidden_state
    close(found, tokens_of(model))

    convert(source, 'hf-mae', tmp_path / 'both', with_decoder=True)
    theirs, info = transformers.ViTMAEForPreTraining.from_pretrained(tmp_path / 'both', output_loading_info=True)
    assert not any(info.values()), info
    noise = torch.rand(2, 16, generator=torch.Generator().manual_seed(1))
    visible = noise.argsort(1)[:, : model.num_visible]
    with torch.no_grad():
        found = theirs.eval()(images(), noise=noise)
        pred, masked = model.predict(model.cut(images()), visible), model.masked(visible)
        loss = model.loss(images(), visible)['loss_recon']
    assert torch.equal(found.mask.bool(), masked)
    close(found.logits, pred)
    close(found.loss, loss)


def test_mae__encoder_and_decoder_names_and_features(tmp_path):
    model = pretraining(decoder_cls=True)
    source = saved(tmp_path, model)
    convert(source, 'mae', tmp_path / 'mae.pth')
    weights = torch.load(tmp_path / 'mae.pth', weights_only=True)['model']
    reference = layouts.MaeViT().eval()
    assert list(reference.load_state_dict(weights, strict=True)) == [[], []]
    with torch.no_grad():
        close(reference(images()), tokens_of(model))
    convert(source, 'mae', tmp_path / 'full.pth', with_decoder=True)
    full = torch.load(tmp_path / 'full.pth', weights_only=True)['model']
    decoder = {name for name in full if name not in weights}
    assert {name for name in decoder if '.blocks' not in name and 'decoder_blocks' not in name} == {
        'mask_token',
        'decoder_pos_embed',
        *(
            f'{part}.{kind}'
            for part in ('decoder_embed', 'decoder_norm', 'decoder_pred')
            for kind in ('weight', 'bias')
        ),
    }
    assert torch.equal(full['mask_token'], model.decoder.mask_token.reshape(1, 1, -1))
    assert torch.equal(full['decoder_pos_embed'], model.decoder.pos_embed)
    assert torch.equal(full['decoder_blocks.1.mlp.fc1.bias'], model.decoder.blocks[1].mlp.fc1.bias)


def test_mae__into_detectron2_by_its_suffix_matching(tmp_path):
    """``?matching_heuristics=True`` takes for each parameter the longest name in the file that it ends with."""
    model = pretraining()
    convert(saved(tmp_path, model), 'mae', tmp_path / 'mae.pth')
    weights = torch.load(tmp_path / 'mae.pth', weights_only=True)['model']
    vitdet = layouts.Vitdet(windows=(0, 0, 0)).eval()
    wanted = {f'backbone.net.{name}': value for name, value in vitdet.state_dict().items()}
    matched = {}
    for name in wanted:
        candidates = [k for k in weights if name == k or name.endswith('.' + k)]
        if candidates:
            matched[name.removeprefix('backbone.net.')] = weights[max(candidates, key=len)]
    missing = vitdet.load_state_dict(matched, strict=False).missing_keys
    assert missing and all('rel_pos' in name for name in missing)
    ours = MixedAEViT(
        ARCH, img_size=SIDE, patch_size=PATCH, out_indices=(2,), with_cls_token=False, out_norm='none'
    ).eval()
    load_pretrained(ours, tmp_path / 'mae.pth', log=False)
    with torch.no_grad():
        close(ours(images())[0], vitdet(images()))


def test_mmpretrain__layout_loads_strictly_with_equal_output(tmp_path):
    model = pretraining()
    convert(saved(tmp_path, model), 'mmpretrain', tmp_path / 'a.pth')
    state = torch.load(tmp_path / 'a.pth', weights_only=True)['state_dict']
    reference = layouts.MmpretrainViT().eval()
    reference.load_state_dict({name.removeprefix('backbone.'): value for name, value in state.items()}, strict=True)
    assert all(name.startswith('backbone.') for name in state), "as prefix='backbone.' of its init_cfg expects"
    with torch.no_grad():
        close(reference(images()), tokens_of(model))


@pytest.mark.parametrize('target', list(TARGETS))
def test_every_target__comes_back_bit_for_bit(tmp_path, target):
    model = pretraining()
    out = tmp_path / ('out' if TARGETS[target].folder else 'out.pth')
    convert(saved(tmp_path, model), target, out)
    back = MixedAEViT(ARCH, img_size=SIDE, patch_size=PATCH, out_indices=(2,))
    report = load_pretrained(back, out, log=False)
    assert report.missing == [] and report.notes == [] and not report.left_out
    for name, value in back.state_dict().items():
        assert torch.equal(value, model.state_dict()[f'encoder.{name}']), name


@pytest.mark.parametrize('target', ['timm', 'hf', 'mae', 'mmpretrain'])
def test_layer_scale__is_folded_with_equal_output(tmp_path, target):
    model = randomise(MixedAEViT(ARCH, img_size=SIDE, patch_size=PATCH, out_indices=(2,), init_values=0.1))
    torch.save({'state_dict': {f'backbone.{k}': v for k, v in model.state_dict().items()}}, tmp_path / 'a.pth')
    source = open_weights(tmp_path / 'a.pth')
    encoder = prepare(extract(source, num_heads=HEADS), TARGETS[target])
    assert 'layer scale of 3 blocks multiplied into the projections before it, which is the same' in encoder.notes
    assert 'epsilon 1e-6 of the LayerNorms, as usual: the file does not tell' in encoder.notes
    assert not any('.ls' in name for name in encoder.weights)
    out = tmp_path / ('out' if TARGETS[target].folder else 'out.pth')
    write(encoder, TARGETS[target], source, out)
    back = MixedAEViT(ARCH, img_size=SIDE, patch_size=PATCH, out_indices=(2,)).eval()
    load_pretrained(back, out, log=False)
    with torch.no_grad():
        close(back(images())[0], model(images())[0])


def test_mixedae__keeps_relative_positions_others_refuse(tmp_path):
    model = randomise(
        MixedAEViT(ARCH, img_size=SIDE, patch_size=PATCH, out_indices=(2,), rel_pos='table', init_values=1.0)
    )
    torch.save(model.state_dict(), tmp_path / 'a.pth')
    convert(tmp_path / 'a.pth', 'mixedae', tmp_path / 'out.safetensors')
    back = MixedAEViT(ARCH, img_size=SIDE, patch_size=PATCH, out_indices=(2,), rel_pos='table', init_values=1.0)
    load_pretrained(back, tmp_path / 'out.safetensors', log=False)
    assert all(torch.equal(back.state_dict()[name], value) for name, value in model.state_dict().items())
    for target in ('timm', 'mae', 'hf', 'mmpretrain'):
        with pytest.raises(CheckpointError, match='has no relative positions'):
            prepare(extract(open_weights(tmp_path / 'a.pth')), TARGETS[target])


@pytest.mark.parametrize(
    'drop, target, sentence',
    [
        ('norm.', 'timm', 'LayerNorm after the last block, which this encoder lacks'),
        ('norm.', 'hf', 'LayerNorm after the last block, which this encoder lacks'),
        ('cls_token', 'timm', 'needs cls_token'),
        ('pos_embed', 'mae', 'needs pos_embed'),
        ('blocks.1.mlp.fc1.bias', 'mae', 'lacks 1 weights that every ViT has'),
    ],
)
def test_incomplete_encoders__are_refused(tmp_path, drop, target, sentence):
    state = {k: v for k, v in randomise(layouts.MaeViT()).state_dict().items() if not k.startswith(drop)}
    torch.save(state, tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match=sentence):
        prepare(extract(open_weights(tmp_path / 'a.pth'), num_heads=2), TARGETS[target])


@pytest.mark.parametrize('target', ['timm', 'mixedae'])
def test_parts_that_no_plain_vit_has__are_refused(tmp_path, target):
    model = timm.models.VisionTransformer(img_size=SIDE, patch_size=PATCH, num_classes=0, qk_norm=True, **ARCH)
    torch.save(model.state_dict(), tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match=r'A plain ViT has no place for blocks\.\* \(12\)'):
        prepare(extract(open_weights(tmp_path / 'a.pth')), TARGETS[target])


def test_heads__are_asked_for_where_nothing_tells(tmp_path):
    torch.save(randomise(layouts.MaeViT()).state_dict(), tmp_path / 'a.pth')
    with pytest.raises(
        CheckpointError, match='number of heads of an encoder of width 32 is not known: give it with --heads'
    ):
        prepare(extract(open_weights(tmp_path / 'a.pth')), TARGETS['hf'])
    with pytest.raises(CheckpointError, match='which 5 heads cannot share'):
        extract(open_weights(tmp_path / 'a.pth'), num_heads=5)
    prepare(extract(open_weights(tmp_path / 'a.pth')), TARGETS['timm'])


def test_decoder__only_where_there_is_one(tmp_path):
    source = saved(tmp_path, pretraining())
    with pytest.raises(CheckpointError, match='timm VisionTransformer has no decoder'):
        prepare(extract(open_weights(source)), TARGETS['timm'], with_decoder=True)
    torch.save(randomise(layouts.MaeViT()).state_dict(), tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match='There is no decoder to convert'):
        prepare(extract(open_weights(tmp_path / 'a.pth')), TARGETS['mae'], with_decoder=True)


@pytest.mark.parametrize(
    'kind, settings', [('MAE', ''), ('mixedae.MixedAE', ', decoder=None'), ('MAE', ', decoder={}')]
)
def test_decoder__heads_that_the_config_leaves_to_the_default(tmp_path, kind, settings):
    """The model is built with the decoder's default then, and converted with it."""
    model = (MAE if kind == 'MAE' else MixedAE)(encoder=dict(arch=ARCH, img_size=SIDE, patch_size=PATCH), decoder=None)
    heads = model.decoder.blocks[0].attn.num_heads
    cfg = f"model = dict(type='{kind}', encoder=dict(arch={ARCH}, img_size={SIDE}, patch_size={PATCH}){settings})"
    torch.save({'state_dict': model.state_dict(), 'meta': {'cfg': cfg}}, tmp_path / 'iter_1.pth')
    assert extract(open_weights(tmp_path / 'iter_1.pth')).decoder_heads == heads
    convert(tmp_path / 'iter_1.pth', 'hf-mae', tmp_path / 'both', with_decoder=True)
    assert json.loads((tmp_path / 'both' / 'config.json').read_text())['decoder_num_attention_heads'] == heads
