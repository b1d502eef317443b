"""tools/doctor.py on faked modules: every verdict, the broken ops above all."""

import json
import sys

import pytest

from tools import doctor
from tools.doctor import PARTS, Advice, Check

OWN = Advice('/repo/.venv/bin/python', checkout_venv=True)
OTHER = Advice('/conda/bin/python', checkout_venv=False)
STOCK = Advice('/conda/bin/python', checkout_venv=False, stock=True)
REPAIR = 'make env ENV_FLAGS=--force'

# As much of torch as the trial of the ops calls.
FAKE_TORCH = """
__version__ = '2.11.0'
class Tensor:
    def __init__(self, value): self.value = value
    def to(self, device): return self
    def tolist(self): return self.value
def tensor(value): return Tensor(value)
def ones(*shape): return Tensor(None)
class cuda:
    @staticmethod
    def is_available(): return False
"""
GOOD_OPS = """
import torch
def nms(boxes, scores, threshold): return None, torch.tensor([0, 2])
def roi_align(image, box, size): return torch.tensor([[[[1., 1.], [1., 1.]]]])
"""


def part(name):
    return next(part for part in PARTS if part.name == name)


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """modules({'mmcv/ops.py': source}) puts fakes before whatever is installed."""

    def write(files):
        for name, source in files.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(source)
        monkeypatch.setenv('PYTHONPATH', str(tmp_path))

    return write


def verdict(name, advice=OWN, absent=()):
    return doctor.judge(part(name), doctor.try_part(sys.executable, part(name)), advice, set(absent))


def with_ops(source):
    return {'torch.py': FAKE_TORCH, 'mmcv/__init__.py': "__version__ = '2.3.6'", 'mmcv/ops.py': source}


# --- the ops --------------------------------------------------------------------------------------------------------


def test_ops__sound(modules):
    modules(with_ops('print("noise at import")\n' + GOOD_OPS))
    check = verdict('mmcv ops')
    assert (check.status, check.version, check.detail) == ('ok', '2.3.6', 'nms and roi_align ran on cpu')
    assert check.mend == ''


@pytest.mark.parametrize(
    'source, words',
    [
        (
            "raise ImportError('/x/mmcv/_ext.so: undefined symbol: _ZN3c105ErrorC2E')",
            'compiled for another torch than the one installed',
        ),
        (
            "raise ImportError('libcudart.so.12: cannot open shared object file: No such file or directory')",
            'compiled for another torch or CUDA',
        ),
        ("raise ModuleNotFoundError(\"No module named 'mmcv._ext'\", name='mmcv._ext')", 'without its compiled ops'),
        ('import os, signal; os.kill(os.getpid(), signal.SIGSEGV)', 'ended by signal 11'),
        (
            GOOD_OPS + "\ndef nms(*_): raise RuntimeError('nms: implementation for device cuda:0 not found.')",
            'without GPU support',
        ),
        (GOOD_OPS.replace('[0, 2]', '[0, 1, 2]'), 'works, but wrongly: nms kept [0, 1, 2] on cpu'),
    ],
)
def test_ops__broken_is_explained(modules, source, words):
    modules(with_ops(source))
    check = verdict('mmcv ops')
    assert check.status == 'wrong'
    assert words in check.detail
    assert check.mend == REPAIR


def test_ops__mend_elsewhere_compiles_the_distribution_in_use(modules):
    modules(with_ops("raise ImportError('undefined symbol: _Z')"))
    mend = verdict('mmcv ops', OTHER).mend
    assert mend.startswith('MMCV_WITH_OPS=1 /conda/bin/python -m pip install')
    assert "--no-binary onedl-mmcv --no-deps --force-reinstall 'onedl-mmcv>=" in mend
    assert "--no-binary mmcv --no-deps --force-reinstall 'mmcv>=" in verdict('mmcv ops', STOCK).mend
    missing = doctor.judge(part('mmcv'), {'missing': True, 'installed': []}, OTHER, set())
    assert missing.mend.endswith("--no-binary onedl-mmcv 'onedl-mmcv>=2.3,<2.4'")  # with what it depends on


# --- other parts ----------------------------------------------------------------------------------------------------


def test_part__missing(modules):
    absent = doctor.Part('ghost', 'ghost_of_a_module', ('detection',), (1,), (), 'ghost>=1', 'import ghost_of_a_module')
    found = doctor.try_part(sys.executable, absent)
    check = doctor.judge(absent, found, OTHER, set())
    assert (check.status, check.detail) == ('missing', 'not installed')
    assert check.mend == "/conda/bin/python -m pip install 'ghost>=1'"


@pytest.mark.parametrize('version, status', [('0.9.15', 'wrong'), ('0.9.16', 'ok'), ('1.0.31.dev0', 'ok')])
def test_part__version_too_old(modules, version, status):
    modules({'timm.py': f'__version__ = {version!r}'})
    check = verdict('timm')
    assert (check.status, check.version) == (status, version)
    assert ('too old, 0.9.16' in check.detail) == (status == 'wrong')


