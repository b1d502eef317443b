"""Single-centric-object crops of scenes, as a dataset for MMEngine (or any PyTorch loader)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from mixedae.registry import DATASETS

from .index import CropIndex, as_size
from .pixels import crop, open_image
from .scenes import missing_files, some
from .windows import draw_window

Key = int | tuple[int, int]


def split_key(key: Key, length: int) -> tuple[int, int]:
    """(index, epoch) of a key that is an index (epoch 0) or already both.

    Raises:
        IndexError: the index is outside 0..length-1 (so that plain iteration ends).
    """
    index, epoch = key if isinstance(key, tuple) else (key, 0)
    if not 0 <= index < length:
        raise IndexError(f'index {index} is outside 0..{length - 1}')
    return int(index), int(epoch)


def check_headers(
    paths: Sequence[str], sizes: Sequence[tuple[int, int] | None], progress: Callable[[int, int], None] | None = None
) -> None:
    """Read the header of every file.

    Raises:
        ValueError: files that cannot be read or have another size than annotated: how many, the first of them and why.
    """
    broken: list[str] = []
    for k, (path, size) in enumerate(zip(paths, sizes)):
        try:
            open_image(path, size).image.close()
        except RuntimeError as error:
            broken.append(str(error))
        if progress is not None:
            progress(k + 1, len(paths))
    if broken:
        raise ValueError(f'{len(broken)} of {len(paths)} images cannot be used; the first: {broken[0]}')


@DATASETS.register_module()
class ObjectCropDataset(Dataset):
    """Every object of a crop index, each time in another window that obeys the index's rules.

    A sample is a function of (seed, epoch, index) alone: workers, ranks and order do not matter. The window is drawn in
    scene pixels and resized straight from there; where 64 tries find no window with few enough others, the index's own
    window is taken. So every sample obeys the rules. Class labels are not part of a sample.

    Args:
        index_file: file written by tools/build_crops.py.
        size: (height, width) of the crops or one number for both; the index's own size if None. It may be smaller than
            that, not larger or of another aspect, because then the rules might not hold.
        seed: seed of windows and flips, at least 0.
        flip_prob: probability of a horizontal flip.
        image_root: replaces the folder of the images when the data moved (see ``CropIndex.image_folders``).

    Attributes:
        index: the :class:`CropIndex`.
        size: (height, width).
        scene_ids: (len,) int64 scene of each crop; the group sampler mixes different scenes only.

    Raises:
        FileNotFoundError: the index, an image folder or image files are missing.
        ValueError: an index that cannot be read, or a size that it was not built for.
    """

    def __init__(
        self,
        index_file: str | os.PathLike[str],
        size: int | Sequence[int] | None = None,
        seed: int = 0,
        flip_prob: float = 0.5,
        image_root: str | os.PathLike[str] | None = None,
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
        self._used = np.unique(self.scene_ids)
        for number, folder in enumerate(self.folders):
            names = [name.decode() for name in self.index.names[self._used[self.index.folder_of[self._used] == number]]]
            missing = missing_files(folder, names)
            if missing:
                raise FileNotFoundError(
                    f'{len(missing)} of {len(names)} images of crop index {index_file} '
                    f'are not in {folder} ({some(missing)}): '
                    'give image_root if the data moved, or build the index anew.'
                )

    def __len__(self) -> int:
        return len(self.index)

    def path(self, scene: int) -> str:
        """Path of a scene's image."""
        return os.path.join(self.folders[self.index.folder_of[scene]], self.index.names[scene].decode())

    def draw(self, key: Key) -> tuple[int, np.ndarray, bool]:
        """(crop number, (4,) float32 window, flip?) of a key, without reading pixels."""
        number, epoch = split_key(key, len(self))
        index = self.index
        rng = np.random.default_rng((self.seed, epoch, number))
        width, height = index.sizes[index.target_scenes[number]]
        box = index.boxes[index.targets[number]]
        window = draw_window(box, index.others(number), (int(width), int(height)), index.out_size, index.rules, rng)
        flip = bool(rng.random() < self.flip_prob)
        return number, index.windows[number] if window is None else window, flip

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """One sample.

        Args:
            key: index (epoch 0), or (index, epoch) as the group sampler gives it.

        Returns:
            dict(inputs=uint8 tensor (3, H, W) RGB, data_samples=dict(scene=int, object=int row in ``index.boxes``,
            window=float32 tensor (4,) xyxy in scene pixels, before the flip)).

        Raises:
            RuntimeError: the image does not decode or has another size than annotated; it names the file.
        """
        number, window, flip = self.draw(key)
        scene = int(self.index.target_scenes[number])
        width, height = self.index.sizes[scene]
        pixels = crop(open_image(self.path(scene), (int(width), int(height))), window, self.size, flip)
        sample = dict(
            scene=scene,
            object=int(self.index.targets[number]),
            window=torch.from_numpy(np.array(window, dtype=np.float32)),
        )
        return dict(inputs=torch.from_numpy(pixels), data_samples=sample)

    def preflight(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Read the header of every image before hours are spent: it must be an image of the annotated size.

        Raises:
            ValueError: images that are not.
        """
        paths = [self.path(scene) for scene in self._used]
        check_headers(paths, [(int(w), int(h)) for w, h in self.index.sizes[self._used]], progress)
