"""ProbeHook and PictureHook inside a real run of a tiny model."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import IterTimerHook
from mmengine.registry import VISBACKENDS
from mmengine.visualization import BaseVisBackend
from PIL import Image
from torch.utils.data import Dataset

from mixedae.analysis import frozen_features, knn_accuracy, labelled_batches, linear_probe, rankme
from mixedae.engine import PictureHook, ProbeHook, SafeRunner
from mixedae.engine.classification import LabelledImages
from mixedae.engine.probe_hook import training_images
from mixedae.engine.side_hook import SideHook, leave_out_of_timer
from mixedae.registry import DATASETS, HOOKS
from object_aware import build_crop_index, read_scenes
from object_aware.device_scenes import WindowDataset
from object_aware.synthetic import write_demo_data

PREPROCESSOR = dict(type='mmengine.ImgDataPreprocessor', mean=[127.5] * 3, std=[127.5] * 3)


class RandomPictures(Dataset):
    """Noise in, and flips that each reading draws from the global generators: what a careless hook would disturb."""

    def __init__(self, length: int = 32) -> None:
        self.images = torch.rand(length, 3, 32, 32, generator=torch.Generator().manual_seed(0)).mul(255).byte()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        image = self.images[index]
        if torch.rand(1) + np.random.rand() + random.random() > 1.5:  # noqa: NPY002
            image = image.flip(-1)
        return {'inputs': image}


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """24 images of 3 classes whose brightness differs, but for one in four: ``labelled/<class>/*.png``."""
    generator = np.random.default_rng(0)
    for label, name in enumerate(('dark', 'grey', 'light')):
        folder = tmp_path / 'labelled' / name
        folder.mkdir(parents=True)
        for i in range(8):
            level = 40 + 60 * (label if i % 4 else (label + 1) % 3)
            pixels = generator.integers(level, level + 30, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f'{i}.png')
    return tmp_path / 'labelled'


def run(
    work_dir: Path, *hooks: dict, kind: str = 'MixedAE', epochs: int = 2, by_epoch: bool = True, backends: tuple = ()
) -> SafeRunner:
    encoder = dict(arch=dict(embed_dim=24, depth=2, num_heads=2), img_size=32, patch_size=8)
    runner = SafeRunner(
        model=dict(
            type=f'mixedae.{kind}',
            encoder=encoder,
            decoder=dict(embed_dim=16, depth=1, num_heads=2),
            data_preprocessor=PREPROCESSOR,
        ),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=RandomPictures(),
            batch_size=8,
            num_workers=0,
            drop_last=True,
            sampler=dict(type='DefaultSampler', shuffle=True),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs) if by_epoch else dict(by_epoch=False, max_iters=4 * epochs),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3)),
        custom_hooks=[dict(type='mixedae.PretrainMeterHook', interval=2), *hooks],
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=2), checkpoint=dict(type='CheckpointHook', by_epoch=by_epoch)
        ),
        log_processor=dict(by_epoch=by_epoch),
        visualizer=dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend'), *backends]),
        randomness=dict(seed=3),
        experiment_name=str(work_dir),
    )
    runner.train()
    return runner


def scalars(work_dir: Path, prefix: str) -> list[dict]:
    file = next(work_dir.glob('*/vis_data/scalars.json'))
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return [line for line in lines if any(name.startswith(prefix) for name in line)]


def log(work_dir: Path) -> str:
    return next(work_dir.glob('*/*.log')).read_text()


@pytest.mark.parametrize('kind', ['MixedAE', 'MAE'])
def test_side_hooks__training_is_bit_for_bit_the_same(tmp_path: Path, labelled: Path, kind: str) -> None:
    plain = run(tmp_path / 'plain', kind=kind)
    looked = run(
        tmp_path / 'looked',
        dict(type='mixedae.ProbeHook', train=str(labelled), max_crops=16),
        dict(type='mixedae.PictureHook', interval=1),
        kind=kind,
    )
    for name, value in plain.model.state_dict().items():
        assert torch.equal(value, looked.model.state_dict()[name]), name
    before, after = (scalars(tmp_path / name, 'loss') for name in ('plain', 'looked'))
    assert [line['loss'] for line in before] == [line['loss'] for line in after]
    assert looked.model.training
    assert 'off for the rest' not in log(tmp_path / 'looked')


