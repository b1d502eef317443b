"""tools/report.py on run folders with known content."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools import report
from tools.report_parts.health import summary, verdicts
from tools.report_parts.run import read_run

PRETRAIN = """
train_cfg = dict(by_epoch=False, max_iters=1000)
train_dataloader = dict(batch_size=64, dataset=dict(type='mixedae.ObjectCropDataset', index_file='crops.safetensors'))
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=0.001))
model = dict(
    type='mixedae.MixedAE',
    encoder=dict(arch='tiny', img_size=128, patch_size=16),
    segment_embed={segment_embed},
)
"""
FINETUNE = """
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=4)
model = dict(type='MaskRCNN', backbone=dict(type='mixedae.MixedAEViT', arch='base', img_size=224))
"""
STEPS = range(50, 1001, 50)


def write(folder: Path, start: str, rows: list[dict], config: str = '', log: str = '') -> Path:
    vis = folder / start / 'vis_data'
    vis.mkdir(parents=True)
    (vis / 'scalars.json').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    (folder / start / f'{start}.log').write_text(log)
    if config:
        (vis / 'config.py').write_text(config)
    return folder


def rows(**curves) -> list[dict]:
    """A log line for each of STEPS; a curve is a function of the share of the run that is done."""
    base = dict(lr=1e-3, time=0.5, data_time=0.02, grad_norm=0.3)
    return [
        {**base, **{name: curve(step / 1000) for name, curve in curves.items()}, 'iter': step, 'step': step}
        for step in STEPS
    ]


def healthy(folder: Path, segment_embed: bool = False, **changes) -> Path:
    curves = dict(loss=lambda t: 1.4 - 0.4 * t, loss_recon=lambda t: 1 - 0.4 * t, contrastive=lambda t: 4 - 0.6 * t)
    lines = rows(**{**curves, **changes})
    for step in STEPS:
        layers = {f'topk_acc/layer_{i:02d}': 0.25 + 0.3 * step / 1000 + 0.01 * i for i in range(12)}
        lines.append({**layers, 'step': step})
    return write(folder, '20260101_000000', lines, PRETRAIN.format(segment_embed=segment_embed))


def kinds(folder: Path) -> dict[str, str]:
    return {headline: kind for kind, headline, _ in verdicts(read_run(folder))}


def sentence(folder: Path, start: str) -> str:
    return next(text for _, headline, text in verdicts(read_run(folder)) if headline.startswith(start))


def test_verdicts__healthy_run(tmp_path: Path) -> None:
    assert set(kinds(healthy(tmp_path)).items()) == {
        ('All losses are finite', 'good'),
        ('The reconstruction loss falls', 'good'),
        ('The contrastive loss is between its bounds', 'good'),
        ('Patches find the patches of their own image', 'good'),
        ('The gradients are steady', 'good'),
        ('The data come fast enough', 'good'),
    }
    assert summary(verdicts(read_run(tmp_path))) == 'All that was measured is in its known-good range.'
    assert 'Floor 2.723, uniform value 4.143' in sentence(tmp_path, 'The contrastive loss')
    assert 'Last layer 64.5%' in sentence(tmp_path, 'Patches find')  # mean of the last three: 0.36 + 0.3 * 0.95
    assert '4.0%' in sentence(tmp_path, 'The data')


@pytest.mark.parametrize(
    ('changes', 'headline', 'kind'),
    [
        (dict(loss=lambda t: float('nan') if t > 0.5 else 1.0), 'The loss was not finite', 'bad'),
        (dict(loss_recon=lambda t: 1.01), 'The decoder reconstructs nothing', 'bad'),
        (dict(loss_recon=lambda t: 0.6 + 0.2 * t), 'The reconstruction loss rose', 'bad'),
        (
            dict(loss_recon=lambda t: 0.9 - 0.3 * t if t < 0.6 else 0.75),
            'The reconstruction loss falls no longer',
            'even',
        ),
        (dict(contrastive=lambda t: 4.14), 'The contrastive loss stands at its uniform value', 'bad'),
        (dict(contrastive=lambda t: 1.0), 'The contrastive loss is below its floor', 'bad'),
        (dict(grad_norm=lambda t: 9.0 if t == 0.5 else 0.3), 'The gradients have peaks', 'even'),
        (dict(grad_norm=lambda t: float('inf') if t == 0.5 else 0.3), 'Some gradients were not finite', 'even'),
        (dict(data_time=lambda t: 0.1), 'The run waits for its data', 'even'),
        (dict(data_time=lambda t: 0.3), 'The run waits for its data', 'bad'),
        (dict(data_share=lambda t: 0.6), 'The run waits for its data', 'bad'),
    ],
)
def test_verdicts__what_is_wrong_is_named(tmp_path: Path, changes: dict, headline: str, kind: str) -> None:
    found = kinds(healthy(tmp_path, **changes))
    assert found[headline] == kind
    if kind == 'bad':
        assert summary(verdicts(read_run(tmp_path))) == '1 thing wrong with this run.'


def test_verdicts__floor_reached_by_the_segment_embedding(tmp_path: Path) -> None:
    def early(t: float) -> float:
        return 4.0 if t <= 0.2 else 2.724

    name = 'The contrastive loss is read off the segment embedding'
    assert kinds(healthy(tmp_path / 'a', segment_embed=True, contrastive=early))[name] == 'even'
    assert 'from iteration 250 on' in sentence(tmp_path / 'a', name)
    assert name not in kinds(healthy(tmp_path / 'b', segment_embed=False, contrastive=early))


def accuracy(folder: Path, last: float, others: float) -> Path:
    lines = rows(loss=lambda t: 1.4 - t)
    generator = np.random.default_rng(0)
    for step in STEPS:
        noise = generator.normal(size=3) * 0.01
        values = (others, others, last)
        lines.append({**{f'topk_acc/layer_{i:02d}': values[i] + noise[i] for i in range(3)}, 'step': step})
    return write(folder, '20260101_000000', lines, PRETRAIN.format(segment_embed=True))


def test_verdicts__accuracy_at_chance(tmp_path: Path) -> None:
    assert kinds(accuracy(tmp_path / 'a', 0.25, 0.25))['Patches do not find the patches of their own image'] == 'bad'
    own_key = 'Patches do not find the patches of their own image'
    assert kinds(accuracy(tmp_path / 'own', 0.28, 0.28))[own_key] == 'bad'  # 28.6 %: each patch finds itself
    assert 'nothing but itself has 28.6% (theory)' in sentence(tmp_path / 'own', own_key)
    lagging = 'Patches find their own image, but not in the last layer'
    assert kinds(accuracy(tmp_path / 'b', 0.24, 0.6))[lagging] == 'even'
    assert kinds(accuracy(tmp_path / 'c', 0.4, 0.3))['Patches find the patches of their own image'] == 'good'


PROBE_LINE = '2026/01/01 00:00:01 - mmengine - INFO - Probe at iteration 0: kNN 20.0 %, 400 images of 10 classes\n'


def probed(folder: Path, log: str = PROBE_LINE, steps: tuple = (0, 500, 1000), **values: list[float]) -> Path:
    lines = rows(loss=lambda t: 1.4 - t)
    for i, step in enumerate(steps):
        lines.append({**{f'probe/{name}': several[i] for name, several in values.items()}, 'step': step})
    return write(folder, '20260101_000000', lines, PRETRAIN.format(segment_embed=True), log)


def test_verdicts__frozen_features(tmp_path: Path) -> None:
    found = kinds(probed(tmp_path / 'a', knn=[0.2, 0.3, 0.4], linear=[0.4, 0.41, 0.41], rankme=[30, 20, 9.0]))
    assert found['Frozen features are better than at the start (kNN)'] == 'good'
    assert found['Frozen features are no better than at the start (linear probe)'] == 'even'
    assert found['The features lose dimensions'] == 'even'
    assert '40.0% of 400 images, 10 classes: chance is 10.0%; 20.0% of the untrained' in sentence(
        tmp_path / 'a', 'Frozen features are better'
    )
    found = kinds(probed(tmp_path / 'b', knn=[0.4, 0.3, 0.2], rankme=[30, 2, 1.5]))
    assert found['Frozen features are worse than at the start (kNN)'] == 'bad'
    assert found['The features have collapsed'] == 'bad'
    assert kinds(probed(tmp_path / 'c', rankme=[10, 12, 13]))['The features have not collapsed'] == 'good'


def test_verdicts__frozen_features_without_their_start(tmp_path: Path) -> None:
    found = kinds(probed(tmp_path / 'a', steps=(250, 500, 1000), knn=[0.3, 0.3, 0.3], linear=[0.1, 0.1, 0.1]))
    assert found['Frozen features are better than chance (kNN)'] == 'good'
    assert found['Frozen features are no better than chance (linear probe)'] == 'even'
    found = kinds(probed(tmp_path / 'b', log='', knn=[0.2, 0.3, 0.4]))
    assert found['Frozen features (kNN)'] == 'note'


def test_verdicts__gradients_that_are_all_zero(tmp_path: Path) -> None:
    assert not [name for name in kinds(healthy(tmp_path, grad_norm=lambda t: 0.0)) if 'gradients' in name]


def test_verdicts__too_early(tmp_path: Path) -> None:
    lines = rows(loss=lambda t: 1.4, loss_recon=lambda t: 1.0, contrastive=lambda t: 4.14)[:3]
    found = kinds(write(tmp_path, '20260101_000000', lines, PRETRAIN.format(segment_embed=True)))
    assert found['Too early to tell'] == 'note'
    assert found['The contrastive loss stands at its uniform value'] == 'note'
    assert 'bad' not in found.values()


def test_verdicts__finetuning(tmp_path: Path) -> None:
    lines = rows(loss=lambda t: 3 - t, loss_mask=lambda t: 1 - t / 2)
    lines += [{'coco/bbox_mAP': v, 'time': 9.0, 'data_time': 9.0, 'step': i + 1} for i, v in enumerate((0.1, 0.3, 0.2))]
    log = '2026/01/01 00:00:01 - mmengine - INFO - Epoch(train) [3][250/250]  lr: 1.0000e-04  eta: 0:04:10  loss: 2.0\n'
    run = read_run(write(tmp_path, '20260101_000000', lines, FINETUNE, log))
    found = {headline: text for _, headline, text in verdicts(run)}
    assert found['Validation'] == 'coco/bbox_mAP is 0.2 at 3, best 0.3 at 2, first 0.1.'
    assert 'From 2.925 to 2.025' in found['The loss falls']
    assert run.total == 1000  # 4 epochs of 250 iterations
    assert run.finished
    assert run.starts[0].time_left == '0:04:10'


def test_read_run__resumed_and_incidents(tmp_path: Path) -> None:
    first = '2026/01/01 00:00:01 - mmengine - WARNING - something odd\n' * 2
    write(tmp_path, '20260101_000000', rows(loss=lambda t: 2.0)[:12], log=first)
    second = '2026/01/02 00:00:01 - mmengine - WARNING - "FileClient" will be deprecated in future.\n'
    write(tmp_path, '20260102_000000', rows(loss=lambda t: 1.0)[9:15], PRETRAIN.format(segment_embed=True), second)
    (tmp_path / '20260102_000000' / 'environment.json').write_text(
        json.dumps(dict(host='machine', resumed_from='w/iter_450.pth', devices=['a GPU'], git=dict(commit='c' * 40)))
    )
    (tmp_path / '20260103_000000').mkdir()  # a start that died at once
    (tmp_path / 'iter_450.pth').write_bytes(b'0' * 2**20)
    (tmp_path / 'quarantine.jsonl').write_text('{"file": "a.jpg", "why": "truncated"}\n')
    (tmp_path / 'captures').mkdir()
    (tmp_path / 'captures' / 'step_7_rank_0.pth').write_bytes(b'')
    run = read_run(tmp_path)
    assert [start.steps for start in run.starts] == [(50, 600), (500, 750), None]
    np.testing.assert_array_equal(run.values('loss'), [2.0] * 9 + [1.0] * 6)
    assert (run.done, run.total, run.finished) == (750, 1000, False)
    assert [start.warnings for start in run.starts] == [['something odd'], [], []]
    assert [(name, size) for name, size, _ in run.checkpoints] == [('iter_450.pth', 2**20)]
    found = kinds(tmp_path)
    assert found['1 bad image file'] == found['1 step left out because they were not finite'] == 'even'
    out = tmp_path / 'page.html'
    assert report.main([str(tmp_path), '--out', str(out)]) == 0
    text = out.read_text()
    for piece in ('iter_450.pth', 'something odd', 'a.jpg', 'step_7_rank_0.pth', 'machine', 'a GPU', 'none logged'):
        assert piece in text, piece
    assert '2 starts' in text  # that logged something


def test_read_run__earlier_run_in_the_folder(tmp_path: Path) -> None:
    """Three starts: a run, another that began anew in its place (`--overwrite`), and that one resumed."""
    starts = (('01', None, 3.0, slice(0, 20)), ('02', None, 2.0, slice(0, 6)), ('03', 'iter_300.pth', 1.0, slice(6, 8)))
    for day, resumed_from, loss, part in starts:
        write(tmp_path, f'202601{day}_000000', rows(loss=lambda t, loss=loss: loss)[part], f'seed = {int(day)}')
        environment = tmp_path / f'202601{day}_000000' / 'environment.json'
        environment.write_text(json.dumps(dict(resumed_from=resumed_from)))
    run = read_run(tmp_path)
    assert [start.name[6:8] for start in run.starts] == ['02', '03'] and run.done == 400
    np.testing.assert_array_equal(run.values('loss'), [2.0] * 6 + [1.0] * 2)
    (tmp_path / '20260102_000000' / 'environment.json').write_text('cut sho')  # then nothing says so
    assert len(read_run(tmp_path).starts) == 3
    assert read_run(tmp_path / '20260101_000000').done == 1000, 'by its own folder'


def test_report__page_is_whole_and_self_contained(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = healthy(tmp_path / 'run', segment_embed=True)
    pictures = run / '20260101_000000' / 'vis_data' / 'vis_image'
    pictures.mkdir()
    for step in (0, 50, 100, 150, 1000):
        Image.new('RGB', (40, 20), (step // 5, 0, 0)).save(pictures / f'pretraining_{step}.png')
    assert report.main([str(run)]) == 0
    printed = capsys.readouterr().out
    assert 'good  The reconstruction loss falls' in printed
    text = (run / 'report.html').read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text)
    assert len(re.findall(r'<img ', text)) == 3 == len(re.findall(r'<img [^>]*alt="pretraining, iteration [^"]+', text))
    assert re.findall(r'<figcaption>pretraining, iteration ([\d,]+)', text) == ['1,000', '100', '0']
    assert len(re.findall(r'role="img" aria-label="[^"]+"', text)) == len(re.findall(r'<svg ', text)) >= 6
    assert 'finished after 1,000 iterations' in text
    assert report.main([str(run / '20260101_000000'), '--out', str(tmp_path / 'one.html')]) == 0
    assert report.main([str(run), '--out', str(tmp_path / 'one.html')]) == 0, 'its own page'
    (run / 'iter_1000.pth').write_text('weights')
    assert report.main([str(run), '--out', str(run / 'iter_1000.pth')]) == 2
    assert 'exists and is not a page that this tool wrote: give another --out.' in capsys.readouterr().err
    assert (run / 'iter_1000.pth').read_text() == 'weights'


def test_report__folders_without_a_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / 'empty').mkdir()
    write(tmp_path / 'silent', '20260101_000000', [])
    (tmp_path / 'broken' / '20260101_000000' / 'vis_data').mkdir(parents=True)
    (tmp_path / 'broken' / '20260101_000000' / 'vis_data' / 'scalars.json').write_text(
        'nonsense\n{"loss": 1, "step": 1}'
    )
    healthy(tmp_path / 'above' / 'pretrain')
    for name, message in (
        ('none', 'There is no folder'),
        ('empty', 'holds no run'),
        ('silent', 'has not logged any training iteration yet'),
        ('broken', 'line 1 is not JSON'),
        ('above', 'Its runs seem to be in pretrain'),
    ):
        assert report.main([str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert error.startswith('error: ')
        assert message in error
        assert not (tmp_path / name / 'report.html').exists()


def test_report__run_whose_config_does_not_read(tmp_path: Path) -> None:
    write(tmp_path, '20260101_000000', rows(loss=lambda t: 2 - t), 'model = dict(')
    assert report.main([str(tmp_path)]) == 0
    assert 'a run without a config' in (tmp_path / 'report.html').read_text()


def test_report__starts_are_read_in_any_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    healthy(tmp_path / 'run')
    monkeypatch.chdir(tmp_path)
    assert report.main(['run']) == 0
    assert os.path.getsize('run/report.html') > 20_000
