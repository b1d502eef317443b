"""tools/demo.py: data layouts, bad data, stages and stamps, configs, figures, and the whole journey in small."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mixedae.visualization import assert_self_contained
from tools import demo
from tools.demo_parts.budgets import BUDGETS
from tools.demo_parts.checks import check_data, check_once
from tools.demo_parts.configs import DEMO_CONFIGS, detection_config, pretrain_config, segmentation_config
from tools.demo_parts.facts import pretrain_figures
from tools.demo_parts.layout import DataError, find_layout
from tools.demo_parts.stages import Journey, Stage, config_files
from tools.demo_parts.verdicts import accuracy_verdict, loss_verdict, start_verdict
from tools.stage_parts.commands import Progress, StageError, clock, summarise
from tools.stage_parts.configs import write_config
from tools.stage_parts.facts import test_figures

ROOT = Path(__file__).resolve().parents[2]


def coco(images=('a.jpg',), names=('cat', 'dog')):
    return {
        'images': [{'id': i, 'file_name': name, 'width': 64, 'height': 48} for i, name in enumerate(images, start=1)],
        'annotations': [
            {'id': i, 'image_id': i, 'category_id': 1, 'bbox': [8, 8, 24, 24], 'area': 576, 'iscrowd': 0,
             'segmentation': [[8, 8, 32, 8, 32, 32, 8, 32]]}
            for i in range(1, len(images) + 1)
        ],
        'categories': [{'id': i, 'name': name} for i, name in enumerate(names, start=1)],
    }  # fmt: skip


def photo(path, size=(64, 48)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(path)


def label_map(path, value=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((48, 64), value, dtype=np.uint8)).save(path)


def text(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.fixture
def own(tmp_path):
    """A folder in our own layout."""
    for split in ('train', 'val'):
        text(tmp_path / 'det' / 'annotations' / f'{split}.json', coco([f'{split}.jpg']))
        photo(tmp_path / 'det' / 'images' / f'{split}.jpg')
        photo(tmp_path / 'seg' / 'images' / split / '1.jpg')
        label_map(tmp_path / 'seg' / 'annotations' / split / '1.png')
    text(tmp_path / 'seg' / 'classes.txt', 'wall\nsky\n')
    return tmp_path


# -------------------------------------------------------------------------------------------------------- layout
def test_find_layout__own(own):
    layout = find_layout(own)
    assert layout.kind == 'mixedae'
    assert layout.detection.classes == ('cat', 'dog')
    assert layout.segmentation.classes == ('wall', 'sky')
    assert [scenes.annotations.name for scenes in layout.pretrain] == ['train.json']


def test_find_layout__coarse_classes_and_more_scenes_are_taken(own):
    for split in ('train', 'val'):
        text(own / 'det' / 'annotations' / f'{split}_super12.json', coco([f'{split}.jpg'], ['animal']))
    text(own / 'pretrain' / 'annotations' / 'person_train.json', coco(['b.jpg']))
    text(own / 'pretrain' / 'annotations' / 'person_val.json', coco(['c.jpg']))
    photo(own / 'pretrain' / 'images' / 'b.jpg')
    layout = find_layout(own)
    assert layout.detection.classes == ('animal',)
    assert [s.annotations.name for s in layout.pretrain] == ['train_super12.json', 'person_train.json']


@pytest.mark.parametrize('coco_folder, ade_folder', [('.', '.'), ('coco', 'ADEChallengeData2016')])
def test_find_layout__official_names(tmp_path, coco_folder, ade_folder):
    for split in ('train', 'val'):
        text(tmp_path / coco_folder / 'annotations' / f'instances_{split}2017.json', coco())
        photo(tmp_path / coco_folder / f'{split}2017' / 'a.jpg')
    for split in ('training', 'validation'):
        photo(tmp_path / ade_folder / 'images' / split / 'x.jpg')
        label_map(tmp_path / ade_folder / 'annotations' / split / 'x.png')
    text(
        tmp_path / ade_folder / 'objectInfo150.txt',
        'Idx\tRatio\tTrain\tVal\tName\n1\t.1\t1\t1\twall, x\n2\t.1\t1\t1\tsky\n',
    )
    layout = find_layout(tmp_path)
    assert layout.kind == 'coco + ade20k'
    assert layout.detection.val.images == tmp_path / coco_folder / 'val2017'
    assert layout.segmentation.classes == ('wall', 'sky')


def test_find_layout__detection_alone(own):
    shutil.rmtree(own / 'seg')
    assert find_layout(own).segmentation is None


def test_find_layout__pack(request):
    pack = Path(os.environ.get('MIXEDAE_PACK', ROOT.parent / 'shared' / 'pack'))
    if not pack.is_dir():
        pytest.skip('the folder of real photographs is not here')
    layout = find_layout(pack)
    assert len(layout.detection.classes) == 12
    assert len(layout.segmentation.classes) == 150
    assert len(layout.pretrain) == 2


# ------------------------------------------------------------------------------------------------------ bad data
def edit_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def cut_short(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BAD = {
    'no det images': (lambda d: shutil.rmtree(d / 'det' / 'images'), 'images is missing'),
    'no val file': (lambda d: (d / 'det' / 'annotations' / 'val.json').unlink(), 'val.json is missing'),
    'absent image': (lambda d: (d / 'det' / 'images' / 'train.jpg').unlink(), 'train.jpg'),
    'absent val image': (lambda d: (d / 'det' / 'images' / 'val.jpg').unlink(), 'val.jpg'),
    'empty categories': (
        lambda d: edit_json(d / 'det' / 'annotations' / 'train.json', lambda c: c.update(categories=[])),
        'lists no category',
    ),
    'not json': (lambda d: text(d / 'det' / 'annotations' / 'train.json', '{"images": ['), 'is not JSON'),
    'not coco': (lambda d: text(d / 'det' / 'annotations' / 'train.json', '[]'), 'not in COCO format'),
    'other categories': (
        lambda d: edit_json(d / 'det' / 'annotations' / 'val.json', lambda c: c['categories'].pop()),
        'list different categories',
    ),
    'no annotation': (
        lambda d: edit_json(d / 'det' / 'annotations' / 'train.json', lambda c: c.update(annotations=[])),
        'no annotations',
    ),
    'image cut short': (lambda d: cut_short(d / 'det' / 'images' / 'train.jpg'), 'train.jpg does not decode'),
    'val image is text': (lambda d: text(d / 'det' / 'images' / 'val.jpg', 'x'), 'val.jpg does not decode'),
    'seg image cut short': (lambda d: cut_short(d / 'seg' / 'images' / 'val' / '1.jpg'), 'does not decode'),
    'no label map': (lambda d: (d / 'seg' / 'annotations' / 'train' / '1.png').unlink(), 'have no label map'),
    'label too high': (lambda d: label_map(d / 'seg' / 'annotations' / 'train' / '1.png', 9), 'holds the value 9'),
    'no classes': (lambda d: text(d / 'seg' / 'classes.txt', '\n'), 'empty list of classes'),
    'no seg image': (lambda d: (d / 'seg' / 'images' / 'train' / '1.jpg').unlink(), 'holds no image'),
    'no boxes at all': (lambda d: shutil.rmtree(d / 'det'), 'has label maps but no boxes'),
}


@pytest.mark.parametrize('case', BAD)
def test_check_data__one_sentence_before_training(own, case):
    spoil, sentence = BAD[case]
    spoil(own)
    with pytest.raises(DataError, match=re.escape(sentence)) as caught:
        check_data(find_layout(own))
    assert '\n' not in str(caught.value)


def test_find_layout__missing_file_or_unknown_folder(tmp_path):
    with pytest.raises(DataError, match='does not exist'):
        find_layout(tmp_path / 'nowhere')
    with pytest.raises(DataError, match='holds nothing that the demo knows'):
        find_layout(tmp_path)
    text(tmp_path / 'file', 'x')
    with pytest.raises(DataError, match='is a file'):
        find_layout(tmp_path / 'file')


def test_check_data__sound_data(own):
    assert check_data(find_layout(own)) == {'images': 6, 'decoded': 6}


def test_check_once__again_only_when_the_data_changed(own, tmp_path):
    stamp = tmp_path / 'stamps' / 'data.txt'
    layout = find_layout(own)
    assert check_once(layout, stamp) == '6 images and label maps decode'
    assert 'unchanged' in check_once(layout, stamp)
    cut_short(own / 'det' / 'images' / 'train.jpg')
    with pytest.raises(DataError, match='does not decode'):
        check_once(layout, stamp)


def test_main__bad_data_is_one_line_and_status_2(tmp_path, capsys):
    assert demo.main(['--data', str(tmp_path / 'nowhere'), '--work-dir', str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith('error: ') and err.count('\n') == 1


def test_main__unknown_budget(tmp_path, capsys):
    assert demo.main(['--budget', 'huge', '--work-dir', str(tmp_path)]) == 2
    assert 'quick, full' in capsys.readouterr().err


def test_main__work_dir_of_somebody_else_is_left_alone(tmp_path, capsys):
    text(tmp_path / 'data' / 'precious.txt', 'x')
    assert demo.main(['--budget', 'micro', '--work-dir', str(tmp_path)]) == 2
    assert 'no demo wrote it' in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob('*')] == ['data', 'precious.txt']


def test_main__report_of_nothing(tmp_path, capsys):
    assert demo.main(['--report-only', '--work-dir', str(tmp_path)]) == 2
    assert 'no finished demo' in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------------- stages
def counting_stage(folder, name='one', after=(), configs=(), inputs=()):
    """A stage that appends a line to a file each time it runs."""
    out = folder / f'{name}.txt'
    code = f"open({str(out)!r}, 'a').write('x')"
    return Stage(name, 'Count', ((sys.executable, '-c', code),), configs, inputs, (out,), after=after), out


def run(folder, *stages, restart=False):
    out = io.StringIO()
    journey = Journey(folder / 'work', ROOT, total=len(stages), restart=restart, out=out)
    for stage in stages:
        journey.do(stage)
    return journey, out.getvalue()


def test_journey__finished_stage_is_skipped(tmp_path):
    stage, out = counting_stage(tmp_path)
    first, _ = run(tmp_path, stage)
    second, said = run(tmp_path, stage)
    assert out.read_text() == 'x'
    assert '[1/1] Count' in said and 'skipped' in said
    assert second.records == first.records  # the time is that of the run that did the work


def test_journey__restart_does_it_anew(tmp_path):
    stage, out = counting_stage(tmp_path)
    run(tmp_path, stage)
    run(tmp_path, stage, restart=True)
    assert out.read_text() == 'xx'


def test_journey__missing_output_does_it_anew(tmp_path):
    stage, out = counting_stage(tmp_path)
    run(tmp_path, stage)
    out.unlink()
    run(tmp_path, stage)
    assert out.read_text() == 'x'


def test_journey__changed_base_of_a_config_does_it_and_what_follows_anew(tmp_path):
    text(tmp_path / 'base.py', 'a = 1\n')
    text(tmp_path / 'config.py', "_base_ = ['base.py']\n")
    one, first = counting_stage(tmp_path, configs=(tmp_path / 'config.py',))
    two, second = counting_stage(tmp_path, 'two', after=('one',))
    three, third = counting_stage(tmp_path, 'three')
    run(tmp_path, one, two, three)
    text(tmp_path / 'base.py', 'a = 2\n')
    run(tmp_path, one, two, three)
    assert [path.read_text() for path in (first, second, third)] == ['xx', 'xx', 'x']


def test_journey__changed_input_does_it_anew(tmp_path):
    text(tmp_path / 'input', 'a')
    stage, out = counting_stage(tmp_path, inputs=(tmp_path / 'input',))
    run(tmp_path, stage)
    text(tmp_path / 'input', 'ab')
    run(tmp_path, stage)
    assert out.read_text() == 'xx'


def test_journey__failure_shows_the_end_of_the_log(tmp_path):
    code = "import sys; print('line one'); print('error: no such thing', file=sys.stderr); sys.exit(2)"
    stage = Stage('bad', 'Fail', ((sys.executable, '-c', code),))
    with pytest.raises(StageError, match='exit status 2') as caught:
        run(tmp_path, stage)
    assert caught.value.tail[-1] == 'error: no such thing'
    assert 'line one' in caught.value.log.read_text()
    assert not (tmp_path / 'work' / 'stamps' / 'bad.json').exists()


def test_journey__killed_command_is_called_so(tmp_path):
    code = 'import os, signal; os.kill(os.getpid(), signal.SIGKILL)'
    with pytest.raises(StageError, match=r'ended from outside by SIGKILL \(perhaps'):
        run(tmp_path, Stage('bad', 'Fail', ((sys.executable, '-c', code),)))


def test_journey__command_that_writes_nothing_is_a_failure(tmp_path):
    stage = Stage('bad', 'Fail', ((sys.executable, '-c', ''),), outputs=(tmp_path / 'never',))
    with pytest.raises(StageError, match='did not write'):
        run(tmp_path, stage)


def test_config_files__bases_of_bases():
    names = {path.name for path in config_files([ROOT / 'mmcfg/demo/mixedae_vit-tiny-p16_mask-rcnn_coco-format.py'])}
    assert {'mask_rcnn_vit.py', 'coco_instance.py', 'finetune_iters.py', 'det_runtime.py'} <= names


@pytest.mark.parametrize(
    'line, said',
    [
        (
            '11/23 13:26:10 - mmengine - INFO - Iter(train) [ 24/650]  lr: 4e-04  eta: 0:01:18  time: 2.8  '
            'loss: 1.4036  loss_recon: 1.0020  topk_acc: 0.2624',
            'train 24/650, loss 1.404, TopK accuracy 26.2%, 0:01:18 left',
        ),
        ('INFO - Iter(test) [ 50/100]    eta: 0:00:05  time: 0.1', 'test 50/100, 0:00:05 left'),
        ('INFO - Epoch(train)  [3][ 10/100]  lr: 1e-3  eta: 1 day, 0:01:00', 'train 10/100, 1 day, 0:01:00 left'),
        ('loss_bbox: 3', None),
    ],
)  # fmt: skip
def test_summarise__lines_of_the_log(line, said):
    assert summarise(line) == said


def test_progress__a_line_now_and_then_where_nobody_watches():
    seconds = iter(range(0, 1000, 7))
    out = io.StringIO()
    progress = Progress(out, lambda: next(seconds))
    for step in range(1, 10):
        progress.see(f'Iter(train) [{step}/9] eta: 0:00:01')
    progress.end()
    lines = out.getvalue().splitlines()
    assert 1 <= len(lines) < 9
    assert lines[0].strip().startswith('train ')


@pytest.mark.parametrize(
    'seconds, said', [(4.4, '4 s'), (59.7, '1 min 00 s'), (185, '3 min 05 s'), (3725, '1 h 02 min')]
)
def test_clock(seconds, said):
    assert clock(seconds) == said


# ------------------------------------------------------------------------------------------------------- configs
@pytest.mark.parametrize('budget', BUDGETS)
def test_configs__say_what_the_budget_says(own, tmp_path, budget):
    from mmengine.config import Config

    layout, budget = find_layout(own), BUDGETS[budget]
    folder = tmp_path / 'work dir' / 'configs'
    base = DEMO_CONFIGS / 'mixedae_vit-tiny-p16_crops-128.py'
    pretrain = write_config(folder / 'a.py', base, pretrain_config(tmp_path / 'index', budget, 7), 'A', ['x'])
    cfg = Config.fromfile(pretrain)
    assert cfg.train_cfg.max_iters == budget.pretrain_iterations == cfg.param_scheduler[1].end
    assert cfg.train_dataloader.dataset.size == cfg.model.encoder.img_size == budget.crop
    assert cfg.randomness.seed == cfg.train_dataloader.sampler.seed == 7
    assert cfg.train_dataloader.batch_size % 4 == 0

    overrides = [
        detection_config(layout.detection, layout.detection.val, budget, 7, c) for c in (None, tmp_path / 'c.pth')
    ]
    scratch, pretrained = (
        Config.fromfile(
            write_config(
                folder / f'{i}.py', DEMO_CONFIGS / 'mixedae_vit-tiny-p16_mask-rcnn_coco-format.py', o, 'D', ['x']
            )
        )
        for i, o in enumerate(overrides)
    )
    assert pretrained.model.backbone.init_cfg.checkpoint == str(tmp_path / 'c.pth')
    assert pretrained.model.roi_head.bbox_head.num_classes == 2
    assert pretrained.model.backbone.arch == scratch.model.backbone.arch
    pretrained.model.backbone.init_cfg = None
    assert pretrained.to_dict() == scratch.to_dict()  # the checkpoint is the only difference

    cfg = Config.fromfile(
        write_config(
            folder / 'seg.py', DEMO_CONFIGS / 'mixedae_vit-tiny-p16_upernet_label-maps.py',
            segmentation_config(layout.segmentation, budget, 7, None), 'S', ['x'],
        )
    )  # fmt: skip
    assert cfg.model.decode_head.num_classes == cfg.model.auxiliary_head.num_classes == 2
    assert all(side % 16 == 0 for side in cfg.model.data_preprocessor.size)
    assert cfg.train_cfg.max_iters == budget.segmentation.iterations


def test_write_config__unchanged_file_keeps_its_time(tmp_path):
    path = tmp_path / 'a.py'
    for _ in range(2):
        write_config(path, DEMO_CONFIGS / 'mixedae_vit-tiny-p16_crops-128.py', {'max_iters': 1}, 'A', ['x'])
        os.utime(path, (1, 1)) if path.stat().st_mtime > 1 else None
    assert path.stat().st_mtime == 1


# ------------------------------------------------------------------------------------------------------- figures
def test_pretrain_figures__means_of_both_ends():
    steps = np.arange(1, 41)
    scalars = {
        'loss': (steps, np.linspace(2, 1, 40)),
        'topk_acc/layer_00': (steps[:4], np.array([0.1, 0.2, 0.3, 0.4])),
        'topk_acc/layer_01': (steps[:4], np.array([0.0, 0.6, 0.7, 0.8])),
    }
    figures = pretrain_figures(scalars)
    assert figures['loss_first'] == round((2 + scalars['loss'][1][1]) / 2, 4)
    assert figures['loss_last'] == round((1 + scalars['loss'][1][-2]) / 2, 4)
    assert figures['topk_acc_per_layer'] == [0.3, 0.7]
    assert figures['topk_acc_last_layer'] == 0.7
    assert figures['chance'] == 0.25


def test_test_figures__without_the_prefix(tmp_path):
    text(tmp_path / 'm.json', {'coco/bbox_mAP': 0.125, 'mIoU': 30.5})
    assert test_figures(tmp_path / 'm.json') == {'bbox_mAP': 0.125, 'mIoU': 30.5}


test_figures.__test__ = False  # its name is its meaning, pytest must not collect it


@pytest.mark.parametrize('pretrained, scratch, kind', [(0.2, 0.1, 'good'), (0.1, 0.2, 'bad'), (0.104, 0.1, 'even')])
def test_start_verdict__says_who_is_ahead(pretrained, scratch, kind):
    results = {'pretrained': {'bbox_mAP': pretrained}, 'scratch': {'bbox_mAP': scratch}}
    found, headline, sentence = start_verdict('Detection', 'box AP', results, 'bbox_mAP', scale=100)
    assert found == kind
    assert f'{100 * pretrained:.1f}' in sentence and f'{100 * scratch:.1f}' in sentence
    assert '-0.0' not in headline


@pytest.mark.parametrize('first, last, kind', [(1.5, 1.0, 'good'), (1.5, 1.49, 'even'), (1.0, 1.5, 'bad')])
def test_loss_verdict(first, last, kind):
    assert loss_verdict({'loss_first': first, 'loss_last': last})[0] == kind


@pytest.mark.parametrize(
    'layers, kind',
    [([0.3, 0.5, 0.6], 'good'), ([0.3, 0.6, 0.2], 'even'), ([0.25, 0.25, 0.26], 'even'), ([0.3, 0.25, 0.25], 'bad')],
)
def test_accuracy_verdict__last_layer_decides(layers, kind):
    found, _, sentence = accuracy_verdict({'topk_acc_per_layer': layers, 'chance': 0.25})
    assert found == kind
    assert f'{layers[-1]:.1%}' in sentence and f'{max(layers):.1%} in layer {layers.index(max(layers)) + 1}' in sentence


# --------------------------------------------------------------------------------------------- the whole journey
@pytest.mark.slow
def test_demo__whole_journey_in_small(tmp_path):
    pytest.importorskip('mmcv.ops', reason="detection needs mmcv's compiled ops")
    command = [sys.executable, str(ROOT / 'tools' / 'demo.py'), '--budget', 'micro', '--work-dir', str(tmp_path)]
    first = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert first.returncode == 0, first.stdout + first.stderr
    assert '[8/8]' in first.stdout and '$ ' in first.stdout

    metrics = json.loads((tmp_path / 'metrics.json').read_text())
    assert set(metrics) >= {'config', 'data', 'seed', 'hardware', 'versions', 'stages', 'pretrain'}
    assert len(metrics['pretrain']['topk_acc_per_layer']) == 4
    assert np.isfinite(metrics['pretrain']['loss_last'])
    for start in ('pretrained', 'scratch'):
        assert set(metrics['detection'][start]) >= {'bbox_mAP', 'bbox_mAP_50', 'segm_mAP'}
        assert set(metrics['segmentation'][start]) >= {'mIoU', 'mAcc', 'aAcc'}
        assert 0 < metrics['segmentation'][start]['aAcc'] <= 100
    assert metrics['stages']['pretrain']['iterations'] == BUDGETS['micro'].pretrain_iterations

    report = (tmp_path / 'report.html').read_text()
    assert_self_contained(report)
    # two groups of 4 sources, 4 shown, mask, mix, 4 decoded; 2 images of 4 columns for both tasks; some windows
    assert report.count('<img') >= 2 * 14 + 2 * 2 * 4 + 2
    assert report.count('<svg') == 6
    cells = re.findall(r'<t[dh][^>]*>([\d.]+)</t[dh]>', report)
    for start in ('pretrained', 'scratch'):  # the page shows the very numbers of metrics.json
        assert f'{100 * metrics["detection"][start]["bbox_mAP"]:.1f}' in cells
        assert f'{metrics["segmentation"][start]["mIoU"]:.1f}' in cells
    assert f'{metrics["pretrain"]["topk_acc_last_layer"]:.1%}' in report

    log = (tmp_path / 'logs' / 'detection_pretrained.log').read_text()
    assert 'weights loaded into the backbone' in log
    assert 'weights loaded into the backbone' not in (tmp_path / 'logs' / 'detection_scratch.log').read_text()

    second = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert second.returncode == 0, second.stdout + second.stderr
    assert second.stdout.count('skipped') == 8
