"""The templates for own data: their switches, a checkpoint by either way, and a run on boxes without masks."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from mixedae.engine.configs import read_config
from mixedae.engine.preflight import check_layer_decay, compares_masks, loads_masks, preflight
from object_aware.synthetic import write_demo_data
from tests.configs.shrinking import REPO, batch_for, build, load, predict, step
from tools import test as test_tool
from tools import train as train_tool

TEMPLATES = REPO / 'mmcfg' / 'templates'
TRANSFER = ('detection_coco-folder', 'segmentation_mask-folder')


@pytest.fixture
def changed(tmp_path):
    """A copy of a template with other values in its first block; elsewhere, so its `_base_` is made absolute."""

    def change(name, **values):
        text = (TEMPLATES / f'{name}.py').read_text(encoding='utf-8').replace("'../", f"'{REPO}/mmcfg/")
        for key, value in values.items():
            text, count = re.subn(rf'^{key} = .*$', f'{key} = {value!r}', text, flags=re.M)
            assert count == 1, key
        file = tmp_path / f'{name}.py'
        file.write_text(text, encoding='utf-8')
        return file

    return change


@pytest.mark.parametrize('masks', [True, False])
def test_detection_template__masks(changed, masks):
    cfg = read_config(str(changed('detection_coco-folder', masks=masks)))
    for phase in ('train', 'val', 'test'):
        dataset, evaluator = cfg[f'{phase}_dataloader'].dataset, cfg.get(f'{phase}_evaluator')
        loading = next(part for part in dataset.pipeline if part['type'] == 'LoadAnnotations')
        assert loading['with_mask'] is masks and loads_masks(dataset) is masks
        assert compares_masks(evaluator) is (masks and phase != 'train')
        if evaluator:
            assert evaluator.metric == (['bbox', 'segm'] if masks else 'bbox')
    heads = [cfg.model.roi_head.mask_head, cfg.model.roi_head.mask_roi_extractor]
    assert [head is not None for head in heads] == [masks, masks]


@pytest.mark.slow
@pytest.mark.parametrize('masks', [True, False])
def test_detection_template__builds_steps_and_predicts(changed, masks):
    pytest.importorskip('mmcv.ops', reason="needs mmcv's compiled ops")
    cfg = load(changed('detection_coco-folder', masks=masks, checkpoint=None))
    model = build(cfg)
    assert model.with_mask is masks
    batch = batch_for(model, cfg)
    if not masks:
        for sample in batch['data_samples']:
            del sample.gt_instances.masks
    step(model, cfg, batch)
    for sample in predict(model, batch):
        assert ('masks' in sample.pred_instances) is masks and 'bboxes' in sample.pred_instances


@pytest.mark.parametrize('name', TRANSFER)
def test_transfer_templates__checkpoint(changed, name):
    """Set in the template it brings layer-wise decay with it; by options a line says what is missing."""
    plain = read_config(str(changed(name)))
    assert 'init_cfg' not in plain.model.backbone and plain.optim_wrapper.paramwise_cfg.layer_decay_rate == 1.0
    cfg = read_config(str(changed(name, checkpoint='a.pth')))
    assert cfg.model.backbone.init_cfg == dict(type='Pretrained', checkpoint='a.pth')
    assert cfg.optim_wrapper.paramwise_cfg.layer_decay_rate < 1 and check_layer_decay(cfg) == []
    options = {'model.backbone.init_cfg.type': 'Pretrained', 'model.backbone.init_cfg.checkpoint': 'a.pth'}
    by_options = read_config(str(changed(name)), options)
    assert by_options.model.backbone.init_cfg == cfg.model.backbone.init_cfg
    assert len(check_layer_decay(by_options)) == 1


@pytest.mark.slow
def test_detection_template__trains_and_tests_on_boxes_alone(changed, tmp_path, capsys):
    pytest.importorskip('mmcv.ops', reason="needs mmcv's compiled ops")
    write_demo_data(tmp_path / 'data', num_train=4, num_val=2, size=(96, 72))
    for split in ('train', 'val'):
        file = tmp_path / 'data' / 'det' / 'annotations' / f'{split}.json'
        content = json.loads(file.read_text())
        for annotation in content['annotations']:
            del annotation['segmentation']
        file.write_text(json.dumps(content))
    values = dict(
        data_root=f'{tmp_path}/data/det/',
        classes=tuple(category['name'] for category in content['categories']),
        max_iters=1,
        side=96,
    )
    small = ['train_dataloader.batch_size=2', 'train_dataloader.num_workers=0', 'val_dataloader.num_workers=0']
    small += ['train_dataloader.persistent_workers=False', 'val_dataloader.persistent_workers=False']
    small += ['test_dataloader.num_workers=0', 'test_dataloader.persistent_workers=False', 'param_scheduler=None']
    config = changed('detection_coco-folder', **values)
    arguments = [str(config), '--work-dir', str(tmp_path / 'w'), '--cfg-options', *small]
    assert train_tool.main(arguments) == 2
    assert re.search(
        r'error: train data: (\d+) of \1 annotations of .*train\.json have no masks', capsys.readouterr().err
    )
    config = changed('detection_coco-folder', masks=False, **values)
    assert train_tool.main(arguments) == 0
    out = tmp_path / 'metrics.json'
    trained = str(tmp_path / 'w' / 'iter_1.pth')
    test = [str(config), trained, '--work-dir', str(tmp_path / 't'), '--out', str(out), '--cfg-options', *small]
    assert test_tool.main(test) == 0
    metrics = json.loads(out.read_text())
    assert 'coco/bbox_mAP' in metrics and not any('segm' in name for name in metrics)


def test_segmentation_template__binary_mask(changed, tmp_path):
    """0 and 255 as they come from a drawing program, in every setting, and as the template says."""
    pytest.importorskip('mmcv.ops', reason="needs mmcv's compiled ops")
    for split in ('train', 'val'):
        for part in ('images', 'annotations'):
            (tmp_path / 'data' / part / split).mkdir(parents=True)

    def looked_at(values, classes, zero_is_unlabelled):
        for split in ('train', 'val'):
            Image.new('RGB', (4, 4)).save(tmp_path / 'data' / 'images' / split / 'a.jpg')
            Image.fromarray(np.array([values], np.uint8)).save(tmp_path / 'data' / 'annotations' / split / 'a.png')
        settings = dict(classes=classes, zero_is_unlabelled=zero_is_unlabelled, data_root=f'{tmp_path}/data')
        return preflight(read_config(str(changed('segmentation_mask-folder', **settings))))

    names = ('background', 'crack')
    with pytest.raises(ValueError, match=r'train data: None of the 1 label maps .* has a pixel of any class'):
        looked_at((0, 255), names, True)
    warnings = looked_at((0, 255), names, False)
    assert [warning.split(':')[0] for warning in warnings] == ['train data', 'val data']
    assert all('crack (labels are 0..1; 255 counts as unlabelled)' in warning for warning in warnings)
    with pytest.raises(ValueError, match=r'num_classes is 1, .* one class needs a background class'):
        looked_at((0, 1), ('crack',), True)
    assert looked_at((0, 1), names, False) == []
