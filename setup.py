"""Packages of the wheel; everything else about it stands in setup.cfg.

`tools/` and `mmcfg/` lie at the root, where a checkout is used. In the wheel they become `mixedae_tools` and
`mixedae_mmcfg`: a top-level module called `tools` would meet other people's, and inside `mixedae` the doctor could not
start where torch is missing, because `import mixedae` needs it.
"""

from setuptools import find_namespace_packages, find_packages, setup

ROOT_FOLDERS = {'mixedae_tools': 'tools', 'mixedae_mmcfg': 'mmcfg'}


def wheel_packages():
    packages = find_packages(include=['mixedae', 'mixedae.*', 'object_aware', 'object_aware.*'])
    for name, folder in ROOT_FOLDERS.items():
        inner = find_namespace_packages(folder, exclude=['__pycache__', '*.__pycache__'])
        packages += [name, *(f'{name}.{package}' for package in inner)]
    return packages


setup(packages=wheel_packages(), package_dir=ROOT_FOLDERS)
