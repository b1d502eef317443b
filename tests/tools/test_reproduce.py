"""tools/reproduce.py: equal compute, stages that resume, frozen heads, data and configs, a whole run in small."""

import dataclasses
import io
import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from object_aware.synthetic import write_demo_data
from tools import reproduce
from tools.demo_parts.layout import DataError
from tools.reproduce_parts import tables
from tools.reproduce_parts.budgets import BUDGETS, TASKS
from tools.reproduce_parts.configs import pretrain_config
from tools.reproduce_parts.data import find_data
from tools.reproduce_parts.dense import PatchFeatures, class_shares, fit_linear, mean_iou, read_labels
from tools.reproduce_parts.plan import Plan
from tools.reproduce_parts.running import Command, Journey, Stage, fingerprints
from tools.reproduce_parts.variants import ON_REQUEST, ORDER, VARIANTS, equal_iterations, model_config, schedule

ROOT = Path(__file__).resolve().parents[2]


# ------------------------------------------------------------------------------------------------- equal compute
def test_equal_iterations__same_operations():
    assert equal_iterations((1500, 8.0e9), 8.0e9) == 1500
    assert equal_iterations((1500, 8.0e9), 2.0e9) == 6000
    assert equal_iterations((1500, 8.0e9), 33.0e9) == 364  # 363.6


@pytest.mark.parametrize(('reference', 'step'), [((10, 1.0), 0.0), ((10, 0.0), 1.0), ((1, 1.0), 100.0)])
def test_equal_iterations__refuses_what_cannot_be_equal(reference, step):
    with pytest.raises(ValueError, match=r'operations|Operations'):
        equal_iterations(reference, step)


def test_schedule__every_variant_costs_the_same_to_half_a_step():
    plan = schedule(list(ORDER), BUDGETS['cpu'])
    base = plan['mixedae']
    assert base['iterations'] == 1000 and base['images'] == 64_000
    assert plan['scratch']['operations'] == 0
    assert plan['full']['images'] * 4 == pytest.approx(plan['mixedae']['images'], rel=0.01)  # g mixes of each group
    for name in ORDER[1:]:
        step = plan[name]['operations_per_image'] * plan[name]['batch']
        assert abs(plan[name]['operations'] - base['operations']) <= step / 2 + 1


def test_variants__differ_from_mixedae_by_what_their_names_say():
    models = {name: model_config(VARIANTS[name], BUDGETS['cpu']) for name in ORDER}
    assert models['mae']['type'] == 'mixedae.MAE' and models['mae']['mask_ratio'] == 0.75
    base = models['mixedae']

    def changes(name):
        return {key: value for key, value in models[name].items() if key not in base or base[key] != value}

    assert changes('naive') == dict(segment_embed=False, topk_ratio=None, contrastive_weight=0.0)
    assert changes('attention') == dict(contrastive_weight=0.0)
    assert changes('contrastive') == dict(topk_ratio=None)
    assert changes('no_segment') == dict(segment_embed=False)
    assert changes('full') == dict(mode='full')
    assert changes('wide') == dict(topk_ratio=0.5)
    assert changes('no_cls') == dict(decoder_cls=False)
    assert changes('scenes') == changes('moved') == {}
    assert {VARIANTS[name].windows for name in ('scenes', 'moved')} == {'whole scenes', 'random crops'}


def test_parse_args__choices_on_request_are_left_out():
    assert set(ORDER) - set(reproduce.parse_args(['d']).variants) == set(ON_REQUEST) == {'wide', 'no_cls'}
    assert reproduce.parse_args(['d', '--variants', 'wide']).variants == ['wide']


# ------------------------------------------------------------------------------------------------------- stages
def write_stage(name, folder, text='', after=(), code='', makes=None, content=''):
    out = folder / f'{name}.txt'
    script = code or f'open({str(out)!r}, "a").write({text or name!r})'
    return Stage(
        name, 'kind', name, (Command((sys.executable, '-c', script), makes),), (out,), folder / name, after, content
    )


def journey(stages, folder, **options):
    return Journey(stages, folder, folder, out=io.StringIO(), quiet=0.1, pause=0.0, **options)


def test_journey__order_and_skipping(tmp_path):
    stages = [write_stage('a', tmp_path), write_stage('b', tmp_path, after=('a',)), write_stage('c', tmp_path)]
    calls = []
    first = journey(stages, tmp_path, jobs=2, changed=lambda: calls.append(1))
    assert first.run() and len(calls) == 3
    record = first.record(stages[1])
    assert record['kind'] == 'kind' and record['seconds'] > 0
    assert journey(stages, tmp_path).run()
    assert (tmp_path / 'a.txt').read_text() == 'a'  # once
    changed = [write_stage('a', tmp_path, content='new'), *stages[1:]]
    assert journey(changed, tmp_path).run()
    assert (tmp_path / 'a.txt').read_text() == 'a'  # again, after its old output was cleared
    assert (tmp_path / 'b.txt').read_text() == 'b'  # b follows a


