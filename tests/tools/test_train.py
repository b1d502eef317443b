"""tools/train.py and tools/test.py: command line to config, and one sentence with exit code 2 for every bad input."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from tests.configs.shrinking import build
from tools import test as test_tool
from tools import train as train_tool

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _quiet_old_loggers(monkeypatch):
    """Loggers of runs in earlier tests keep the streams that pytest has closed; that is no failure of a tool."""
    monkeypatch.setattr(logging, 'raiseExceptions', False)


@pytest.fixture
def pretraining(tmp_path):
    """A tiny pre-training config on eight images."""
    for i in range(8):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        (tmp_path / 'images').mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / 'images' / f'{i}.jpg')
    config = tmp_path / 'tiny.py'
    config.write_text(f"""
_base_ = '{REPO}/mmcfg/pretrain/mixedae_vit-tiny-p16_8xb512-amp-coslr-300e_in1k.py'
model = dict(encoder=dict(arch=dict(_delete_=True, embed_dim=16, depth=2, num_heads=2), img_size=32, patch_size=8),
             decoder=dict(embed_dim=16, depth=1, num_heads=2))
train_dataloader = dict(batch_size=4, num_workers=0, persistent_workers=False, pin_memory=False,
                        dataset=dict(root='{tmp_path}/images', size=32))
