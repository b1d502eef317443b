"""Single-centric-object crops of scenes, as a dataset for MMEngine (or any PyTorch loader)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from mixedae.registry import DATASETS

from .image_files import missing_files
from .index import CropIndex, as_size
from .messages import some
from .pixels import ImageError, Location, OpenImage, check_file, crop, load_kernels, open_image
from .quarantine import Quarantine, TooManyBadFiles, default_limit, judge
from .scene_cache import SceneCache

Key = int | tuple[int, ...]
"""Index (epoch 0), (index, epoch), or (index, epoch, spare, ...) as the group sampler gives it."""


def split_key(key: Key, length: int) -> tuple[int, int]:
    """(index, epoch) of a key.

    Raises:
        IndexError: the index is outside 0..length-1 (so that plain iteration ends).
    """
    index, epoch = key[:2] if isinstance(key, tuple) else (key, 0)
    if not 0 <= index < length:
        raise IndexError(f'index {index} is outside 0..{length - 1}')
    return int(index), int(epoch)


def check_files(
    locations: Sequence[str | Location],
    sizes: Sequence[tuple[int, int] | None],
    quarantine: Quarantine,
    progress: Callable[[int, int], None] | None = None,
    thorough: bool = False,
) -> None:
    """Look at every image file before training: its header and its end, or thoroughly at all of it.

    Raises:
        ValueError: more files than the quarantine allows cannot be read or have another size than annotated.
    """
    broken: list[ImageError] = []
    for k, (location, size) in enumerate(zip(locations, sizes)):
        try:
            check_file(location, size, thorough)
        except ImageError as error:
            broken.append(error)
        if progress is not None:
            progress(k + 1, len(locations))
    judge(broken, len(locations), quarantine)


def sample_or_spare(
    load: Callable[[int, int], dict[str, Any]], key: Key, length: int, quarantine: Quarantine
) -> dict[str, Any]:
    """The sample of a key, or that of the first spare in it whose image is good.

    The sampler chose the spares so that the group stays one of different scenes whichever are taken. The bad file is
    listed. A sample is still a function of its key, and of which files are bad.

    Args:
        load: (index, epoch) → sample.
        key: what the sampler gave.
        length: of the dataset.
        quarantine: where bad files are listed.

    Raises:
        ImageError: the image is bad and the key has no spare that is good.
        TooManyBadFiles: more bad files than the quarantine allows.
    """
    index, epoch = split_key(key, length)
    try:
        return load(index, epoch)
    except ImageError as error:
        failure = error
    bad = [failure]
    for spare in key[2:] if isinstance(key, tuple) else ():
        if spare < 0:
            continue
        try:
            sample = load(int(spare), epoch)
        except ImageError as error:
            bad.append(error)
            continue
        quarantine.add(failure, epoch, index, int(spare))
        for error in bad[1:]:  # of spares: nothing is given in their place
            quarantine.add(error, epoch, index)
        return sample
    for error in bad:
        quarantine.add(error, epoch, index)
    if isinstance(key, tuple) and len(key) > 2:
        raise TooManyBadFiles(f'No spare of sample {index} in epoch {epoch} can be used either. {failure}')
    raise failure


@DATASETS.register_module()
class ObjectCropDataset(Dataset):
    """Every object of a crop index, each time in another window that obeys the index's rules.

    A sample is a function of (seed, epoch, index) alone: workers, ranks and order do not matter. The window is drawn in
    scene pixels and resized straight from there; where 256 tries find no window with few enough others, the index's own
    window is taken. So every sample obeys the rules. Class labels are not part of a sample.

    Args:
        index_file: file written by tools/build_crops.py.
        size: (height, width) of the crops or one number for both; the index's own size if None. It may be smaller than
            that, not larger or of another aspect, because then the rules might not hold.
        seed: seed of windows and flips, at least 0.
        flip_prob: probability of a horizontal flip.
        image_root: replaces the folder of the images when the data moved (see ``CropIndex.image_folders``).
        quarantine_file: list of image files that turn out bad while training, see :mod:`object_aware.quarantine`.
        max_bad_files: how many different ones are borne; one in a hundred, at most 100, if None. Samples of them are
            replaced by the spares in their keys (``GroupSampler(spares=...)``).
        cache_gib: keep all scenes decoded in memory if they take no more GiB than this, 3 bytes for each pixel; 0
            decodes the window of each sample from the file. In a config ``train_dataloader.dataset.cache_gib=2``. The
            loader's forked processes share the memory; each training process has its own. The samples are the same.

    Attributes:
        index: the :class:`CropIndex`.
        size: (height, width).
        scene_ids: (len,) int64 scene of each crop; the group sampler mixes different scenes only.
        quarantine: the :class:`Quarantine`.

    Raises:
        FileNotFoundError: the index, an image folder or image files are missing.
        ValueError: an index that cannot be read, a size that it was not built for, or scenes that take more memory
            than ``cache_gib``.
    """

    def __init__(
        self,
        index_file: str | os.PathLike[str],
        size: int | Sequence[int] | None = None,
        seed: int = 0,
        flip_prob: float = 0.5,
        image_root: str | os.PathLike[str] | None = None,
        quarantine_file: str | os.PathLike[str] | None = None,
        max_bad_files: int | None = None,
        cache_gib: float = 0,
    ) -> None:
        self.index = CropIndex.load(index_file)
        built = self.index.out_size
        self.size = built if size is None else as_size(size)
        if self.size[0] > built[0] or self.size[0] * built[1] != self.size[1] * built[0]:
            raise ValueError(
                f'Crop index {index_file} was built for crops of {built[0]}x{built[1]} (height x width), '
                f'so it cannot promise its rules for {self.size[0]}x{self.size[1]}: build it anew with that size.'
            )
        if not 0 <= flip_prob <= 1:
            raise ValueError(f'flip_prob must be in 0..1, not {flip_prob}.')
        self.seed = int(seed)
        self.flip_prob = float(flip_prob)
        self.scene_ids = self.index.target_scenes
        self.folders = [str(folder) for folder in self.index.image_folders(image_root)]
        self._used = self.index.used_scenes
        limit = default_limit(len(self._used)) if max_bad_files is None else max_bad_files
        self.quarantine = Quarantine(quarantine_file, limit)
        load_kernels()
        for number, folder in enumerate(self.folders):
            if os.path.isfile(folder):  # a tar file: the index says where in it the images are
                continue
            here = self._used[self.index.folder_of[self._used] == number]
            names = [self.index.names[scene].decode() for scene in here]
            missing = missing_files(folder, names)
            if missing:
                raise FileNotFoundError(
                    f'{len(missing)} of {len(names)} images of crop index {index_file} '
                    f'are not in {folder} ({some(missing)}): '
                    'give image_root if the data moved, or build the index anew.'
                )
        self.cache: SceneCache | None = None
        if cache_gib:
            sizes = zip(self._used.tolist(), map(tuple, self.index.sizes[self._used].tolist()))
            self.cache = SceneCache(self._open, sizes, self.size, cache_gib)

    def __len__(self) -> int:
        return len(self.index)

    def __getstate__(self) -> dict[str, Any]:  # for worker processes that are spawned: nothing of the index is copied
        return {name: value for name, value in vars(self).items() if name not in ('scene_ids', '_used')}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.scene_ids, self._used = self.index.target_scenes, self.index.used_scenes

    def location(self, scene: int) -> Location:
        """Where a scene's image file is: (path, offset, size), see ``CropIndex.image_bytes_location``."""
        return self.index.image_bytes_location(scene, self.folders)

    def path(self, scene: int) -> str:
        """Path of a scene's image, or of the tar file that holds it."""
        return self.location(scene)[0]

    def draw(self, key: Key) -> tuple[int, np.ndarray, bool]:
        """(crop number, (4,) float32 window, flip?) of a key, without reading pixels."""
        number, epoch = split_key(key, len(self))
        rng = np.random.default_rng((self.seed, epoch, number))
        window = self.index.draw(number, rng)
        flip = bool(rng.random() < self.flip_prob)
        return number, self.index.windows[number] if window is None else window, flip

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """One sample.

        Args:
            key: index (epoch 0), or (index, epoch, spare, ...) as the group sampler gives it.

        Returns:
            dict(inputs=uint8 tensor (3, H, W) RGB, data_samples=dict(scene=int, object=int row in ``index.boxes``,
            window=float32 tensor (4,) xyxy in scene pixels, before the flip)).

        Raises:
            ImageError: the image does not decode or has another size than annotated, and the key has no spare; it
                names the file.
            TooManyBadFiles: more files than ``max_bad_files`` are bad.
        """
        return sample_or_spare(self._load, key, len(self), self.quarantine)

    def _load(self, index: int, epoch: int) -> dict[str, Any]:
        number, window, flip = self.draw((index, epoch))
        scene = int(self.index.target_scenes[number])
        held = self.cache.get(scene) if self.cache is not None else None
        pixels = crop(held or self._open(scene), window, self.size, flip)
        sample = dict(
            scene=scene,
            object=int(self.index.targets[number]),
            window=torch.from_numpy(np.array(window, dtype=np.float32)),
        )
        return dict(inputs=torch.from_numpy(pixels), data_samples=sample)

    def _open(self, scene: int) -> OpenImage:
        width, height = self.index.sizes[scene]
        return open_image(self.location(scene), (int(width), int(height)))

    def preflight(self, progress: Callable[[int, int], None] | None = None, thorough: bool = False) -> None:
        """Look at every image file before hours are spent: it must be an image of the annotated size.

        Args:
            progress: called with (files done, files in all).
            thorough: follow all coded pixels too, not only header and end (reads every byte).

        Raises:
            ValueError: more than ``max_bad_files`` are not; fewer are listed in the quarantine and logged.
                Or the index is damaged.
        """
        self.index.verify()
        locations = [self.location(scene) for scene in self._used]
        sizes = [(int(w), int(h)) for w, h in self.index.sizes[self._used]]
        check_files(locations, sizes, self.quarantine, progress, thorough)