def test_journey__processor_time_and_facts_are_in_the_stamp(tmp_path):
    out = tmp_path / 'busy.txt'
    code = f'sum(i * i for i in range(4_000_000)); open({str(out)!r}, "w")'
    stage = write_stage('busy', tmp_path, code=code)
    run = journey([stage], tmp_path, facts=lambda: {'commit': 'abc'})
    assert run.run()
    record = run.record(stage)
    assert 0.1 <= record['cpu_seconds'] <= record['seconds'] + 1 and record['commit'] == 'abc'


def test_journey__a_failed_stage_is_tried_twice_and_stops_only_what_needs_it(tmp_path):
    count = tmp_path / 'count'
    bad = write_stage('bad', tmp_path, code=f'open({str(count)!r}, "a").write("x"); raise SystemExit(3)')
    stages = [bad, write_stage('needs', tmp_path, after=('bad',)), write_stage('other', tmp_path)]
    run = journey(stages, tmp_path)
    assert not run.run()
    assert run.failed == {'bad': 'stopped with exit status 3'} and run.done == {'other'}
    assert count.read_text() == 'xx'


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='needs /dev/full')
def test_journey__a_failure_of_the_disk_or_of_the_summary_leaves_no_thread_waiting(tmp_path):
    (tmp_path / 'logs').mkdir()
    (tmp_path / 'logs' / 'bad.log').symlink_to('/dev/full')  # its log cannot be written

    def summary():
        raise OSError('no space left')

    bad = write_stage('bad', tmp_path, code='import time; print("a line", flush=True); time.sleep(60)')
    start = time.monotonic()
    run = journey(
        [bad, write_stage('good', tmp_path), write_stage('last', tmp_path)], tmp_path, jobs=2, changed=summary
    )
    assert not run.run()
    assert run.done == {'good', 'last'} and 'No space left' in run.failed['bad']
    assert time.monotonic() - start < 50  # its process was ended
    assert run.out.getvalue().count('could not be collected: no space left') == 2


def test_journey__what_was_begun_with_the_same_content_goes_on(tmp_path):
    made = tmp_path / 's' / 'part'
    one = (sys.executable, '-c', f'import pathlib; pathlib.Path({str(made)!r}).write_text("1")')
    boom = (sys.executable, '-c', 'raise SystemExit(75)')
    end = (sys.executable, '-c', f'open({str(tmp_path / "out")!r}, "w")')
    made.parent.mkdir()

    def stage(second):
        return Stage('s', 'k', 't', (Command(one, made), Command(second)), (tmp_path / 'out',), tmp_path / 's')

    journey([stage(boom)], tmp_path).run()
    stamp = json.loads((tmp_path / 'stamps' / 's.begun.json').read_text())
    stamp['fingerprint'] = fingerprints([stage(end)])['s']  # as if the very same stage had been interrupted
    (tmp_path / 'stamps' / 's.begun.json').write_text(json.dumps(stamp | {'seconds': 100.0}))
    made.parent.mkdir(exist_ok=True)
    made.write_text('kept')
    run = journey([stage(end)], tmp_path)
    assert run.run() and made.read_text() == 'kept'
    assert run.record(stage(end))['seconds'] >= 100.0  # of all tries


def test_journey__stop_ends_children(tmp_path):
    slow = write_stage('slow', tmp_path, code='import time; time.sleep(60)')
    run = journey([slow, write_stage('next', tmp_path)], tmp_path)
    threading.Timer(1.0, run.stop).start()
    start = time.monotonic()
    assert not run.run()
    assert time.monotonic() - start < 30 and not run.failed and not (tmp_path / 'next.txt').exists()


def test_fingerprints__do_not_depend_on_where_folders_are_nor_on_options(tmp_path):
    def prints(place, options=()):
        stage = Stage('a', 'k', 't', (Command(('python', f'{place}/x'), None, options),), (), content=f'{place}/y')
        return fingerprints([stage], {place: 'PLACE'})

    assert prints('/one') == prints('/two') == prints('/one', ('--fast',))
    assert prints('/one') != fingerprints([Stage('a', 'k', 't', (Command(('python', 'z')),), ())])


