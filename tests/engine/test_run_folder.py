"""A new run in a work directory that holds one."""

import os

import pytest
from mmengine.config import Config

from mixedae.engine.run_folder import check_new_run, checkpoints_of_run, remove_run

OURS = ('epoch_2.pth', 'iter_30.pth', 'best_coco_bbox_mAP_epoch_1.pth', 'best_mIoU_iter_20-0a1b2c3d.pth')
OTHERS = ('mae_vit_base_16.pth', 'iter_30.pth.md', 'my_iter_3.pth', 'iter_3.txt', 'epoch_x.pth', 'keep.json')


def config(folder, **entries):
    return Config(dict(work_dir=str(folder), model=dict(type='X', depth=3), **entries))


def fill(folder, names):
    for when, name in enumerate(names, 100):
        (folder / name).write_text(name)
        os.utime(folder / name, (when, when))


def test_checkpoints_of_run__by_name_and_as_named(tmp_path):
    fill(tmp_path, OTHERS + OURS)
    (tmp_path / 'iter_9.pth').mkdir()
    assert [path.name for path in checkpoints_of_run(config(tmp_path))] == list(OURS)
    fill(tmp_path, ['step-7.ckpt'])
    hooks = dict(checkpoint=dict(type='CheckpointHook', filename_tmpl='step-{}.ckpt'))
    assert len(checkpoints_of_run(config(tmp_path, default_hooks=hooks))) == len(OURS) + 1
    (tmp_path / 'last_checkpoint').write_text('/moved/step-7.ckpt')
    assert len(checkpoints_of_run(config(tmp_path))) == len(OURS) + 1
    assert checkpoints_of_run(config(tmp_path / 'none')) == []


def test_checkpoints_of_run__numbers_with_zeros_and_a_folder_elsewhere(tmp_path):
    run, elsewhere = tmp_path / 'runs' / 'a', tmp_path / 'large' / 'a'
    for folder in (run, elsewhere):
        folder.mkdir(parents=True)
        fill(folder, ['step_000030{x}.pth', 'step_x.pth', 'keep.json'])
    hooks = dict(checkpoint=dict(filename_tmpl='step_{:06d}{{x}}.pth', out_dir=str(tmp_path / 'large')))
    cfg = config(run, default_hooks=hooks)
    (run / 'last_checkpoint').write_text(str(elsewhere.parent / '..' / 'large' / 'a' / 'step_000030{x}.pth'))
    (run / 'step_000030{x}.pth').rename(run / 'step_000029{x}.pth')
    assert len(checkpoints_of_run(cfg)) == 2  # under two spellings one file
    (run / 'step_000029{x}.pth').rename(run / 'step_000030{x}.pth')
    assert set(checkpoints_of_run(cfg)) == {folder / 'step_000030{x}.pth' for folder in (run, elsewhere)}
    with pytest.raises(FileExistsError, match='holds a run already'):
        check_new_run(cfg)
    assert remove_run(cfg) == ['step_000030{x}.pth'] * 2
    assert sorted(path.name for path in elsewhere.iterdir()) == ['keep.json', 'step_x.pth']
    hooks['checkpoint'].update(out_dir='s3://bucket/large')
    assert checkpoints_of_run(config(run, default_hooks=hooks)) == []


def test_check_new_run__refused(tmp_path):
    check_new_run(config(tmp_path))
    fill(tmp_path, OTHERS)
    check_new_run(config(tmp_path))
    fill(tmp_path, ['iter_4000.pth', 'iter_2000.pth'])
    sentence = (
        rf'^{tmp_path} holds a run already \(%s\): give another --work-dir, go on with it by --resume, or start anew '
        r'with --overwrite, which removes its checkpoints\.$'
    )
    with pytest.raises(FileExistsError, match=sentence % r'iter_2000\.pth'):  # the newest file
        check_new_run(config(tmp_path))
    (tmp_path / 'last_checkpoint').write_text('iter_4000.pth')
    with pytest.raises(FileExistsError, match=sentence % r'iter_4000\.pth'):
        check_new_run(config(tmp_path))
    check_new_run(config(tmp_path, resume=True))
    check_new_run(config(tmp_path), overwrite=True)


def test_check_new_run__would_remove_what_it_starts_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'run').mkdir()
    fill(tmp_path / 'run', ['iter_4000.pth'])
    start = dict(type='Pretrained', checkpoint='run/iter_4000.pth')
    cfg = config(tmp_path / 'run', backbone=[dict(init_cfg=start)])
    with pytest.raises(ValueError, match=r'--overwrite would remove run/iter_4000\.pth, which this run starts from'):
        check_new_run(cfg, overwrite=True)
    start.update(checkpoint='other/iter_4000.pth')
    check_new_run(config(tmp_path / 'run', backbone=[dict(init_cfg=start)]), overwrite=True)
    assert (tmp_path / 'run' / 'iter_4000.pth').read_text() == 'iter_4000.pth'


def test_remove_run__leaves_all_else(tmp_path):
    fill(tmp_path, OTHERS + OURS)
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_30.pth'))
    (tmp_path / '20260101_000000').mkdir()
    assert remove_run(config(tmp_path)) == list(OURS)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*OTHERS, '20260101_000000'])
    assert remove_run(config(tmp_path)) == []
