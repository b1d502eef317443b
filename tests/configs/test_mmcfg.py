"""Every config of mmcfg/, shrunk, on real operators: it builds, takes a step of its own optimiser and predicts."""

import ast
import math
import re

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS, DefaultScope

from mixedae.engine.step_size import check_step_size
from tests.configs.aligned import assert_labels_lie_where_the_pixels_are
from tests.configs.shrinking import REPO, batch_for, build, load, predict, segmentation_batch, step

CONFIGS = sorted(path for path in (REPO / 'mmcfg').rglob('*.py') if '_base_' not in path.parts)
MULTI_SCALE = [path for path in CONFIGS if path.stem.endswith('_ms')]
NEED_OPS = ('coco', 'ade20k', 'photographs', 'templates', 'demo')


def name_of(path):
    return f'{path.parent.name}/{path.stem}'


def skip_without_ops(path):
    if path.parent.name in NEED_OPS:
        pytest.importorskip('mmcv.ops', reason="needs mmcv's compiled ops")


def check_prediction(result, cfg, model):
    if cfg.default_scope == 'mmdet':
        found = result[0].pred_instances
        assert len(result) == 2 and found.bboxes.shape[1:] == (4,) and torch.isfinite(found.scores).all()
        assert found.masks.shape[1:] == (64, 96) if model.with_mask else 'masks' not in found
    elif cfg.default_scope == 'mmseg':
        assert result[0].seg_logits.data.shape == (model.decode_head.num_classes, 128, 96)
        assert torch.isfinite(result[0].seg_logits.data).all()
    elif hasattr(model, 'encoder'):
        height, width = model.encoder.img_size
        assert result['predicted'].shape[1:] == (3, height, width) and torch.isfinite(result['predicted']).all()
    else:
        assert [int(r['label']) for r in result] == [0, 999]
        assert all(r['scores'].sum().item() == pytest.approx(1, abs=1e-4) for r in result)


@pytest.mark.slow
@pytest.mark.parametrize('path', [path for path in CONFIGS if path not in MULTI_SCALE], ids=name_of)
def test_config__builds_steps_and_predicts(path):
    skip_without_ops(path)
    cfg = load(path)
    model = build(cfg)
    batch = batch_for(model, cfg)
    step(model, cfg, batch)
    if cfg.model.get('reconstruction_weight', 1) == 0 or cfg.model.get('decoder', {}) is None:
        return  # a pretext task without a decoder predicts nothing
    check_prediction(predict(model, batch), cfg, model)


@pytest.mark.slow
@pytest.mark.parametrize('path', MULTI_SCALE, ids=name_of)
def test_multi_scale_config__averages_its_views(path):
    skip_without_ops(path)
    cfg, single_scale = load(path), load(path.with_name(path.name.replace('_ms.py', '.py')))
    assert cfg.model.module == single_scale.model and cfg.train_dataloader == single_scale.train_dataloader
    assert len(cfg.test_dataloader.dataset.pipeline[1].transforms[0]) == 6
    model = build(cfg)
    model.eval()
    torch.manual_seed(0)
    views = [segmentation_batch(150, (128, 96)) for _ in range(2)]
    for sample in views[1]['data_samples']:
        sample.set_metainfo(dict(flip=True, flip_direction='horizontal'))
    with torch.no_grad():
        merged = model.test_step({key: [view[key] for view in views] for key in views[0]})
        single = [predict(model.module, view) for view in views]
    # each view predicts in the coordinates of the image: mmseg turns flipped logits back
    expected = sum(view[0].seg_logits.data.softmax(0) for view in single).argmax(0)
    assert torch.equal(merged[0].pred_sem_seg.data[0], expected)


@pytest.mark.parametrize(
    'name',
    [
        'ade20k/mixedae_vit-tiny-p16_upernet_1xb8-2k_ade20k-192x192',
        'ade20k/mixedae_vit-base-p16_upernet_8xb2-amp-160k_ade20k-512x512',
        'ade20k/mixedae_vit-base-p16_linear_8xb2-amp-40k_ade20k-512x512',
    ],
)
def test_segmentation_config__labels_lie_where_the_pixels_are(name):
    pytest.importorskip('mmcv.ops', reason="needs mmcv's compiled ops")
    assert_labels_lie_where_the_pixels_are(build(load(REPO / 'mmcfg' / f'{name}.py')))


def test_segmentation_configs__pad_test_images_to_whole_patches():
    for path in CONFIGS:
        cfg = load(path)
        if cfg.get('default_scope') == 'mmseg':
            model = cfg.model.get('module', cfg.model)
            assert model.data_preprocessor.test_cfg == dict(size_divisor=model.backbone.patch_size), path


