"""The stages of an experiment: seed by seed, within a seed variant by variant, each with its evaluations."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tools.demo_parts.layout import Scenes
from tools.reproduce_parts.budgets import Budget, Tuning
from tools.reproduce_parts.configs import (
    DETECTION,
    PRETRAIN,
    SEGMENTATION,
    detection_config,
    pretrain_config,
    segmentation_config,
)
from tools.reproduce_parts.data import CAMVID_UNLABELLED, Data
from tools.reproduce_parts.running import Command, Stage, read_json, write_json
from tools.reproduce_parts.variants import VARIANTS, schedule, topk_ratio
from tools.stage_parts.commands import relative
from tools.stage_parts.configs import write_config

DECIDES = (
    'model', 'train_dataloader', 'optim_wrapper', 'param_scheduler', 'train_cfg', 'randomness', 'test_dataloader',
    'test_evaluator',
)  # fmt: skip
"""Entries of a config that its result depends on; the others are hooks and logging."""

MIXING = tuple(name for name in VARIANTS if name != 'mae')  # random weights too: what TopK accuracy is without learning


@dataclass(frozen=True)
class Plan:
    """All that the stages need to know.

    Attributes:
        cache_gib: memory for decoded scenes in pre-training; it changes no sample.
    """

    root: Path  # of the repository
    work_dir: Path
    data: Data
    budget: Budget
    seeds: tuple[int, ...]
    variants: tuple[str, ...]
    tasks: tuple[str, ...]
    cache_gib: float = 0.0

    def stages(self) -> list[Stage]:
        """All stages in the order in which they are wanted."""
        lengths = self.lengths
        found = [self.crops('train', self.data.pretrain), self.crops('val', self.held_out())]
        for seed in self.seeds:
            for variant in self.variants:
                found.append(self.pretrain(variant, seed, int(lengths[variant]['iterations'])))
                for task in self.tasks:
                    if task != 'topk' or variant in MIXING:
                        found.append(self.evaluation(task, variant, seed))
        return found

    @cached_property
    def lengths(self) -> dict[str, dict[str, float]]:
        """What :func:`schedule` says. Iterations are kept in the work folder from the first call on: a later change of
        how operations are counted must not give one seed another length than the last."""
        found = schedule(list(self.variants), self.budget)
        path = self.work_dir / 'data' / f'iterations_{self.budget.iterations}x{self.budget.batch}.json'
        kept = read_json(path) or {}
        for name, length in found.items():
            count = kept.setdefault(name, length['iterations'])
            length.update(
                iterations=count,
                images=count * length['batch'],
                operations=count * length['batch'] * length['operations_per_image'],
            )
        write_json(path, kept)
        return found

    def held_out(self) -> tuple[Scenes, ...]:
        """Scenes that no pre-training sees, for the TopK accuracy."""
        return (self.data.layout.detection.val, self.data.person_val)

    def index_file(self, split: str) -> Path:
        return self.work_dir / 'data' / f'crops_{split}.safetensors'

    def weights(self, variant: str, seed: int) -> Path:
        return self.work_dir / 'weights' / f'{variant}_s{seed}.pth'

    def result(self, task: str, variant: str, seed: int) -> Path:
        name = {'topk': 'topk_accuracy.json', 'super12': 'precision.json', 'person': 'precision.json'}
        return self.work_dir / 'runs' / f'{task}_{variant}_s{seed}' / name.get(task, 'metrics.json')

    def crops(self, split: str, parts: tuple[Scenes, ...]) -> Stage:
        arguments: list[object] = []
        for scenes in parts:
            arguments += ['--scenes', scenes.annotations, scenes.images]
        out = self.index_file(split)
        command = self.tool('build_crops.py', *arguments, '--size', self.budget.crop, '--out', out, '--workers', 1)
        return Stage(f'crops_{split}', 'crops', f'object crops, {split}', (Command(command),), (out,))

    def pretrain(self, variant: str, seed: int, iterations: int) -> Stage:
        name = f'pretrain_{variant}_s{seed}'
        folder, target = self.work_dir / 'runs' / name, self.weights(variant, seed)
        overrides = pretrain_config(VARIANTS[variant], self.budget, self.index_file('train'), seed, iterations)
        title = f'pre-training: {VARIANTS[variant].title}, seed {seed}'
        if not VARIANTS[variant].trained:
            config, content = self.config(name, PRETRAIN, overrides, title)
            commands = (Command(self.part('weights', 'draw', config, target, '--seed', seed)),)
            return Stage(name, 'weights', title, commands, (target,), content=content)
        last = folder / f'iter_{iterations}.pth'
        config = self.work_dir / 'configs' / f'{name}.py'
        train = self.tool('train.py', config, '--work-dir', folder, '--resume')
        config, content = self.config(name, PRETRAIN, overrides, title, train)
        cached = self.cache_gib and not self.budget.device_data
        options = ('--cfg-options', f'train_dataloader.dataset.cache_gib={self.cache_gib:g}') if cached else ()
        return Stage(
            name, 'pretrain', title,
            (Command(train, last, options), Command(self.part('weights', 'keep', last, target))),
            (target,), folder, ('crops_train',), content, iterations,
            removes='*.pth',
        )  # fmt: skip

    def evaluation(self, task: str, variant: str, seed: int) -> Stage:
        name = f'{task}_{variant}_s{seed}'
        pretrain = f'pretrain_{variant}_s{seed}'
        folder, out, weights = (
            self.work_dir / 'runs' / name,
            self.result(task, variant, seed),
            self.weights(variant, seed),
        )
        title = f'{task}: {VARIANTS[variant].title}, seed {seed}'
        if task in ('dense', 'dense_topk'):
            command = self._dense(weights, out, topk_ratio(VARIANTS[variant]) if task == 'dense_topk' else None)
            return Stage(name, task, title, (Command(command),), (out,), folder, (pretrain,))
        if task in ('probe', 'topk'):
            command = getattr(self, f'_{task}')(self.work_dir / 'configs' / f'{pretrain}.py', weights, out)
            after = (pretrain, 'crops_val') if task == 'topk' else (pretrain,)
            return Stage(name, task, title, (Command(command),), (out,), folder, after)
        tuning: Tuning = getattr(self.budget, task)
        if task in ('camvid', 'ade'):
            base, val = SEGMENTATION, None
            overrides = segmentation_config(self.data, task, self.budget, seed, weights)
        else:
            base, (train_set, val, classes, masks) = DETECTION, self.detection_data(task)
            overrides = detection_config(
                train_set, val, classes, masks, self.budget, tuning, seed, weights, folder / 'test' / 'detections'
            )
        trained, metrics = folder / f'iter_{tuning.iterations}.pth', out.with_name('metrics.json')
        config = self.work_dir / 'configs' / f'{name}.py'
        train = self.tool('train.py', config, '--work-dir', folder, '--resume')
        test = self.tool('test.py', config, trained, '--work-dir', folder / 'test', '--out', metrics)
        config, content = self.config(name, base, overrides, title, train, test)
        commands = [Command(train, trained), Command(test)]
        if val is not None:
            written = overrides['test_evaluator']['outfile_prefix']
            commands.append(Command(self.part('precision', val.annotations, written, '--out', out)))
        return Stage(
            name, task, title, tuple(commands), (out,), folder, (pretrain,), content, tuning.iterations, removes='*.pth'
        )

    def detection_data(self, task: str) -> tuple[Scenes, Scenes, list[str], bool]:
        """Train scenes, val scenes (as many as are tested), classes, and whether there are masks."""
        count = getattr(self.budget, task).val_images
        if task == 'person':
            return self.data.person_train, self.limited(task, self.data.person_val, count), ['person'], False
        sets = self.data.layout.detection
        return sets.train, self.limited(task, sets.val, count), list(sets.classes), True

    def _probe(self, config: Path, weights: Path, out: Path) -> tuple[str, ...]:
        return self.part(
            'probe', config, weights, self.data.labelled, '--count', *self.budget.probe_images, '--out', out
        )

    def _topk(self, config: Path, weights: Path, out: Path) -> tuple[str, ...]:
        return self.tool(
            'analysis/topk_accuracy.py', config, weights, '--crops', self.index_file('val'),
            '--count', self.budget.topk_images, '--without-segments', '--name', 'model', '--out', out.parent,
        )  # fmt: skip

    def _dense(self, weights: Path, out: Path, ratio: float | None) -> tuple[str, ...]:
        dense, segmentation = self.budget.dense, self.data.layout.segmentation
        ade = segmentation.train_images.parents[1]
        attention = () if ratio is None else ('--topk-ratio', ratio)
        return self.part(
            'dense', weights, '--arch', json.dumps(self.budget.arch), '--img-size', self.budget.crop,
            '--size', *dense.size, '--count', dense.train_images, dense.val_images,
            '--set', 'camvid', self.data.camvid, len(self.data.camvid_classes()), CAMVID_UNLABELLED,
            '--set', 'ade', ade, len(segmentation.classes), 0, *attention, '--out', out,
        )  # fmt: skip

    def limited(self, task: str, scenes: Scenes, count: int) -> Scenes:
        """The val scenes, or some of them, evenly spaced, where there are more than are tested."""
        from mixedae.analysis import spaced

        content = json.loads(scenes.annotations.read_text(encoding='utf-8'))
        images = content['images']
        if len(images) <= count:
            return scenes
        kept = [images[i] for i in spaced(count, len(images))]
        ids = {image['id'] for image in kept}
        part = {**content, 'images': kept, 'annotations': [a for a in content['annotations'] if a['image_id'] in ids]}
        path = self.work_dir / 'data' / f'{task}_val_{count}.json'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(part), encoding='utf-8')
        return Scenes(path, scenes.images)

    def tool(self, name: str, *arguments: object) -> tuple[str, ...]:
        return (sys.executable, str(self.root / 'tools' / name), *map(str, arguments))

    def part(self, name: str, *arguments: object) -> tuple[str, ...]:
        return (sys.executable, '-m', f'tools.reproduce_parts.{name}', *map(str, arguments))

    def config(
        self, name: str, base: Path, overrides: dict[str, Any], title: str, *commands: tuple[str, ...]
    ) -> tuple[Path, str]:
        """Writes a config; returns its path and, as text, what it resolves to of that which decides the result."""
        from mixedae.engine.configs import read_config

        lines = [shlex.join(relative(command, self.root)) for command in commands]
        path = self.work_dir / 'configs' / f'{name}.py'
        write_config(path, base, overrides, f'{title[0].upper()}{title[1:]}.', lines, 'tools/reproduce.py')
        resolved = read_config(str(path)).to_dict()
        decides = {key: resolved.get(key) for key in DECIDES}
        return path, json.dumps(decides, sort_keys=True, default=str)