def test_time_left__from_the_mean_of_its_kind(tmp_path):
    stages = [write_stage(name, tmp_path) for name in 'abc']
    journey(stages[:1], tmp_path).run()
    stamp = tmp_path / 'stamps' / 'a.done.json'
    stamp.write_text(json.dumps(json.loads(stamp.read_text()) | {'seconds': 90.0}))
    run = journey(stages, tmp_path, jobs=2)
    run.done = {'a'}
    assert run.time_left() == 'about 1 min 30 s left'  # two stages, two at a time
    assert (
        'besides new' in journey([*stages, dataclasses.replace(stages[0], name='d', kind='new')], tmp_path).time_left()
    )


# ---------------------------------------------------------------------------------------------- frozen linear head
def test_class_shares__by_value():
    labels = np.zeros((8, 16), np.uint8)
    labels[:, 8:] = 1
    labels[4:, 8:] = 255
    shares = class_shares(labels, (1, 2), 3)
    assert shares.tolist() == [[1.0, 0.0, 0.0], [0.0, 0.5, 0.0]]


def test_read_labels__both_ways_of_unlabelled(tmp_path):
    Image.fromarray(np.array([[0, 1, 11, 255]], np.uint8)).save(tmp_path / 'a.png')
    assert read_labels(tmp_path / 'a.png', True, 0).tolist() == [[255, 0, 10, 255]]
    assert read_labels(tmp_path / 'a.png', False, 11).tolist() == [[0, 1, 255, 255]]


def test_fit_linear__finds_the_share_of_each_side(generator):
    side = torch.randint(0, 2, (512, 1), generator=generator) * 2.0 - 1
    shares = torch.where(side > 0, torch.tensor([[0.9, 0.1]]), torch.tensor([[0.2, 0.8]]))
    weights = fit_linear(side, shares, steps=400, batch=128)
    guess = torch.cat([torch.tensor([[1.0], [-1.0]]), torch.ones(2, 1)], 1) @ weights
    assert guess.softmax(1)[:, 0].tolist() == pytest.approx([0.9, 0.2], abs=0.03)