@pytest.mark.parametrize('size', [(375, 500), (300, 900), (640, 120)])
def test_multi_scale_pipeline__scales_as_beit(size, tmp_path):
    """``SETR_Resize`` with ``setr_multi_scale``: the short side is the crop or more, the long side follows."""
    pytest.importorskip('mmseg.datasets.transforms')
    from mmcv import imwrite
    from mmcv.transforms import Compose

    for name, shape in (('image.png', (*size, 3)), ('labels.png', size)):
        imwrite(np.random.default_rng(0).integers(0, 151, shape, dtype=np.uint8), str(tmp_path / name))
    with DefaultScope.overwrite_default_scope('mmseg'):
        pipeline = Compose(load(MULTI_SCALE[0]).test_dataloader.dataset.pipeline)
    views = pipeline(
        dict(
            img_path=str(tmp_path / 'image.png'),
            seg_map_path=str(tmp_path / 'labels.png'),
            reduce_zero_label=True,
            label_map=None,
            seg_fields=[],
        )
    )
    expected = []
    for short in (512, 512, 512, 640, 768, 896):
        view = [int(side * short / min(size) + 0.5) for side in size]
        expected += [(tuple(view), flip) for flip in (False, True)]
    found = [(tuple(x.shape[1:]), s.flip) for x, s in zip(views['inputs'], views['data_samples'])]
    assert found == expected
    assert all(sample.ori_shape == size == sample.gt_sem_seg.shape for sample in views['data_samples'])


