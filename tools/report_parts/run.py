"""Everything that a run's work directory says: scalars, settings, starts, pictures, checkpoints, incidents."""

from __future__ import annotations

import datetime
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config, ConfigDict

from mixedae.engine.configs import read_config
from mixedae.visualization import read_scalars
from mixedae.visualization.curves import Curve

STAMP = '%Y%m%d_%H%M%S'
WARNING = re.compile(r'^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d - \S+ - (?:WARNING|ERROR) - (.*)$')
PROBED = re.compile(r'Probe at iteration \d+:.* (\d+) images of (\d+) classes')
LEFT = re.compile(r'\beta: ((?:\d+ days?, )?\d+:\d\d:\d\d)')
NOISE = ('"FileClient" will be deprecated', 'Failed to search registry with scope', 'The prefix is not set in metric')
PICTURE = re.compile(r'^(.*)_(\d+)\.(?:png|jpg)$')


@dataclass(frozen=True)
class Start:
    """One start of the run: the folder named by its time.

    Attributes:
        name: the folder's name.
        steps: first and last iteration that it logged; None if it logged none.
        last_line: when its log was last written to.
        environment: content of environment.json; empty for runs without SafeRunner.
        warnings: different warnings and errors of its log, in order.
        time_left: as its last log line says.
    """

    name: str
    steps: tuple[int, int] | None
    last_line: datetime.datetime
    environment: dict[str, Any]
    warnings: list[str]
    time_left: str | None


@dataclass(frozen=True)
class Run:
    """A run as its work directory shows it.

    Attributes:
        folder: the work directory.
        starts: oldest first.
        config: the last start's; None if it left none that can be read.
        scalars: name -> (steps, values), of training.
        pictures: name -> [(iteration, file)], iterations ascending.
        checkpoints: (name, bytes, time) of each, newest last.
        quarantined: bad image files, from quarantine.jsonl.
        captures: steps that were kept because they were not finite.
        probed: images and classes of the kNN and the linear probe, if they were measured.
    """

    folder: Path
    starts: list[Start]
    config: Config | None
    scalars: dict[str, Curve]
    pictures: dict[str, list[tuple[int, Path]]] = field(default_factory=dict)
    checkpoints: list[tuple[str, int, datetime.datetime]] = field(default_factory=list)
    quarantined: list[str] = field(default_factory=list)
    captures: list[str] = field(default_factory=list)
    probed: tuple[int, int] | None = None

    @property
    def model(self) -> ConfigDict:
        """The config's model; empty without a config."""
        return self.config.model if self.config is not None else ConfigDict()

    @property
    def is_pretraining(self) -> bool:
        return str(self.model.get('type')).rpartition('.')[2] in ('MixedAE', 'MAE')

    @property
    def is_mixing(self) -> bool:
        return str(self.model.get('type')).rpartition('.')[2] == 'MixedAE'

    @property
    def done(self) -> int:
        """Iterations that the log has reached."""
        return max(int(self.scalars[name][0][-1]) for name in self.scalars if name in ('time', 'loss', 'lr'))

    @property
    def total(self) -> int | None:
        """Iterations of the whole run, as far as config and log tell."""
        train = (self.config.get('train_cfg') or {}) if self.config is not None else {}
        if train.get('max_iters'):
            return int(train['max_iters'])
        if train.get('max_epochs') and 'iters_per_epoch' in self.scalars:
            return int(train['max_epochs'] * self.scalars['iters_per_epoch'][1][-1])
        return None

    @property
    def finished(self) -> bool:
        """Is there a checkpoint of the last iteration? Without any: would the log's next line be beyond it?"""
        if self.total is None:
            return False
        saved = [re.match(r'^(iter|epoch)_(\d+)\.pth$', name) for name, _, _ in self.checkpoints]
        saved = [(match.group(1), int(match.group(2))) for match in saved if match]
        if saved:
            epochs = self.config.train_cfg.get('max_epochs')
            return any(number >= (self.total if unit == 'iter' else epochs or self.total) for unit, number in saved)
        interval = np.diff(self.scalars['time'][0]).max() if len(self.values('time')) > 1 else 1
        return self.done + interval > self.total

    @property
    def last(self) -> Start:
        """The last start that logged a step."""
        return [start for start in self.starts if start.steps][-1]

    @property
    def environment(self) -> dict[str, Any]:
        """Content of the newest environment.json; empty without one."""
        return next((start.environment for start in reversed(self.starts) if start.environment), {})

    def values(self, name: str) -> np.ndarray:
        """Values of a scalar; none if it was not logged."""
        return self.scalars[name][1] if name in self.scalars else np.zeros(0)