train_cfg = dict(max_epochs=1)
param_scheduler = None
""")
    return config


def run(tool, capsys, *arguments):
    """Exit code and what was written to stderr."""
    code = tool.main([str(argument) for argument in arguments])
    return code, capsys.readouterr().err


def refused(tool, capsys, *arguments):
    """The sentence of a refusal; it is one line without a traceback."""
    code, text = run(tool, capsys, *arguments)
    assert code == 2
    lines = [line for line in text.splitlines() if line.startswith('error: ')]
    assert len(lines) == 1 and 'Traceback' not in text, text
    return lines[0]


def load(*arguments):
    return train_tool.load_config(train_tool.parse_args([str(argument) for argument in arguments]))


def test_load_config__defaults(pretraining):
    cfg = load(pretraining)
    assert cfg.work_dir == 'work_dirs/tiny' and not cfg.resume and cfg.load_from is None and cfg.launcher == 'none'


def test_load_config__options(pretraining):
    cfg = load(
        pretraining, '--work-dir', 'w', '--seed', 5, '--amp', '--launcher', 'pytorch',
        '--cfg-options', 'train_dataloader.batch_size=8', 'model.encoder.patch_size=4', 'a.b=[1,2]',
    )  # fmt: skip
    assert (cfg.work_dir, cfg.launcher, cfg.train_dataloader.batch_size) == ('w', 'pytorch', 8)
    assert cfg.model.encoder.patch_size == 4 and cfg.model.encoder.img_size == 32 and cfg.a.b == [1, 2]
    assert cfg.randomness.seed == cfg.train_dataloader.dataset.seed == cfg.train_dataloader.sampler.seed == 5
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper' and 'loss_scale' in cfg.optim_wrapper


def test_load_config__resume(pretraining):
    cfg = load(pretraining, '--resume')
    assert cfg.resume is True and cfg.load_from is None
    assert load(pretraining, '--resume', 'auto').load_from is None
    cfg = load(pretraining, '--resume', 'a.pth')
    assert cfg.resume is True and cfg.load_from == 'a.pth'


def test_train__runs_and_resumes(pretraining, tmp_path, capsys):
    code, _ = run(train_tool, capsys, pretraining, '--work-dir', tmp_path / 'w', '--seed', 0)
    assert code == 0
    assert (tmp_path / 'w' / 'epoch_1.pth').is_file()
    more = ('--resume', '--cfg-options', 'train_cfg.max_epochs=2')
    code, _ = run(train_tool, capsys, pretraining, '--work-dir', tmp_path / 'w', '--seed', 0, *more)
    assert code == 0
    first, second = (torch.load(tmp_path / 'w' / f'epoch_{k}.pth', weights_only=False) for k in (1, 2))  # our own files
    assert (first['meta']['iter'], second['meta']['iter']) == (2, 4)
    name = 'encoder.blocks.1.attn.qkv.weight'
    assert not torch.equal(first['state_dict'][name], second['state_dict'][name])


def test_train__second_run_in_a_folder(pretraining, tmp_path, capsys):
    """Refused; or the old checkpoints go, so that `--resume` goes on with the new run alone."""
    w = tmp_path / 'w'
    longer = ('--cfg-options', 'train_cfg.max_epochs=3', 'default_hooks.checkpoint.interval=1')
    assert run(train_tool, capsys, pretraining, '--work-dir', w, '--seed', 1, *longer)[0] == 0
    before = {path.name: path.read_bytes() for path in w.glob('*.pth')}
    sentence = refused(train_tool, capsys, pretraining, '--work-dir', w)
    assert f'{w} holds a run already (epoch_3.pth): give another --work-dir, go on with it by --resume, or' in sentence
    both = (pretraining, '--work-dir', w, '--overwrite')
    assert 'give one of them' in refused(train_tool, capsys, *both, '--resume')
    wrong = ('--cfg-options', 'train_dataloader.dataset.root=/no/such/folder')
    assert 'does not exist' in refused(train_tool, capsys, *both, *wrong)
    start = ('--cfg-options', f'load_from={w}/epoch_3.pth')
    assert 'epoch_3.pth, which this run starts from' in refused(train_tool, capsys, *both, *start)
    assert before == {path.name: path.read_bytes() for path in w.glob('*.pth')} and len(before) == 3

    assert run(train_tool, capsys, *both, '--seed', 2)[0] == 0
    assert [path.name for path in w.glob('*.pth')] == ['epoch_1.pth'], 'those of the old run are gone'
    assert (w / 'last_checkpoint').read_text().endswith('epoch_1.pth') and len(list(w.glob('2*'))) >= 1
    more = ('--resume', '--cfg-options', 'train_cfg.max_epochs=2')
    assert run(train_tool, capsys, pretraining, '--work-dir', w, *more)[0] == 0
    meta = torch.load(w / 'epoch_2.pth', weights_only=False)['meta']  # our own file
    assert (meta['iter'], meta['seed']) == (4, 2)


@pytest.mark.parametrize('name', train_tool.RESTARTS)
def test_load_config__started_again_by_the_launcher(pretraining, monkeypatch, name):
    """What the first try saved is not removed by the second: it is refused like any run."""
    for count, overwrite in (('0', True), ('1', False)):
        monkeypatch.setenv(name, count)
        args = train_tool.parse_args([str(pretraining), '--overwrite'])
        train_tool.load_config(args)
        assert args.overwrite is overwrite


def test_train__schedule_of_another_length(pretraining, tmp_path, capsys):
    """A run that goes on long after its schedule is refused before anything; one that stops early is told so."""
    pretraining.write_text(pretraining.read_text().replace('param_scheduler = None', ''))
    work_dir = tmp_path / 'w'
    sentence = refused(
        train_tool, capsys, pretraining, '--work-dir', work_dir, '--cfg-options', 'train_cfg.max_epochs=600'
    )
    assert 'after 300 epochs, which is what param_scheduler is written for, and the run has 600' in sentence
    assert '`--cfg-options param_scheduler.0.end=80 param_scheduler.1.T_max=520' in sentence
    assert not work_dir.exists()
    code, _ = run(train_tool, capsys, pretraining, '--work-dir', work_dir)
    assert code == 0
    (log,) = work_dir.glob('*/*.log')
    (line,) = [line for line in log.read_text().splitlines() if 'The run ends after' in line]
    assert 'WARNING' in line and 'The run ends after 1 epoch with the learning rate at 100 % of its peak' in line


def test_train__pretraining_needs_no_mmcv(pretraining, tmp_path):
    """Only detection and segmentation need mmcv, mmdet and mmseg."""
    code = 'import sys; sys.modules.update(dict.fromkeys(["mmcv", "mmdet", "mmseg"])); from tools.train import main; '
    code += f'sys.exit(main([{str(pretraining)!r}, "--work-dir", {str(tmp_path / "w")!r}]))'
    env = {**os.environ, 'PYTHONPATH': str(REPO), 'OMP_NUM_THREADS': '1'}
    done = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / 'w' / 'epoch_1.pth').is_file()


def test_train__bad_config(pretraining, tmp_path, capsys):
    assert 'The config nowhere.py does not exist' in refused(train_tool, capsys, 'nowhere.py')
    (tmp_path / 'text.txt').write_text('x')
    assert 'is not a config' in refused(train_tool, capsys, tmp_path / 'text.txt')
    for text, sentence in (
        ('model = dict(', 'cannot be read (SyntaxError'),
        ("_base_ = 'none.py'", 'needs a file that is missing'),
        ("assert False, 'MMCV==9 is used but incompatible'", 'cannot be read (AssertionError: MMCV==9 is used'),
        ('a = 1', 'is no config of a run: it has no model'),
        ("model = dict(type='X')", 'trains nothing: it has no train_dataloader'),
        (
            "model = dict(type='X')\ncustom_imports = dict(imports=['no_such_module'])",
            'needs a module that does not import',
        ),
    ):
        (tmp_path / 'bad.py').write_text(text)
        assert sentence in refused(train_tool, capsys, tmp_path / 'bad.py')
    options = ('--cfg-options', 'model.type.x=1')
    assert '--cfg-options does not fit the config' in refused(train_tool, capsys, pretraining, *options)


@pytest.mark.parametrize(
    'options, sentence',
    [
        (['train_dataloader.batch_size=6'], 'batch_size is 6, which is not a multiple of the group size 4'),
        (['train_dataloader.dataset.root=/no/such/folder'], 'train data: Image folder /no/such/folder does not exist'),
        (['load_from=none.pth'], "The checkpoint 'none.pth' does not exist"),
        (['model.encoder.patch_size=16'], 'Each image owns one of 4 patches and has no positive'),
        (['model.type=mixedae.NoModel'], 'mixedae.NoModel is not in the'),
        (['train_dataloader.dataset.type=mixedae.NoDataset'], "There is no dataset 'mixedae.NoDataset'"),
    ],
)
def test_train__bad_pretraining(pretraining, tmp_path, capsys, options, sentence):
    arguments = (pretraining, '--work-dir', tmp_path / 'w', '--cfg-options', *options)
    assert sentence in refused(train_tool, capsys, *arguments)
    assert not list(tmp_path.glob('w/*.pth')), 'nothing was trained'


def test_train__image_that_does_not_decode(pretraining, tmp_path, capsys):
    (tmp_path / 'images' / '3.jpg').write_bytes(b'not an image')
    sentence = refused(train_tool, capsys, pretraining, '--work-dir', tmp_path / 'w')
    assert '3.jpg' in sentence and sentence.startswith('error: train data: ')


def test_train__checkpoint_that_runs_code(pretraining, tmp_path, capsys):
    marker = tmp_path / 'it_ran'

    class Calls:
        def __reduce__(self):
            return open, (str(marker), 'w')

    torch.save({'state_dict': {'w': torch.zeros(1)}, 'x': Calls()}, tmp_path / 'evil.pth')
    arguments = (pretraining, '--work-dir', tmp_path / 'w', '--resume', tmp_path / 'evil.pth')
    assert 'evil.pth was refused: it asks for' in refused(train_tool, capsys, *arguments)
    assert not marker.exists()


def test_test__bad_input(pretraining, tmp_path, capsys):
    assert 'The config nowhere.py does not exist' in refused(test_tool, capsys, 'nowhere.py', 'a.pth')
    assert 'has nothing to test' in refused(test_tool, capsys, pretraining, 'a.pth')


@pytest.fixture
def detection(tmp_path):
    """A detection config on one image and its parts, to be spoiled."""
    pytest.importorskip('mmcv.ops', reason="needs mmcv's compiled ops")
    (tmp_path / 'images').mkdir()
    Image.new('RGB', (64, 48)).save(tmp_path / 'images' / 'a.jpg')
    content = dict(
        images=[dict(id=1, file_name='a.jpg', width=64, height=48)],
        annotations=[
            dict(
                id=1,
                image_id=1,
                category_id=1,
                bbox=[1, 1, 20, 20],
                area=400,
                iscrowd=0,
                segmentation=[[1, 1, 21, 1, 21, 21, 1, 21]],
            )
        ],
        categories=[dict(id=1, name='cup')],
    )
    (tmp_path / 'train.json').write_text(json.dumps(content))
    config = tmp_path / 'det.py'
    config.write_text(f"""