@pytest.mark.parametrize('path', CONFIGS, ids=name_of)
def test_config__says_what_it_is(path):
    """A docstring; for training configs the arithmetic and how the checkpoint goes in, by its own name."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding='utf-8')))
    assert text and len(text.splitlines()[0]) <= 120
    if 'tools/train.py mmcfg' in text:
        assert f'tools/train.py {path.relative_to(REPO).as_posix()}' in text
    if path.parent.name in ('coco', 'ade20k', 'imagenet', 'photographs') and path not in MULTI_SCALE:
        assert 'iters' in text


def test_docs__name_configs_that_are_there():
    """The table of docs/transfer.md gives names of files without their folders."""
    text = (REPO / 'docs' / 'transfer.md').read_text(encoding='utf-8')
    names = set(re.findall(r'`(mixedae_vit-[\w.-]+\.py)`', text))
    assert len(names) >= 7 and names <= {path.name for path in CONFIGS}


def test_schedules__arithmetic():
    """iters * images/iter / images of the data set = epochs, for the numbers that the configs state."""
    for epochs, iters in ((100, 184375), (50, 92188), (25, 46094), (12, 22125)):
        assert iters * 64 / 118000 == pytest.approx(epochs, rel=1e-4)
    assert 12 * 117266 / 16 == pytest.approx(87950, abs=1)  # noqa: SIM300
    for path in CONFIGS:
        if '_vitdet-' not in path.stem:
            continue
        cfg = load(path)
        steps = cfg.param_scheduler[1]
        assert steps.end == cfg.train_cfg.max_iters
        assert steps.milestones[0] / steps.end == pytest.approx(0.889, abs=1e-3)
        assert steps.milestones[1] / steps.end == pytest.approx(0.963, abs=1e-3)
        gpus, batch = (
            int(n) for n in path.stem.split('xb')[0].split('_')[-1:] + [path.stem.split('xb')[1].split('-')[0]]
        )
        epochs = int(path.stem.split('-lsj-')[1].split('e_')[0])
        images = 118000 if gpus == 8 else 117266
        assert cfg.train_dataloader.batch_size == batch
        side = int(path.stem.rsplit('-', 1)[1])
        crop = next(t for t in cfg.train_dataloader.dataset.pipeline if t['type'] == 'RandomCrop')
        assert tuple(crop['crop_size']) == (side, side) == tuple(cfg.test_dataloader.dataset.pipeline[1]['scale'])
        assert cfg.model.backbone.rel_pos_size == side
        assert cfg.train_cfg.max_iters * gpus * batch / images == pytest.approx(epochs, rel=1e-3)


# rate, weight decay, layer decay, drop path, iterations or epochs, those of warm-up, milestones or form of the decay
RECIPES = {
    # MixedAE's protocol, from iBOT
    'coco/mixedae_vit-base-p16_cascade-mask-rcnn_8xb2-amp-1x_coco': (1e-4, 0.05, 0.75, 0.2, 12, 500, [8, 11]),
    # detectron2's projects/ViTDet
    'coco/mixedae_vit-base-p16_vitdet-mask-rcnn_8xb8-amp-lsj-100e_coco-1024': (
        *(1e-4, 0.1, 0.7, 0.1, 184375, 250),
        [163889, 177546],
    ),
    'coco/mixedae_vit-large-p16_vitdet-mask-rcnn_8xb8-amp-lsj-100e_coco-1024': (
        *(1e-4, 0.1, 0.8, 0.4, 184375, 250),
        [163889, 177546],
    ),
    # BEiT's and MAE's; ViT-L is ours
    'ade20k/mixedae_vit-base-p16_upernet_8xb2-amp-160k_ade20k-512x512': (1e-4, 0.05, 0.65, 0.1, 160000, 1500, 'PolyLR'),
    'ade20k/mixedae_vit-large-p16_upernet_8xb2-amp-160k_ade20k-512x512': (
        *(1e-4, 0.05, 0.75, 0.2, 160000, 1500),
        'PolyLR',
    ),
    # MAE's FINETUNE.md: 5e-4 and 1e-3 * 1024 / 256
    'imagenet/mixedae_vit-base-p16_finetune_8xb128-amp-coslr-100e_in1k': (
        *(2e-3, 0.05, 0.65, 0.1, 100, 5),
        'CosineAnnealingLR',
    ),
    'imagenet/mixedae_vit-large-p16_finetune_8xb128-amp-coslr-50e_in1k': (
        *(4e-3, 0.05, 0.75, 0.2, 50, 5),
        'CosineAnnealingLR',
    ),
}


@pytest.mark.parametrize('name', RECIPES)
def test_recipes__as_published(name):
    cfg = Config.fromfile(REPO / 'mmcfg' / f'{name}.py')
    warm_up, decay = cfg.param_scheduler
    assert (
        warm_up.type == 'LinearLR'
        and warm_up.begin == 0
        and decay.end == cfg.train_cfg.get('max_iters', cfg.train_cfg.get('max_epochs'))
    )
    assert cfg.optim_wrapper.optimizer.type == 'AdamW' and cfg.optim_wrapper.optimizer.betas == (0.9, 0.999)
    found = (
        cfg.optim_wrapper.optimizer.lr,
        cfg.optim_wrapper.optimizer.weight_decay,
        cfg.optim_wrapper.paramwise_cfg.layer_decay_rate,
        cfg.model.backbone.drop_path_rate,
        decay.end,
        warm_up.end,
        decay.milestones if decay.type == 'MultiStepLR' else decay.type,
    )
    assert found == RECIPES[name]


@pytest.mark.parametrize('name', [name for name in RECIPES if 'finetune' in name])
def test_finetuning__cosine_ends_at_the_floor_of_mae(name):
    """MAE's ``lr_sched.py``: ``min_lr + (lr - min_lr) * (1 + cos) / 2``, all of it times the scale of the layer."""
    cfg = Config.fromfile(REPO / 'mmcfg' / f'{name}.py')
    lr, cosine = cfg.optim_wrapper.optimizer.lr, dict(cfg.param_scheduler[1])
    epochs = cosine['T_max']
    assert cosine['end'] - cosine['begin'] == epochs and cosine.pop('convert_to_iter_based')
    scales = [1.0, cfg.optim_wrapper.paramwise_cfg.layer_decay_rate**13]
    optimizer = torch.optim.SGD([dict(params=[torch.zeros(1, requires_grad=True)], lr=lr * s) for s in scales], lr=lr)
    schedule = PARAM_SCHEDULERS.build({**cosine, 'begin': 0, 'end': epochs + 1}, default_args=dict(optimizer=optimizer))
    for epoch in range(epochs + 1):
        expected = 1e-6 + (lr - 1e-6) * (1 + math.cos(math.pi * epoch / epochs)) / 2
        assert [group['lr'] for group in optimizer.param_groups] == pytest.approx([expected * s for s in scales])
        optimizer.step()
        schedule.step()


def test_config__images_of_a_step():
    """What MMEngine compares, the images of one pass on the stated GPUs, leaves the rate as it is on that setup."""
    named = 0
    for path in CONFIGS:
        cfg, numbers = load(path), re.search(r'_(\d+)xb(\d+)', path.stem)
        processes = int(numbers[1]) if numbers else 1
        assert check_step_size(cfg, processes) is None, path
        scale = cfg.get('auto_scale_lr')
        if numbers and scale and 'r-0.14' not in path.stem:  # 504 images, by the rule for 512
            named += 1
            batch = cfg.train_dataloader.batch_size
            assert scale.base_batch_size == processes * batch == processes * int(numbers[2]), path
            assert scale.get('accumulative_counts', 1) == cfg.optim_wrapper.get('accumulative_counts', 1), path
        if path.parent.name in ('coco', 'ade20k') and '-tiny-' not in path.stem:
            assert scale.enable is False and check_step_size(cfg, 2 * processes), path
    assert named > 40