def test_probe_hook__writes_what_the_measures_give(tmp_path: Path, labelled: Path) -> None:
    hook = dict(type='mixedae.ProbeHook', train=str(labelled), val=str(labelled), interval=2, max_val=9, max_crops=16)
    runner = run(tmp_path / 'a', hook, epochs=3)
    lines = scalars(tmp_path / 'a', 'probe/')
    assert [line['step'] for line in lines] == [0, 8, 12]  # at the start, after two epochs, after the last
    data = LabelledImages(labelled, size=32, train=False)
    train = frozen_features(runner.model, rounded(data))
    val = frozen_features(runner.model, [take(rounded(data), [0, 2, 5, 8, 10, 13, 16, 18, 21])])
    tensors = (train.features['mean'], train.labels, val.features['mean'], val.labels)
    assert lines[-1]['probe/knn'] == pytest.approx(knn_accuracy(*tensors))
    assert lines[-1]['probe/linear'] == pytest.approx(linear_probe(*tensors).accuracy)
    (probe,) = [part for part in runner.hooks if isinstance(part, ProbeHook)]
    crops = frozen_features(runner.model, [dict(inputs=probe._crops)])
    assert lines[-1]['probe/rankme'] == pytest.approx(rankme(crops.features['mean']))
    assert len(probe._crops) == 16
    assert 'Probe at iteration 12: kNN' in log(tmp_path / 'a')
    assert 'of 16, 9 images of 3 classes' in log(tmp_path / 'a')
    assert 'ProbeHook took' in log(tmp_path / 'a')


def rounded(data: LabelledImages) -> list[dict]:
    """All images as whole numbers, in one batch."""
    (batch,) = labelled_batches(data, batch_size=100)
    return [dict(batch, inputs=batch['inputs'].round().byte())]


def take(batches: list[dict], numbers: list[int]) -> dict:
    return dict(
        inputs=batches[0]['inputs'][numbers], data_samples=dict(label=batches[0]['data_samples']['label'][numbers])
    )


def test_probe_hook__without_labels_rankme_alone_by_iterations(tmp_path: Path) -> None:
    run(
        tmp_path / 'a',
        dict(type='mixedae.ProbeHook', interval=3, by_epoch=False, at_start=False, max_crops=8),
        by_epoch=False,
        epochs=2,
    )
    lines = scalars(tmp_path / 'a', 'probe/')
    assert [line['step'] for line in lines] == [3, 6, 8]
    assert set(lines[0]) == {'probe/rankme', 'step'}
    assert 1 <= lines[0]['probe/rankme'] <= 8


def test_probe_hook__one_folder_is_split(tmp_path: Path, labelled: Path) -> None:
    hook = ProbeHook(train=str(labelled), max_train=12)
    pixels, labels, val_pixels, val_labels = hook._read_labelled((32, 32))
    assert (pixels.shape, val_pixels.shape) == ((9, 3, 32, 32), (3, 3, 32, 32))
    assert sorted(val_labels.tolist()) == [0, 1, 2]
    assert sorted(labels.tolist()) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_probe_hook__wrong_settings_have_a_sentence(tmp_path: Path, labelled: Path) -> None:
    for settings, sentence in (
        (dict(train=str(tmp_path / 'none')), 'folder of labelled images .*none does not exist'),
        (dict(val=str(labelled)), 'set train'),
        (dict(train=str(labelled), measures=['knm']), "not .*'knm'"),
        (dict(measures=['knn']), 'nothing to do'),
        (dict(feature='max'), "'mean' or 'cls'"),
        (dict(interval=0), 'at least 1'),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=sentence):
            HOOKS.build(dict(type='mixedae.ProbeHook', **settings))
    (labelled / 'odd').mkdir()
    (tmp_path / 'val' / 'dark').mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match='no folder of the class grey'):
        ProbeHook(train=str(labelled), val=str(tmp_path / 'val'))
    with pytest.raises(ValueError, match='images of PictureHook'):
        PictureHook(images=0)


def test_probe_hook__labelled_data_of_another_size_switches_it_off(tmp_path: Path, labelled: Path) -> None:
    data = dict(type='mixedae.LabelledImages', root=str(labelled), size=40, train=False)
    run(tmp_path / 'a', dict(type='mixedae.ProbeHook', train=data), epochs=1)
    text = log(tmp_path / 'a')
    assert text.count('ProbeHook is off for the rest of the run') == 1
    assert '(40, 40) px, the model takes (32, 32)' in text


@HOOKS.register_module(force=True)
class FailingHook(SideHook):
    """Fails at its second look."""

    looks = 0

    def look(self, runner, model, step) -> None:
        assert not model.training
        assert not torch.is_grad_enabled()
        torch.rand(1)
        FailingHook.looks += 1
        if FailingHook.looks == 2:
            raise RuntimeError('the disk is gone')


def test_side_hook__a_failure_is_logged_and_the_run_goes_on(tmp_path: Path) -> None:
    FailingHook.looks = 0
    runner = run(tmp_path / 'a', dict(type='mixedae.FailingHook'), epochs=3)
    assert runner.iter == 12
    assert FailingHook.looks == 2
    assert log(tmp_path / 'a').count('RuntimeError: the disk is gone') == 1
    assert all(module.training for module in runner.model.modules())


def test_side_hook__other_models_are_refused() -> None:
    class Finetuning:
        model = torch.nn.Linear(1, 1)

    with pytest.raises(ValueError, match='this run trains a Linear'):
        PictureHook().before_train(Finetuning())


