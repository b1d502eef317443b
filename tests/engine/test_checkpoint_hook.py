"""The checkpoint hook and the choice of the checkpoint to go on from."""

import errno
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from mmengine.registry import RUNNERS

sys.path.insert(0, str(Path(__file__).parents[1] / 'reliability'))
import small_runs as runs

import mixedae.engine.runner
from mixedae.checkpoints import CheckpointError, read_file
from mixedae.engine.checkpoint_hook import CheckpointNotWritten
from mixedae.engine.files import write_checkpoint
from mixedae.engine.resume import newest_valid


def run(folder, iters=8, every=2, keep=2, resume=False, **hook):
    cfg = runs.noisy(folder, iters=iters, every=every, workers=0)
    cfg.default_hooks.checkpoint = dict(
        type='CheckpointHook', interval=every, by_epoch=False, max_keep_ckpts=keep, **hook
    )
    cfg.train_cfg.val_interval = 4
    cfg.custom_hooks = []
    cfg.optim_wrapper.accumulative_counts = 1
    cfg.resume = resume
    cfg.experiment_name = f'{folder}'.replace(os.sep, '_') + f'_{iters}_{resume}'
    runner = RUNNERS.build(cfg)
    runner.train()
    return runner


def names(folder):
    return sorted(path.name for path in folder.glob('*.pth'))


def named(folder):
    return Path((folder / 'last_checkpoint').read_text()).name


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 64
    path.write_bytes(content)


def test_hook__keeps_the_last_and_names_it(tmp_path):
    run(tmp_path)
    assert names(tmp_path) == ['iter_6.pth', 'iter_8.pth'] and named(tmp_path) == 'iter_8.pth'
    checkpoint = read_file(tmp_path / 'iter_8.pth')
    assert checkpoint['message_hub']['runtime_info']['keep_ckpt_ids'] == [6, 8]
    assert checkpoint['run_state']['world_size'] == 1


def test_hook__a_complete_one_is_there_at_every_moment(tmp_path, monkeypatch):
    """Looked at before and after every change of the folder."""
    seen = []

    def look():
        if (tmp_path / 'last_checkpoint').exists():
            read_file(tmp_path / named(tmp_path))
            seen.append(named(tmp_path))

    def looked(function):
        def wrapped(*args, **kwargs):
            look()
            result = function(*args, **kwargs)
            look()
            return result

        return wrapped

    for name in ('replace', 'remove', 'unlink'):
        monkeypatch.setattr(os, name, looked(getattr(os, name)))
    run(tmp_path, keep=1)
    assert set(seen) == {'iter_2.pth', 'iter_4.pth', 'iter_6.pth', 'iter_8.pth'} and len(seen) > 10
    assert names(tmp_path) == ['iter_8.pth']


def full_disk(monkeypatch, at):
    """The given saves fail."""
    saves = []

    def write(path, checkpoint):
        saves.append(path)
        if len(saves) in at:
            raise OSError(errno.ENOSPC, 'No space left on device')
        write_checkpoint(path, checkpoint)

    monkeypatch.setattr(mixedae.engine.runner, 'write_checkpoint', write)


def test_hook__full_disk_for_a_while(tmp_path, monkeypatch, capfd):
    full_disk(monkeypatch, (2, 3))
    runner = run(tmp_path, iters=10, keep=1)
    assert runner.iter == 10 and names(tmp_path) == ['iter_10.pth'] and named(tmp_path) == 'iter_10.pth'
    said = ''.join(capfd.readouterr())
    assert said.count('the disk is full: free some space') == 2
    assert 'The checkpoints before it are untouched; the newest is' in said


def test_hook__full_disk_for_good(tmp_path, monkeypatch):
    full_disk(monkeypatch, range(2, 99))
    with pytest.raises(CheckpointNotWritten, match=r'the disk is full.*newest is .*iter_2\.pth\..*failure 3 in a row'):
        run(tmp_path, iters=20, keep=1)
    assert names(tmp_path) == ['iter_2.pth'] and named(tmp_path) == 'iter_2.pth'
    assert newest_valid(tmp_path).checkpoint['meta']['iter'] == 2


def test_hook__best_and_published(tmp_path):
    run(tmp_path, iters=12, save_best='mean', rule='less', published_keys=['state_dict', 'meta'])
    (best,) = [name for name in names(tmp_path) if name.startswith('best_mean_iter_') and '-' not in name]
    assert 'optimizer' not in read_file(tmp_path / best)
    info = read_file(tmp_path / 'iter_12.pth')['message_hub']['runtime_info']
    assert Path(info['best_ckpt']).name == best
    published = [name for name in names(tmp_path) if '-' in name]
    assert len(published) == 2 and all(set(read_file(tmp_path / p)) == {'state_dict', 'meta'} for p in published)
    assert newest_valid(tmp_path).path.name == 'iter_12.pth', 'neither best nor published'


def test_hook__best_when_the_disk_is_full(tmp_path, monkeypatch):
    full_disk(monkeypatch, (7,))  # 2, 4, best, 4 again, 6, 8, best
    run(tmp_path, iters=8, save_best='mean', rule='greater')
    best = [name for name in names(tmp_path) if name.startswith('best')]
    assert len(best) == 1 and read_file(tmp_path / best[0])
    assert Path(read_file(tmp_path / 'iter_8.pth')['message_hub']['runtime_info']['best_ckpt']).name == best[0]


