"""The stages of the demo, each with the command that a user would type."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from tools.demo_parts.budgets import Budget
from tools.demo_parts.configs import DEMO_CONFIGS, detection_config, pretrain_config, segmentation_config
from tools.demo_parts.layout import Layout, Scenes
from tools.demo_parts.stages import Stage
from tools.stage_parts.commands import relative
from tools.stage_parts.configs import write_config

STARTS = {'pretrained': 'from the pre-trained checkpoint', 'scratch': 'from scratch'}
TITLES = {'detection': 'detection (Mask R-CNN)', 'segmentation': 'segmentation (UPerNet)'}


@dataclass(frozen=True)
class Plan:
    """All that the stages need to know."""

    root: Path  # of the repository
    work_dir: Path
    layout: Layout
    budget: Budget
    budget_name: str
    seed: int
    amp: bool
    data_name: str

    @property
    def index_file(self) -> Path:
        return self.work_dir / 'crops.safetensors'

    @property
    def pretrain_checkpoint(self) -> Path:
        return self.work_dir / 'pretrain' / f'iter_{self.budget.pretrain_iterations}.pth'

    def tasks(self) -> list[str]:
        """The fine-tuning tasks that the data allows."""
        return [task for task in ('detection', 'segmentation') if getattr(self.layout, task)]

    def stages(self) -> list[Stage]:
        """Crops, pre-training, four fine-tunings, report."""
        crops, pretrain = self._crops(), self._pretrain()
        runs = [self._fine_tune(task, start) for task in self.tasks() for start in STARTS]
        return [crops, pretrain, *runs, self._report([crops, pretrain, *runs])]

    def tool(self, name: str, *arguments: object) -> tuple[str, ...]:
        return (sys.executable, str(self.root / 'tools' / name), *map(str, arguments))

    def _crops(self) -> Stage:
        arguments: list[object] = []
        for scenes in self.layout.pretrain:
            arguments += ['--scenes', scenes.annotations, scenes.images]
        return Stage(
            name='crops',
            title='Build the crop index: one window around every object that can be alone in it',
            commands=(self.tool('build_crops.py', *arguments, '--size', self.budget.crop, '--out', self.index_file),),
            inputs=tuple(path for scenes in self.layout.pretrain for path in (scenes.annotations, scenes.images)),
            outputs=(self.index_file,),
        )

    def _pretrain(self) -> Stage:
        folder, config = self.work_dir / 'pretrain', self.work_dir / 'configs' / 'pretrain.py'
        command = self._train(config, folder)
        if self.amp:  # pre-training alone: the compiled ops of the detector are not all there in bfloat16
            command += ('--amp', '--cfg-options', 'optim_wrapper.dtype=bfloat16')
        write_config(
            config,
            DEMO_CONFIGS / 'mixedae_vit-tiny-p16_crops-128.py',
            pretrain_config(self.index_file, self.budget, self.seed),
            'Object-aware pre-training with MixedAE.',
            self._lines(command),
        )
        return Stage(
            name='pretrain',
            title='Pre-train on the crops (MixedAE)',
            commands=(command,),
            configs=(config,),
            outputs=(self.pretrain_checkpoint,),
            clears=(folder,),
            after=('crops',),
            iterations=self.budget.pretrain_iterations,
        )

    def _fine_tune(self, task: str, start: str) -> Stage:
        name = f'{task}_{start}'
        folder, config = self.work_dir / name, self.work_dir / 'configs' / f'{name}.py'
        checkpoint = self.pretrain_checkpoint if start == 'pretrained' else None
        setting = getattr(self.budget, task)
        trained = folder / f'iter_{setting.iterations}.pth'
        metrics = folder / 'metrics.json'
        train = self._train(config, folder)
        test = self.tool('test.py', config, trained, '--work-dir', folder / 'test', '--out', metrics)
        if task == 'detection':
            base = 'mixedae_vit-tiny-p16_mask-rcnn_coco-format.py'
            overrides = detection_config(
                self.layout.detection, self.detection_val(), self.budget, self.seed, checkpoint
            )
            inputs = (self.layout.detection.train.annotations, self.layout.detection.val.annotations)
        else:
            base = 'mixedae_vit-tiny-p16_upernet_label-maps.py'
            overrides = segmentation_config(self.layout.segmentation, self.budget, self.seed, checkpoint)
            part = self.layout.segmentation
            inputs = (part.train_images, part.train_labels, part.val_images, part.val_labels)
        title = f'{TITLES[task].capitalize()} {STARTS[start]}'
        write_config(config, DEMO_CONFIGS / base, overrides, f'{title}.', self._lines(train, test))
        return Stage(
            name=name,
            title=f'Fine-tune {TITLES[task]} {STARTS[start]}',
            commands=(train, test),
            configs=(config,),
            inputs=inputs,
            outputs=(trained, metrics),
            clears=(folder,),
            after=('pretrain',) if checkpoint else (),
            iterations=setting.iterations,
        )

    def _report(self, before: list[Stage]) -> Stage:
        return Stage(
            name='report',
            title='Draw the pictures and write the report',
            commands=(self.tool('demo.py', '--work-dir', self.work_dir, '--report-only'),),
            inputs=(self.work_dir / 'plan.json',),
            outputs=(self.work_dir / 'report.html', self.work_dir / 'metrics.json'),
            after=tuple(stage.name for stage in before),
        )

    def detection_val(self) -> Scenes:
        """The val scenes, or a part of them, evenly spaced, where there are more than the budget tests."""
        val = self.layout.detection.val
        limit = self.budget.detection.val_images
        content = json.loads(val.annotations.read_text(encoding='utf-8'))
        images = content['images']
        if len(images) <= limit:
            return val
        kept = [images[i * len(images) // limit] for i in range(limit)]
        ids = {image['id'] for image in kept}
        part = {**content, 'images': kept, 'annotations': [a for a in content['annotations'] if a['image_id'] in ids]}
        path = self.work_dir / 'data' / f'detection_val_{limit}.json'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(part), encoding='utf-8')
        return Scenes(path, val.images)

    def _train(self, config: Path, folder: Path) -> tuple[str, ...]:
        return self.tool('train.py', config, '--work-dir', folder)

    def _lines(self, *commands: tuple[str, ...]) -> list[str]:
        return [shlex.join(relative(command, self.root)) for command in commands]
