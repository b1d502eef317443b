"""Where a run lists bad image files, and what its log says at the end."""

from types import SimpleNamespace

from mmengine.config import Config

from mixedae.engine.quarantine_hook import QuarantineHook, place_quarantine
from object_aware.pixels import ImageError
from object_aware.quarantine import Quarantine


def test_place_quarantine__next_to_the_run_unless_named():
    def config(**dataset):
        return Config(dict(work_dir='runs/a', train_dataloader=dict(dataset=dataset)))

    cfg = config(type='mixedae.ObjectCropDataset', index_file='x')
    place_quarantine(cfg)
    assert cfg.train_dataloader.dataset.quarantine_file == 'runs/a/quarantine.jsonl'
    cfg = config(type='RepeatDataset', dataset=dict(type='ImageDataset', root='x'))
    place_quarantine(cfg)
    assert cfg.train_dataloader.dataset.dataset.quarantine_file == 'runs/a/quarantine.jsonl'
    cfg = config(type='mixedae.ImageDataset', quarantine_file='b.jsonl')
    place_quarantine(cfg)
    assert cfg.train_dataloader.dataset.quarantine_file == 'b.jsonl'
    for other in (config(type='CocoDataset'), config(type='mmpretrain.ImageDataset'), Config(dict(work_dir='runs/a'))):
        before = other.pretty_text
        place_quarantine(other)
        assert other.pretty_text == before


def test_quarantine_hook__says_how_many_samples_were_replaced(tmp_path):
    said = []
    quarantine = Quarantine(tmp_path / 'q.jsonl', limit=5)
    logger = SimpleNamespace(warning=said.append)
    runner = SimpleNamespace(
        train_dataloader=SimpleNamespace(dataset=SimpleNamespace(quarantine=quarantine)), logger=logger
    )
    QuarantineHook().after_train(runner)
    assert said == []
    worker = Quarantine(tmp_path / 'q.jsonl', limit=5)  # events are added in loader workers
    worker.add(ImageError('a.jpg', 'broken', 'Image a.jpg does not decode.'), 1, 2, 3)
    worker.add(ImageError('a.jpg', 'broken', 'Image a.jpg does not decode.'), 2, 2, 7)
    QuarantineHook().after_train(runner)
    sentence = f'Bad image files: 1 (listed in {tmp_path / "q.jsonl"}); samples replaced because of them: 2.'
    assert said == [sentence]
    inner = runner.train_dataloader.dataset
    runner.train_dataloader.dataset = SimpleNamespace(dataset=inner)  # in a wrapper
    QuarantineHook().after_train(runner)
    assert said == [sentence] * 2
    runner.train_dataloader.dataset = SimpleNamespace()
    QuarantineHook().after_train(runner)
    assert len(said) == 2