def test_leave_out_of_timer__is_no_waiting_for_data() -> None:
    timer = IterTimerHook()
    timer.t, timer.time_sec_tot = 100.0, 7.0

    class Run:
        hooks = (PictureHook(), timer)

    leave_out_of_timer(Run(), 2.5)
    assert (timer.t, timer.time_sec_tot) == (102.5, 9.5)


def test_picture_hook__sheets_of_the_same_images(tmp_path: Path) -> None:
    run(tmp_path / 'a', dict(type='mixedae.PictureHook', interval=1, images=3), epochs=2)
    folder = next((tmp_path / 'a').glob('*/vis_data/vis_image'))
    assert sorted(file.name for file in folder.iterdir()) == [f'pretraining_{i}.png' for i in (0, 4, 8)]
    first, last = (np.asarray(Image.open(folder / f'pretraining_{i}.png')) for i in (0, 8))
    # 7 columns and 4 rows (one group) of 128 px, gaps of 4, two lines of titles
    assert first.shape == last.shape == (34 + 4 * 132, 4 + 7 * 132, 3)
    np.testing.assert_array_equal(first[:, : 4 + 4 * 132], last[:, : 4 + 4 * 132])  # source, mask, mix, unmixed
    assert (first[:, 4 + 4 * 132 :] != last[:, 4 + 4 * 132 :]).any()


@VISBACKENDS.register_module()
class NotingBackend(BaseVisBackend):
    """Keeps what it is given: stands for TensorBoard, W&B, ..."""

    def __init__(self, save_dir: str) -> None:
        super().__init__(save_dir)
        self.images: list[tuple[str, int, np.ndarray]] = []
        self.scalars: list[tuple[int, dict]] = []

    def _init_env(self) -> None:
        """Nothing to set up."""

    @property
    def experiment(self) -> NotingBackend:
        return self

    def add_image(self, name: str, image: np.ndarray, step: int = 0, **kwargs: object) -> None:
        self.images.append((name, step, image))

    def add_scalars(self, scalar_dict: dict, step: int = 0, file_path: str | None = None, **kwargs: object) -> None:
        self.scalars.append((step, dict(scalar_dict)))


def test_side_hooks__every_visualisation_backend_gets_all(tmp_path: Path, labelled: Path) -> None:
    runner = run(
        tmp_path / 'a',
        dict(type='mixedae.ProbeHook', train=str(labelled), max_crops=8),
        dict(type='mixedae.PictureHook', interval=1),
        backends=(dict(type='NotingBackend', save_dir=str(tmp_path / 'noted')),),
    )
    (backend,) = [b for b in runner.visualizer._vis_backends.values() if isinstance(b, NotingBackend)]
    written = [{k: v for k, v in line.items() if k != 'step'} for line in scalars(tmp_path / 'a', 'probe/')]
    probes = [(step, found) for step, found in backend.scalars if 'probe/knn' in found]
    assert [step for step, _ in probes] == [0, 4, 8] and [found for _, found in probes] == written
    assert [(name, step) for name, step, _ in backend.images] == [('pretraining', step) for step in (0, 4, 8)]
    folder = next((tmp_path / 'a').glob('*/vis_data/vis_image'))
    for _, step, image in backend.images:
        assert image.dtype == np.uint8  # (H, W, 3), as every backend takes it
        np.testing.assert_array_equal(image, np.asarray(Image.open(folder / f'pretraining_{step}.png')))


def test_training_images__of_windows_that_the_device_cuts(tmp_path: Path) -> None:
    write_demo_data(tmp_path, num_train=6, num_val=1, size=(96, 72))
    detection = tmp_path / 'det'
    scenes = read_scenes([(detection / 'annotations' / 'train.json', detection / 'images')])
    build_crop_index(scenes, 32).save(tmp_path / 'crops.safetensors')
    crops = dict(type='mixedae.ObjectCropDataset', index_file=str(tmp_path / 'crops.safetensors'), size=32)
    found = training_images(WindowDataset(crops), 4)
    assert (found.dtype, found.shape) == (torch.uint8, (4, 3, 32, 32))
    assert torch.equal(found, training_images(DATASETS.build(crops), 4))


def test_training_images__from_different_scenes() -> None:
    class Crops(RandomPictures):
        scene_ids = np.array([5, 5, 5, 2, 2, 9, 9, 9, 9, 1])

        def __len__(self) -> int:
            return 10

        def __getitem__(self, index: int) -> dict:
            return {'inputs': self.images[index]}

    data = Crops()
    assert torch.equal(training_images(data, 4), data.images[[0, 3, 5, 9]])
    assert torch.equal(training_images(data, 2), data.images[[0, 5]])
    assert torch.equal(training_images(data, 5), data.images[[0, 2, 4, 6, 8]])
    assert len(training_images(data, 6, group_size=4)) == 4
    with pytest.raises(ValueError, match='not one group of 16'):
        training_images(data, 10, group_size=16)
