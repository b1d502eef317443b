"""What a run was made with: machine, versions, time; and the figures that tools/test.py wrote."""

from __future__ import annotations

import importlib
import json
import platform
from datetime import datetime, timezone
from pathlib import Path

MODULES = ('mixedae', 'torch', 'torchvision', 'timm', 'mmengine', 'mmcv', 'mmdet', 'mmseg')


def hardware(amp: bool) -> dict[str, object]:
    """Device, cores that this process may use, and precision."""
    import torch

    from object_aware.parallel import usable_cores

    cores = usable_cores()
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else f'{cpu_name()}, {cores} cores'
    precision = 'bfloat16 (AMP) in pre-training, float32 in fine-tuning' if amp else 'float32'
    return {'device': device, 'cpu_cores': cores, 'precision': precision}


def cpu_name() -> str:
    """The processor's name as the system gives it."""
    info = Path('/proc/cpuinfo')
    if info.is_file():
        for line in info.read_text(encoding='utf-8', errors='replace').splitlines():
            if line.lower().startswith('model name'):
                return line.split(':', 1)[1].strip()
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Versions of Python and of the modules that were used."""
    found = {'python': platform.python_version()}
    for name in MODULES:
        try:
            found[name] = str(importlib.import_module(name).__version__)
        except ImportError:
            continue
    return found


def test_figures(file: Path) -> dict[str, float]:
    """Metrics of tools/test.py without the prefix of their metric class: `coco/bbox_mAP` -> `bbox_mAP`."""
    content = json.loads(file.read_text(encoding='utf-8'))
    return {name.rsplit('/', 1)[-1]: float(value) for name, value in content.items()}


def now() -> str:
    """The time as it stands in the report, UTC."""
    return datetime.now(timezone.utc).strftime('%Y-%m-%d %H:%M UTC')
