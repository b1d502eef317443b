"""Classifier, labelled folders and accuracy: values by hand, and a whole small run by MMEngine's runner."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import DATASETS, METRICS
from PIL import Image

import mixedae  # noqa: F401  (registration)
from mixedae.engine.runner import SafeRunner
from mixedae.models import Classifier

REPO = Path(__file__).resolve().parents[2]
BACKBONE = dict(
    type='mixedae.MixedAEViT',
    arch=dict(embed_dim=16, depth=2, num_heads=2),
    img_size=32,
    patch_size=8,
    out_indices=(1,),
    out_norm='none',
)


def classifier(**changes):
    torch.manual_seed(0)
    return Classifier(**{**dict(backbone=BACKBONE, num_classes=3, init_std=0.5), **changes})


@pytest.fixture
def folder(tmp_path):
    """Two classes that differ in colour, four images each."""
    rng = np.random.default_rng(0)
    for split in ('train', 'val'):
        for name, colour in (('blue', (0, 0, 255)), ('red', (255, 0, 0))):
            (tmp_path / split / name).mkdir(parents=True)
            for k in range(4):
                pixels = (np.asarray(colour) * 0.7 + rng.integers(0, 60, (40, 50, 3))).astype('uint8')
                Image.fromarray(pixels).save(tmp_path / split / name / f'{k}.png')
    return tmp_path


def test_forward__by_hand():
    model = classifier().eval()
    images = torch.randn(2, 3, 32, 32)
    mean = model.backbone(images)[0].mean((2, 3))
    expected = F.linear(F.layer_norm(mean, (16,), eps=1e-6), model.head.weight, model.head.bias)
    torch.testing.assert_close(model(images), expected)
    (a, b) = model(images, dict(label=torch.tensor([2, 0])), mode='predict')
    torch.testing.assert_close(torch.stack([a['scores'], b['scores']]), expected.softmax(1))
    assert (int(a['label']), int(b['label'])) == (2, 0)


def test_loss__label_smoothing_by_hand():
    model = classifier(label_smoothing=0.1).eval()
    images, labels = torch.randn(2, 3, 32, 32), torch.tensor([2, 0])
    log = model(images).log_softmax(1)
    target = torch.full((2, 3), 0.1 / 3)
    target[0, 2] += 0.9
    target[1, 0] += 0.9
    losses = model(images, dict(label=labels), mode='loss')
    torch.testing.assert_close(losses['loss'], -(target * log).sum(1).mean())


def test_loss__mixup_changes_neither_batch_nor_needs_luck():
    model = classifier(mixup=dict(mixup_alpha=0.8, cutmix_alpha=1.0)).train()
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])
    before = images.clone()
    np.random.seed(0)  # noqa: NPY002  (timm draws from NumPy's global generator)
    first = model(images, dict(label=labels), mode='loss')['loss']
    np.random.seed(0)  # noqa: NPY002
    second = model(images, dict(label=labels), mode='loss')['loss']
    assert torch.equal(images, before) and torch.equal(first, second)
    with pytest.raises(ValueError, match='needs an even batch, not 3'):
        model(images[:3], dict(label=labels[:3]), mode='loss')


def test_linear_probe__trains_the_head_alone():
    model = classifier(norm='BN', backbone={**BACKBONE, 'out_norm': 'final', 'frozen_stages': 2}).train()
    model(torch.randn(4, 3, 32, 32), dict(label=torch.tensor([0, 1, 2, 0])), mode='loss')['loss'].backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {'head.weight', 'head.bias'}


def test_norm__bad():
    with pytest.raises(ValueError, match="norm must be 'LN'"):
        classifier(norm='GN')


def test_labelled_images__classes_and_pixels(folder):
    data = DATASETS.build(dict(type='mixedae.LabelledImages', root=str(folder / 'val'), size=32, train=False))
    assert data.classes == ['blue', 'red'] and len(data) == 8
    blue, red = data[0], data[7]
    assert blue['inputs'].shape == (3, 32, 32) and blue['data_samples']['label'] == 0
    assert blue['inputs'][2].mean() > 178 > 60 > blue['inputs'][0].mean()
    assert red['inputs'][0].mean() > 178 and red['data_samples']['label'] == 1


def test_labelled_images__erased_parts_are_normal_noise_to_the_model(tmp_path):
    (tmp_path / 'white').mkdir()
    Image.new('RGB', (256, 256), 'white').save(tmp_path / 'white' / 'a.png')
    augment = dict(re_prob=1.0, re_mode='pixel', scale=(1.0, 1.0))
    data = DATASETS.build(dict(type='mixedae.LabelledImages', root=str(tmp_path), size=224, augment=augment))
    preprocessor = Config.fromfile(REPO / 'mmcfg' / '_base_' / 'models' / 'classifier_vit.py').model.data_preprocessor
    mean, std = (torch.tensor(preprocessor[key]).view(3, 1, 1) for key in ('mean', 'std'))
    pixels = data[0]['inputs']
    erased = ~torch.isclose(pixels, torch.tensor(255.0)).all(0)
    assert 0.02 <= erased.float().mean() <= 1 / 3
    noise = ((pixels - mean) / std)[:, erased]
    assert noise.mean().abs() < 0.1 and noise.std() == pytest.approx(1, abs=0.1)


def test_labelled_images__bad_folders(tmp_path):
    build = dict(type='mixedae.LabelledImages', root=str(tmp_path / 'none'))
    with pytest.raises(FileNotFoundError, match='The folder of labelled images'):
        DATASETS.build(build)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(ValueError, match='has no class folder with images'):
        DATASETS.build({**build, 'root': str(tmp_path)})


def test_top_accuracy__by_hand():
    metric = METRICS.build(dict(type='mixedae.TopAccuracy', topk=(1, 2)))
    scores = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5], [0.2, 0.3, 0.5], [0.1, 0.8, 0.1]])
    metric.process(None, [dict(scores=s, label=torch.tensor(label)) for s, label in zip(scores, (0, 1, 0, 1))])
    assert metric.evaluate(size=4) == {'accuracy/top1': 50.0, 'accuracy/top2': 75.0}


@pytest.mark.slow
def test_run__learns_two_colours(folder, tmp_path, repo):
    """The fine-tuning config, shrunk, by our runner: trains, validates, logs."""
    path = repo / 'mmcfg' / 'imagenet' / 'mixedae_vit-base-p16_finetune_8xb128-amp-coslr-100e_in1k.py'
    cfg = Config.fromfile(path)
    cfg.model.update(num_classes=2, backbone=BACKBONE)
    for phase in ('train', 'val', 'test'):
        loader = cfg[f'{phase}_dataloader']
        loader.update(batch_size=4, num_workers=0, persistent_workers=False, pin_memory=False)
        loader.dataset.update(root=str(folder / ('train' if phase == 'train' else 'val')), size=32)
    cfg.val_evaluator.topk = (1,)
    cfg.train_cfg.update(max_epochs=12, val_interval=12)
    cfg.param_scheduler = None
    cfg.auto_scale_lr = None
    cfg.optim_wrapper.optimizer.lr = 5e-3
    cfg.work_dir = str(tmp_path / 'run')
    cfg.default_hooks.logger.interval = 1
    runner = SafeRunner.from_cfg(cfg)
    runner.train()
    (log,) = (tmp_path / 'run').glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    (accuracy,) = [line['accuracy/top1'] for line in lines if 'accuracy/top1' in line]
    assert accuracy == 100.0