def test_resume__newest_valid(tmp_path, capfd):
    run(tmp_path, iters=8, keep=4)
    damage(tmp_path / 'iter_8.pth')
    (tmp_path / 'iter_6.pth').write_bytes((tmp_path / 'iter_6.pth').read_bytes()[:-700])
    found = newest_valid(tmp_path)
    assert found.path.name == 'iter_4.pth' and {path.name for path, _ in found.skipped} == {'iter_6.pth', 'iter_8.pth'}
    runner = run(tmp_path, iters=8, keep=4, resume=True)
    said = ''.join(capfd.readouterr())
    assert 'Passed over iter_8.pth: ' in said and 'Passed over iter_6.pth: ' in said
    assert runner.resumed_from.endswith('iter_4.pth') and runner.iter == 8
    assert newest_valid(tmp_path).path.name == 'iter_8.pth', 'written anew'


def test_resume__copied_folder_with_other_times(tmp_path):
    run(tmp_path, iters=6, keep=4)
    (tmp_path / 'last_checkpoint').write_text('/gone/iter_6.pth')
    for name, when in (('iter_2.pth', 300), ('iter_4.pth', 200), ('iter_6.pth', 100)):
        os.utime(tmp_path / name, (when, when))
    for when in (50, 250, 400):  # of last_checkpoint
        os.utime(tmp_path / 'last_checkpoint', (when, when))
        assert newest_valid(tmp_path).path == tmp_path / 'iter_6.pth'
    (tmp_path / 'last_checkpoint').unlink()
    assert newest_valid(tmp_path).path.name == 'iter_6.pth'


def test_resume__copy_beside_the_original(tmp_path):
    run(tmp_path / 'original', iters=4)
    shutil.copytree(tmp_path / 'original', tmp_path / 'copy')
    assert newest_valid(tmp_path / 'copy').path == tmp_path / 'copy' / 'iter_4.pth'


def test_resume__left_over_of_an_earlier_run(tmp_path):
    """The checkpoints of the run that `last_checkpoint` is of, even damaged ones' predecessors, come before them."""
    run(tmp_path, iters=4, keep=4)  # the present run, killed before it could name iter_6
    shutil.copy(tmp_path / 'iter_4.pth', tmp_path / 'iter_6.pth')
    run(tmp_path / 'earlier', iters=10, every=8)
    shutil.copy(tmp_path / 'earlier' / 'iter_8.pth', tmp_path / 'iter_8.pth')
    for name, when in (('iter_8.pth', 100), ('iter_2.pth', 200), ('iter_4.pth', 300), ('last_checkpoint', 301)):
        os.utime(tmp_path / name, (when, when))
    found = {}
    for when in (302, 150):  # saved by the present run just before a kill; a leftover as well
        checkpoint = read_file(tmp_path / 'iter_6.pth')
        checkpoint['meta']['iter'] = 6
        write_checkpoint(tmp_path / 'iter_6.pth', checkpoint)
        os.utime(tmp_path / 'iter_6.pth', (when, when))
        found[when] = newest_valid(tmp_path).path.name
    assert found == {302: 'iter_6.pth', 150: 'iter_4.pth'}
    damage(tmp_path / 'iter_4.pth')
    os.utime(tmp_path / 'iter_4.pth', (300, 300))
    assert newest_valid(tmp_path).path.name == 'iter_2.pth'
    (tmp_path / 'iter_4.pth').unlink()  # last_checkpoint names a file that is gone
    assert newest_valid(tmp_path).path.name == 'iter_2.pth'


def test_resume__nothing_there(tmp_path):
    assert newest_valid(tmp_path) is None
    assert run(tmp_path / 'w', iters=2, resume=True).iter == 2  # what a requeued batch job asks for the first time


def test_resume__nothing_valid(tmp_path):
    run(tmp_path, iters=4)
    for path in tmp_path.glob('*.pth'):
        damage(path)
    with pytest.raises(CheckpointError, match=r'has 2 checkpoints, but none that a run can go on from: .*iter_4\.pth'):
        run(tmp_path, iters=4, resume=True)


def test_resume__other_batch_size(tmp_path, capfd):
    run(tmp_path, iters=4, keep=1)
    cfg = runs.noisy(tmp_path, iters=6, every=2, workers=0, batch=6)
    cfg.resume, cfg.custom_hooks = True, []
    cfg.experiment_name = 'other_batch'
    runner = RUNNERS.build(cfg)
    runner.train()
    assert 'with batches of 3, this run has 1 with batches of 6' in ''.join(capfd.readouterr())
    assert (runner.train_loop.stream.epoch, runner.train_loop.stream.number) == (
        0,
        4,
    )  # 4 * 3 = 2 * 6 samples, then 2 more


def test_resume__seed_of_the_run(tmp_path):
    """A run without a fixed seed goes on with the one it had drawn."""
    first = runs.noisy(tmp_path / 'a', iters=4, every=2, workers=0)
    first.randomness, first.custom_hooks = dict(seed=None), []
    first.optim_wrapper.accumulative_counts = 1
    whole = RUNNERS.build(first)
    whole.train()
    again = first.copy()
    again.work_dir, again.resume, again.load_from = str(tmp_path / 'b'), True, str(tmp_path / 'a' / 'iter_2.pth')
    again.experiment_name = 'seed_again'
    rest = RUNNERS.build(again)
    rest.train()
    assert rest.seed == whole.seed
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, rest.model.state_dict()[name]), name