_base_ = '{REPO}/mmcfg/coco/mixedae_vit-tiny-p16_mask-rcnn_1xb4-2k_coco-256.py'
data = dict(data_root='{tmp_path}/', ann_file='train.json', data_prefix=dict(img='images/'),
            metainfo=dict(classes=('cup',)))
train_dataloader = dict(dataset=data)
val_dataloader = dict(dataset=data)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='{tmp_path}/train.json')
test_evaluator = val_evaluator
model = dict(roi_head=dict(bbox_head=dict(num_classes=1), mask_head=dict(num_classes=1)))
""")
    return config, content


def spoil_nothing(folder, content):
    return ['model.roi_head.mask_head.num_classes=80'], 'mask_head.num_classes is 80, but the dataset has 1 classes'


def spoil_data_folder(folder, content):
    return ['train_dataloader.dataset.data_root=/none'], 'The annotation file /none/train.json does not exist'


def spoil_image_folder(folder, content):
    return ['train_dataloader.dataset.data_prefix.img=none/'], 'none does not exist: set its path in the config'


def spoil_images(folder, content):
    (folder / 'images' / 'a.jpg').unlink()
    return [], 'names 1 of 1 images that are not in'


def spoil_header(folder, content):
    (folder / 'images' / 'a.jpg').write_bytes(b'')
    return [], 'a.jpg does not decode (it is empty)'


def spoil_categories(folder, content):
    (folder / 'train.json').write_text(json.dumps(dict(content, categories=[])))
    return [], 'has an empty category list'


def spoil_classes(folder, content):
    (folder / 'train.json').write_text(json.dumps(dict(content, categories=[dict(id=1, name='mug')])))
    return [], "metainfo.classes names 'cup', which"


def spoil_masks(folder, content):
    boxes = [{**annotation, 'segmentation': []} for annotation in content['annotations']]
    (folder / 'train.json').write_text(json.dumps(dict(content, annotations=boxes)))
    return [], 'have no masks (`segmentation`), and this config needs them'


def spoil_size(folder, content):
    Image.new('RGB', (32, 24)).save(folder / 'images' / 'a.jpg')
    return [], 'a.jpg has 32x24 pixels, but its annotation says 64x48'


def spoil_schedule(folder, content):
    return ['train_cfg.max_iters=20000'], 'after 2000 iterations, which is what param_scheduler is written for'


def spoil_pretrained(folder, content):
    options = ['model.backbone.init_cfg.type=Pretrained', 'model.backbone.init_cfg.checkpoint=none.pth']
    return options, "The checkpoint 'none.pth' does not exist"


@pytest.mark.parametrize(
    'spoil',
    [
        spoil_nothing,
        spoil_data_folder,
        spoil_image_folder,
        spoil_images,
        spoil_header,
        spoil_categories,
        spoil_classes,
        spoil_masks,
        spoil_size,
        spoil_schedule,
        spoil_pretrained,
    ],
)
def test_train__bad_detection(detection, tmp_path, capsys, spoil):
    config, content = detection
    options, sentence = spoil(tmp_path, content)
    options = ['--cfg-options', *options] if options else []
    assert sentence in refused(train_tool, capsys, config, '--work-dir', tmp_path / 'w', *options)
    assert not (tmp_path / 'w').exists(), 'nothing was started'


def test_test__checkpoint_of_another_model(detection, tmp_path, capsys):
    config, _ = detection
    torch.save({'state_dict': {'backbone.cls_token': torch.zeros(1, 1, 192)}}, tmp_path / 'part.pth')
    sentence = refused(test_tool, capsys, config, tmp_path / 'part.pth', '--work-dir', tmp_path / 'w')
    assert 'part.pth lacks' in sentence and 'give the checkpoint that was trained with this config' in sentence
    assert 'does not exist' in refused(test_tool, capsys, config, tmp_path / 'none.pth')


def test_test__checkpoint_of_other_classes(detection, tmp_path, capsys):
    """Same names, another number of classes: MMEngine would test a random head."""
    config, _ = detection
    other = Config.fromfile(config)
    other.model.roi_head.bbox_head.num_classes = 3
    torch.save({'state_dict': build(other).state_dict()}, tmp_path / 'three.pth')
    sentence = refused(test_tool, capsys, config, tmp_path / 'three.pth', '--work-dir', tmp_path / 'w')
    assert 'three.pth has 2 weights in other shapes than this model, e.g. roi_head.bbox_head.fc_cls.weight' in sentence
    assert '(4, 256) there, (2, 256) here: give the checkpoint that was trained with this config' in sentence


def test_test__overwrites_no_input(detection, tmp_path, capsys):
    config, content = detection
    (tmp_path / 'a.pth').write_text('weights')
    for name, sentence in (
        ('a.pth', 'is what this command reads: give another --out.'),
        ('det.py', 'is what this command reads: give another --out.'),
        ('train.json', 'exists and is not a file of metrics that this tool wrote: give another --out.'),
    ):
        assert sentence in refused(test_tool, capsys, config, tmp_path / 'a.pth', '--out', tmp_path / name)
    assert json.loads((tmp_path / 'train.json').read_text()) == content
    (tmp_path / 'metrics.json').write_text('{"coco/bbox_mAP": 0.5, "coco/segm_mAP": NaN}')
    assert test_tool.is_metrics(tmp_path / 'metrics.json') and not test_tool.is_metrics(tmp_path / 'train.json')
    (tmp_path / 'images' / 'sub').mkdir()
    Image.new('RGB', (8, 8)).save(tmp_path / 'images' / 'sub' / 'b.jpg')
    for folder in ('images', 'images/sub'):
        sentence = refused(test_tool, capsys, config, tmp_path / 'a.pth', '--show-dir', tmp_path / folder)
        assert 'lies in the data' in sentence and 'could overwrite it: give another' in sentence
    part = 'test_dataloader.dataset.data_'
    whole = ('--cfg-options', f'{part}root={tmp_path}/images', f'{part}prefix.img=')
    sentence = refused(test_tool, capsys, config, tmp_path / 'a.pth', '--show-dir', tmp_path / 'images', *whole)
    assert 'lies in the data' in sentence
    assert (tmp_path / 'a.pth').read_text() == 'weights'


def test_train__ops_missing(detection, tmp_path, capsys, monkeypatch):
    config, _ = detection
    import importlib

    real = importlib.import_module

    def broken(name, *args):
        if name == 'mmcv.ops':
            raise ModuleNotFoundError("No module named 'mmcv._ext'")
        return real(name, *args)

    monkeypatch.setattr('mixedae.engine.preflight.importlib.import_module', broken)
    sentence = refused(train_tool, capsys, config, '--work-dir', tmp_path / 'w')
    assert "mmcv's compiled ops are missing (No module named 'mmcv._ext')" in sentence and '`make env`' in sentence