def test_part__version_too_new(modules):
    modules({'mmengine/__init__.py': "__version__ = '1.2.0'", 'mmengine/runner.py': ''})
    check = verdict('mmengine', OTHER)
    assert check.status == 'wrong'
    assert 'too new, a version below 1 is needed' in check.detail
    assert "'onedl-mmengine>=0.10.8,<0.11'" in check.mend


def test_part__missing_helper_module_is_named_by_its_distribution(modules):
    modules({'mmdet/__init__.py': '', 'mmdet/apis.py': "raise ModuleNotFoundError('No', name='imgaug.augmenters')"})
    check = verdict('mmdet', OTHER)
    assert check.status == 'wrong'
    assert 'needs the module imgaug' in check.detail
    assert check.mend == "/conda/bin/python -m pip install 'imaug'"


def test_part__waits_for_one_that_is_missing(modules):
    modules({'timm.py': "raise ModuleNotFoundError('No module named torch', name='torch')"})
    check = verdict('timm', absent={'torch'})
    assert (check.status, check.detail, check.mend) == ('wrong', 'waits for torch', '')


def test_part__desktop_opencv(modules):
    modules({'mmcv/__init__.py': "raise ImportError('libGL.so.1: cannot open shared object file')"})
    check = verdict('mmcv', OTHER)
    assert 'OpenCV needs a library' in check.detail
    assert 'opencv-python-headless' in check.mend


def test_part__exit_at_import_is_survived(modules):
    modules({'timm.py': 'raise SystemExit(0)'})
    check = verdict('timm')
    assert check.status == 'wrong'
    assert 'SystemExit' in check.detail


def test_part__two_distributions_of_one_module(modules):
    files = {'mmengine/__init__.py': "__version__ = '0.10.7'", 'mmengine/runner.py': ''}
    for name in ('mmengine', 'onedl_mmengine'):
        metadata = f'Metadata-Version: 2.1\nName: {name.replace("_", "-")}\nVersion: 0.10.7\n'
        files[f'{name}-0.10.7.dist-info/METADATA'] = metadata
    modules(files)
    check = verdict('mmengine', OTHER)
    assert check.status == 'wrong'
    assert check.detail == 'provided by two distributions at once: onedl-mmengine, mmengine'
    assert 'pip uninstall -y onedl-mmengine mmengine' in check.mend


def test_python__too_old():
    assert doctor.judge_python((3, 8, 10)).status == 'wrong'
    assert doctor.judge_python((3, 11, 7)).status == 'ok'


@pytest.mark.parametrize('disk, memory, status', [(100, 24, 'ok'), (2, 24, 'note'), (100, 4, 'note'), (100, 0, 'ok')])
def test_machine__little_of_it(disk, memory, status):
    assert doctor.judge_machine(disk, memory, 2).status == status


@pytest.mark.parametrize('text, version', [('2.11.0+cu130', (2, 11, 0)), ('2.0.0rc4', (2, 0, 0)), ('', ())])
def test_parse_version__cases(text, version):
    assert doctor.parse_version(text) == version


# --- the whole ------------------------------------------------------------------------------------------------------


def checks_with(**statuses):
    return [Check(p.name, statuses.get(p.name.replace(' ', '_'), 'ok'), '1', '', '', p.needed_for) for p in PARTS]


def test_what_it_can__ops_stop_transfer_alone():
    can = doctor.what_it_can(checks_with(mmcv_ops='wrong'))
    assert can == {'pre-training': [], 'detection': ['mmcv ops'], 'segmentation': ['mmcv ops']}
    assert doctor.what_it_can(checks_with(mmdet='missing'))['segmentation'] == []
    assert all(doctor.what_it_can(checks_with(torch='missing')).values())


@pytest.mark.parametrize(
    'arguments, statuses, status',
    [
        ([], {}, 0),
        ([], {'mmseg': 'missing'}, 1),
        (['--need', 'pre-training'], {'mmseg': 'missing'}, 0),
        (['--need', 'pre-training', '--need', 'segmentation'], {'mmseg': 'missing'}, 1),
    ],
)
def test_main__exit_status(monkeypatch, capsys, arguments, statuses, status):
    monkeypatch.setattr(doctor, 'examine', lambda python: iter(checks_with(**statuses)))
    assert doctor.main(['--json', *arguments]) == status
    told = json.loads(capsys.readouterr().out)
    assert told['sound'] == (status == 0)
    assert told['can']['segmentation'] == (not statuses)
    assert doctor.main(arguments) == status
    assert 'pre-training yes' in capsys.readouterr().out


def test_main__python_that_does_not_start(capsys):
    assert doctor.main(['--python', '/nowhere/python']) == 2
    assert capsys.readouterr().err.startswith('error: /nowhere/python is not a Python that starts')