def read_run(folder: str | Path) -> Run:
    """Reads a work directory, or one start's folder in it.

    Raises:
        FileNotFoundError: no such folder, or it holds no run that has logged anything.
        ValueError: a log that is not one.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f'There is no folder {folder}: give the work directory of a run (--work-dir of it).')
    single = (folder / 'vis_data').is_dir()
    root, folders = (folder.parent, [folder]) if single else (folder, of_last_run(start_folders(folder)))
    if not folders:
        inside = sorted(str(path.relative_to(folder).parts[0]) for path in folder.glob('*/*/vis_data'))
        hint = f' Its runs seem to be in {", ".join(dict.fromkeys(inside))}.' if inside else ''
        raise FileNotFoundError(
            f'{folder} holds no run: a work directory has folders named by time (20261123_134724) with vis_data '
            f'inside.{hint}'
        )
    logged = [path for path in folders if (path / 'vis_data' / 'scalars.json').is_file()]
    scalars = read_scalars(root, [path.name for path in logged]) if logged else {}
    if not set(scalars) & {'time', 'loss', 'lr'}:
        raise FileNotFoundError(
            f'{folder} has not logged any training iteration yet: wait for the first line of its log.'
        )
    texts = [read_log(path) for path in folders]
    per_epoch = [int(n) for text in texts for n in re.findall(r'Epoch\(train\)\s+\[\d+\]\[\s*\d+/(\d+)\]', text)]
    if per_epoch:
        scalars['iters_per_epoch'] = (np.array([0]), np.array([float(per_epoch[-1])]))
    probed = [match for text in texts for match in PROBED.findall(text)]
    return Run(
        folder,
        [read_start(path, text) for path, text in zip(folders, texts)],
        newest_config(root, folders),
        scalars,
        find_pictures(folders),
        find_checkpoints(root),
        read_quarantine(root),
        sorted(path.name for path in root.glob('captures/*.pth')),
        tuple(map(int, probed[-1])) if probed else None,
    )


def start_folders(folder: Path) -> list[Path]:
    """Folders named by a time, oldest first."""
    found = []
    for path in sorted(folder.iterdir()):
        try:
            datetime.datetime.strptime(path.name, STAMP)
        except ValueError:
            continue
        if path.is_dir():
            found.append(path)
    return found


def of_last_run(folders: list[Path]) -> list[Path]:
    """The last start that began at the beginning, and those that went on from it: the others are of an earlier run."""
    for number in reversed(range(len(folders))):
        if read_environment(folders[number]).get('resumed_from', '') is None:
            return folders[number:]
    return folders


def read_environment(start: Path) -> dict[str, Any]:
    """``environment.json`` of a start; empty without one that reads."""
    try:
        return dict(json.loads((start / 'environment.json').read_text(encoding='utf-8')))
    except (OSError, ValueError, TypeError):
        return {}


def read_log(start: Path) -> str:
    """The text log of one start; empty without one."""
    return '\n'.join(file.read_text(encoding='utf-8', errors='replace') for file in sorted(start.glob('*.log')))


def read_start(start: Path, text: str) -> Start:
    scalars = start / 'vis_data' / 'scalars.json'
    steps = []
    if scalars.is_file():
        own = read_scalars(start.parent, [start.name])
        steps = [step for name in ('time', 'loss', 'lr') if name in own for step in own[name][0].tolist()]
    files = [file for file in (*start.glob('*.log'), scalars) if file.is_file()]
    written = max((file.stat().st_mtime for file in files), default=start.stat().st_mtime)
    lines = [match.group(1) for line in text.splitlines() if (match := WARNING.match(line))]
    warnings = [line for line in dict.fromkeys(lines) if line.strip() and not any(noise in line for noise in NOISE)]
    left = LEFT.findall(text)
    return Start(
        start.name,
        (min(steps), max(steps)) if steps else None,
        datetime.datetime.fromtimestamp(written),
        read_environment(start),
        warnings,
        left[-1] if left else None,
    )


def newest_config(root: Path, folders: list[Path]) -> Config | None:
    """The full config of the last start; None if there is none that can be read."""
    candidates = [path / name for path in reversed(folders) for name in ('config.py', 'vis_data/config.py')]
    for path in (*candidates, *sorted(root.glob('*.py'))):
        if path.is_file():
            try:
                return read_config(str(path))
            except (ValueError, ImportError, OSError):
                continue
    return None


def find_pictures(folders: list[Path]) -> dict[str, list[tuple[int, Path]]]:
    found: dict[str, dict[int, Path]] = {}
    for start in folders:
        for file in sorted((start / 'vis_data' / 'vis_image').glob('*')):
            match = PICTURE.match(file.name)
            if match:
                found.setdefault(match.group(1), {})[int(match.group(2))] = file
    return {name: sorted(files.items()) for name, files in found.items()}


def find_checkpoints(root: Path) -> list[tuple[str, int, datetime.datetime]]:
    files = [(file.stat().st_mtime, file) for file in root.glob('*.pth')]
    return [
        (file.name, file.stat().st_size, datetime.datetime.fromtimestamp(changed)) for changed, file in sorted(files)
    ]


def read_quarantine(root: Path) -> list[str]:
    """One line for each bad image file of the run."""
    file = root / 'quarantine.jsonl'
    if not file.is_file():
        return []
    return [line.strip() for line in file.read_text(encoding='utf-8', errors='replace').splitlines() if line.strip()]