def test_mean_iou__by_value():
    confusion = torch.tensor([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
    assert mean_iou(confusion) == pytest.approx(100 * (3 / 4 + 4 / 5) / 2)  # the third class does not occur


# ------------------------------------------------------------------------------------------------ data and configs
@pytest.fixture(scope='module')
def small_pack(tmp_path_factory):
    """Drawn data in the layout of the photographs."""
    root = tmp_path_factory.mktemp('pack')
    write_demo_data(root, num_train=12, num_val=4, size=(96, 72), seed=0)
    shutil.copytree(root / 'seg' / 'images', root / 'seg_camvid' / 'images')
    shutil.copytree(root / 'seg' / 'annotations', root / 'seg_camvid' / 'annotations')
    (root / 'seg_camvid' / 'classes.txt').write_text('\n'.join(f'c{i}' for i in range(11)) + '\n')
    shutil.copytree(root / 'det' / 'images', root / 'pretrain' / 'images')
    (root / 'pretrain' / 'annotations').mkdir()
    for split in ('train', 'val'):
        content = json.loads((root / 'det' / 'annotations' / f'{split}.json').read_text())
        content['categories'] = [{'id': 1, 'name': 'person'}]
        content['annotations'] = [
            {k: v for k, v in a.items() if k != 'segmentation'} | {'category_id': 1} for a in content['annotations']
        ]
        (root / 'pretrain' / 'annotations' / f'person_{split}.json').write_text(json.dumps(content))
    rng = np.random.default_rng(0)
    for split in ('train', 'val'):
        for name in 'ab':
            (root / 'cls' / split / name).mkdir(parents=True)
            for i in range(5):
                level = 60 if name == 'a' else 180
                pixels = rng.integers(level - 20, level + 20, (64, 64, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / 'cls' / split / name / f'{i}.jpg')
    return root


def test_find_data__refuses_a_tested_image_in_pretraining(small_pack, tmp_path):
    data = find_data(small_pack)
    assert len(data.pretrain) == 2 and len(data.camvid_classes()) == 11
    shutil.copytree(small_pack, tmp_path / 'p')
    file = tmp_path / 'p' / 'pretrain' / 'annotations' / 'person_train.json'
    content = json.loads(file.read_text())
    val = json.loads((tmp_path / 'p' / 'pretrain' / 'annotations' / 'person_val.json').read_text())
    content['images'].append(val['images'][0] | {'id': 10_000})
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match='would be seen in pre-training'):
        find_data(tmp_path / 'p')
    content['images'].pop()
    file.write_text(json.dumps(content))
    (copied,) = sorted((tmp_path / 'p' / 'seg_camvid' / 'images' / 'val').iterdir())[:1]
    scene = tmp_path / 'p' / 'pretrain' / 'images' / content['images'][0]['file_name']
    kept = scene.read_bytes()
    shutil.copy(copied, scene)
    with pytest.raises(DataError, match=rf'would be seen in pre-training, as .*{scene.name}: take it out'):
        find_data(tmp_path / 'p')
    scene.write_bytes(kept)
    find_data(tmp_path / 'p')
    shutil.rmtree(tmp_path / 'p' / 'cls' / 'val')
    with pytest.raises(DataError, match=r'val is missing|would be seen'):
        find_data(tmp_path / 'p')


def plan(small_pack, folder, budget='micro', **options):
    settings = dict(seeds=(0, 1), variants=ORDER, tasks=('probe', 'topk', 'camvid'))
    return Plan(ROOT, folder, find_data(small_pack), BUDGETS[budget], **(settings | options))


def test_plan__seed_by_seed_each_variant_with_its_evaluations(small_pack, tmp_path):
    names = [stage.name for stage in plan(small_pack, tmp_path, variants=('scratch', 'mae', 'mixedae')).stages()]
    one = [
        'pretrain_scratch_s0', 'probe_scratch_s0', 'topk_scratch_s0', 'camvid_scratch_s0',
        'pretrain_mae_s0', 'probe_mae_s0', 'camvid_mae_s0',
        'pretrain_mixedae_s0', 'probe_mixedae_s0', 'topk_mixedae_s0', 'camvid_mixedae_s0',
    ]  # fmt: skip
    assert names == ['crops_train', 'crops_val', *one, *(name.replace('_s0', '_s1') for name in one)]


def test_plan__topk_attention_as_it_was_trained_or_a_quarter(small_pack, tmp_path):
    variants = ('scratch', 'mae', 'naive', 'contrastive', 'mixedae', 'attention', 'wide')
    stages = plan(small_pack, tmp_path, seeds=(0,), variants=variants, tasks=('dense', 'dense_topk')).stages()
    found = {stage.name: stage.commands[0].arguments for stage in stages if stage.kind in ('dense', 'dense_topk')}
    ratios = {name: a[a.index('--topk-ratio') + 1] for name, a in found.items() if '--topk-ratio' in a}
    assert ratios == {f'dense_topk_{name}_s0': '0.5' if name == 'wide' else '0.25' for name in variants}
    assert set(found) - set(ratios) == {f'dense_{name}_s0' for name in variants}


def test_patch_features__topk_attention_of_all_keys_is_global(small_pack, tmp_path):
    from mixedae.models import MixedAEViT

    arch = dict(embed_dim=24, depth=2, num_heads=2)
    torch.manual_seed(0)
    model = MixedAEViT(arch=arch, img_size=64, out_indices=(1,))
    model.init_weights()
    for parameter in model.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'a.pth')
    files = sorted(small_pack.glob('seg_camvid/images/val/*'))[:2]
    maps = [PatchFeatures(tmp_path / 'a.pth', arch, 64, (64, 64), ratio)(files) for ratio in (None, 1.0, 0.25)]
    assert maps[0].shape == (len(files), 16, 24) and len(files) == 2
    torch.testing.assert_close(maps[0], maps[1])
    assert (maps[0] - maps[2]).abs().max() > 1e-2


def test_plan__lengths_stay_when_counting_changes(small_pack, tmp_path, monkeypatch):
    first = plan(small_pack, tmp_path).lengths
    monkeypatch.setattr('tools.reproduce_parts.variants.operations', lambda variant, budget: 1.0 + len(variant.title))
    again = plan(small_pack, tmp_path).lengths
    assert {name: row['iterations'] for name, row in again.items()} == {
        name: row['iterations'] for name, row in first.items()
    }


def test_plan__every_fine_tuning_config_resolves(small_pack, tmp_path):
    from mixedae.engine.configs import read_config

    tasks = ('camvid', 'ade', 'super12', 'person')
    plan(small_pack, tmp_path, seeds=(3,), variants=('mae',), tasks=tasks).stages()
    configs = {task: read_config(str(tmp_path / 'configs' / f'{task}_mae_s3.py')) for task in tasks}
    for cfg in configs.values():
        assert cfg.model.backbone.init_cfg.checkpoint == str(tmp_path / 'weights' / 'mae_s3.pth')
        assert cfg.randomness.seed == 3 and cfg.train_dataloader.num_workers == 0
    camvid = configs['camvid']
    assert camvid.model.decode_head.num_classes == camvid.model.auxiliary_head.num_classes == 11
    ignored = (
        camvid.model.decode_head.ignore_index, camvid.model.data_preprocessor.seg_pad_val,
        camvid.test_evaluator.ignore_index, camvid.train_dataloader.dataset.ignore_index,
    )  # fmt: skip
    assert ignored == (11,) * 4 and camvid.train_dataloader.dataset.reduce_zero_label is False
    assert configs['ade'].train_dataloader.dataset.reduce_zero_label is True
    assert configs['person'].model.roi_head.mask_head is None
    assert configs['person'].test_evaluator.metric == ['bbox']
    assert configs['super12'].model.roi_head.mask_head.num_classes > 1
    # heads of the micro budget: light for ADE20K and the twelve classes
    assert camvid.model.neck.in_channels == 48 and camvid.model.decode_head.type == 'UPerHead'
    head = configs['ade'].model.decode_head
    assert (head.type, head.in_channels, head.num_classes) == ('LinearHead', 48, 9)
    keys = configs['ade'].optim_wrapper.paramwise_cfg.custom_keys
    assert keys == dict(decode_head=dict(lr_mult=20.0)) and configs['ade'].optim_wrapper.optimizer.lr == 3e-4
    assert configs['camvid'].optim_wrapper.optimizer.lr == 5e-4
    assert configs['ade'].model.neck is None and configs['ade'].model.auxiliary_head is None
    assert configs['ade'].model.backbone.out_indices == (3,) and configs['ade'].model.backbone.out_norm == 'final'
    assert [configs[task].model.neck.out_channels for task in ('person', 'super12')] == [96, 48]
    assert configs['super12'].model.roi_head.mask_head.num_convs == 1


def test_pretrain_config__scenes_on_the_device(tmp_path):
    budget = dataclasses.replace(BUDGETS['gpu'])
    cfg = pretrain_config(VARIANTS['scenes'], budget, tmp_path / 'i.safetensors', 2, 10)
    assert cfg['train_dataloader']['dataset']['type'] == 'mixedae.WindowDataset'
    inner = cfg['train_dataloader']['dataset']['dataset']
    assert (inner['type'], inner['windows'], inner['seed']) == ('mixedae.SceneCropDataset', 'scene', 2)
    assert cfg['model']['data_preprocessor']['type'] == 'mixedae.DeviceScenes'
    assert cfg['optim_wrapper']['type'] == 'AmpOptimWrapper' and cfg['optim_wrapper']['dtype'] == 'bfloat16'


# ---------------------------------------------------------------------------------------------------- whole runs
@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        (['nowhere'], 'does not exist'),
        (['nowhere', '--jobs', '0'], '--jobs and --threads must be at least 1'),
        (['nowhere', '--publish', 'no_docs'], '--publish no_docs has no results.md'),
    ],
)
def test_main__bad_input_is_one_sentence(arguments, sentence, tmp_path, capsys):
    assert reproduce.main([*arguments, '--work-dir', str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith('error: ') and sentence in error


def test_reproduce__every_evaluation_once(small_pack, tmp_path, capsys):
    """Scenes from the memory of the device, bfloat16, all evaluations; a second call skips all of it."""
    pytest.importorskip('mmcv.ops')
    command = [
        sys.executable, str(ROOT / 'tools' / 'reproduce.py'), str(small_pack), '--budget', 'micro', '--seeds', '0',
        '--variants', 'scenes', '--tasks', *TASKS, '--work-dir', str(tmp_path), '--jobs', '2',
    ]  # fmt: skip
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert found.returncode == 0, found.stdout + found.stderr
    results = json.loads((tmp_path / 'results.json').read_text())
    assert results['versions']['torch'] == torch.__version__
    (row,) = results['runs']
    assert (row['variant'], row['seed'], row['iterations'], row['images']) == ('scenes', 0, 4, 64)
    assert row['metrics'].keys() == tables.MEASURES.keys()
    assert all(0 <= value <= 100 for value in row['metrics'].values())
    assert row['seconds'].keys() == row['commits'].keys() == set(TASKS)
    assert row['metrics']['knn_mean'] >= 50.0  # dark and light images
    assert row['operations'] == 64 * row['operations_per_image'] > 0
    assert not list((tmp_path / 'runs').glob('*/*.pth'))  # only weights are kept
    assert torch.load(tmp_path / 'weights' / 'scenes_s0.pth', weights_only=True).keys() == {'state_dict', 'meta'}
    assert reproduce.main(command[2:]) == 0
    text = capsys.readouterr().out
    assert '11 of 11 stages are done already' in text and 'start ' not in text
    assert '| MixedAE on whole scenes | ' in (tmp_path / 'results.md').read_text()
