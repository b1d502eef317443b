"""A small pre-training checkpoint, and its way into another layout."""

import torch

from mixedae.checkpoints import open_weights
from mixedae.checkpoints.encoder_weights import extract
from mixedae.checkpoints.exporting import TARGETS, prepare
from mixedae.checkpoints.writing import write
from mixedae.models import MixedAE
from tests.checkpoints.layouts import ARCH, DEPTH, DIM, HEADS, PATCH, SIDE, images, randomise

CFG = f"""model = dict(
    type='MixedAE',
    encoder=dict(arch=dict(embed_dim={DIM}, depth={DEPTH}, num_heads={HEADS}), img_size={{size}}, patch_size={PATCH}),
    decoder=dict(embed_dim=16, depth=2, num_heads=4),
    topk_ratio=0.25,
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]))
# ``` a fence in the text does not end the block of the card
"""


def pretraining(size=(SIDE, SIDE), kind=MixedAE, **changes):
    encoder = dict(arch=ARCH, img_size=size, patch_size=PATCH)
    plain = dict(topk_ratio=None) if kind is MixedAE else {}
    return randomise(kind(encoder=encoder, decoder=dict(embed_dim=16, depth=2, num_heads=4), **plain, **changes))


def saved(tmp_path, model, size=(SIDE, SIDE), name='iter_40.pth'):
    meta = dict(
        cfg=CFG.replace('{size}', str(tuple(size))), iter=40, epoch=0, time='20260102_030405', mmengine_version='0'
    )
    torch.save({'state_dict': model.state_dict(), 'meta': meta, 'optimizer': {'state': {}}}, tmp_path / name)
    return tmp_path / name


def convert(source, target, out, with_decoder=False, **options):
    opened = open_weights(source)
    encoder = prepare(extract(opened), TARGETS[target], with_decoder)
    return write(encoder, TARGETS[target], opened, out, **options)


def tokens_of(model, x=None):
    with torch.no_grad():
        return model.extract(images() if x is None else x)


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
