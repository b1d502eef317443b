"""Packages of the wheel; everything else about it stands in setup.cfg.

`tools/` and `mmcfg/` lie at the root, where a checkout is used. In the wheel they become `mixedae_tools` and
`mixedae_mmcfg`: a top-level module called `tools` would meet other people's, and inside `mixedae` the doctor could not
start where torch is missing, because `import mixedae` needs it.
"""

import shutil
from pathlib import Path

from setuptools import find_namespace_packages, find_packages, setup
from setuptools.command.build_py import build_py

ROOT_FOLDERS = {'mixedae_tools': 'tools', 'mixedae_mmcfg': 'mmcfg'}


def wheel_packages():
    packages = find_packages(include=['mixedae', 'mixedae.*', 'object_aware', 'object_aware.*'])
    for name, folder in ROOT_FOLDERS.items():
        inner = find_namespace_packages(folder, exclude=['__pycache__', '*.__pycache__'])
        packages += [name, *(f'{name}.{package}' for package in inner)]
    return packages


class BuildWithMim(build_py):
    """Adds the layout that OpenMIM looks for, `mixedae/.mim/{configs,tools}`, as mmdet's wheel has it."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        mim = Path(self.build_lib) / 'mixedae' / '.mim'
        for name, folder in (('configs', 'mmcfg'), ('tools', 'tools')):
            shutil.copytree(folder, mim / name, ignore=shutil.ignore_patterns('__pycache__'), dirs_exist_ok=True)
        shutil.copy('model-index.yml', mim)
        for file in (mim / 'model-index.yml', *mim.glob('configs/*/metafile.yml')):  # mmcfg/ is configs/ there
            file.write_text(file.read_text(encoding='utf-8').replace('mmcfg/', 'configs/'), encoding='utf-8')


setup(packages=wheel_packages(), package_dir=ROOT_FOLDERS, cmdclass={'build_py': BuildWithMim})
