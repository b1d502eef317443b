"""``mixedae.PictureHook``: reconstructions and attention maps, while pre-training goes on."""

from __future__ import annotations

from mmengine.runner import Runner
from torch import Tensor

from mixedae.engine.probe_hook import training_images
from mixedae.engine.side_hook import SideHook
from mixedae.models.pretrainer import Pretrainer
from mixedae.registry import HOOKS


@HOOKS.register_module()
class PictureHook(SideHook):
    """Draws what the pretext task does with a few training images, always the same ones with the same masks.

    One sheet with a row for each image (source, mixing mask, mix, unmixed, reconstruction, attention of [CLS] and of
    one patch; see :func:`mixedae.analysis.pretraining_rows`) goes to every visualisation backend as ``pretraining``;
    MMEngine's local backend writes ``<work_dir>/<timestamp>/vis_data/vis_image/pretraining_<iteration>.png``. Rank 0
    works, the others wait; see :class:`mixedae.engine.side_hook.SideHook` for what else the hook leaves alone.

    Args:
        interval: epochs or iterations between two sheets.
        by_epoch: count epochs; False counts iterations.
        at_start: draw one of the untrained model too.
        images: how many, rounded up to whole groups.
    """

    def __init__(self, interval: int = 10, by_epoch: bool = True, at_start: bool = True, images: int = 4) -> None:
        super().__init__(interval, by_epoch, at_start)
        if images < 1:
            raise ValueError(f'images of PictureHook must be at least 1, not {images}.')
        self.images = images
        self._pixels: Tensor | None = None

    def look(self, runner: Runner, model: Pretrainer, step: int) -> None:
        # here, not above: analysis reads configs and data by the engine's own means
        from mixedae.analysis import pretraining_rows
        from mixedae.visualization import sheet

        group_size = getattr(model, 'group_size', 1)
        if self._pixels is None:
            count = -(-self.images // group_size) * group_size
            self._pixels = training_images(runner.train_dataloader.dataset, count, group_size)
        columns, rows = pretraining_rows(model, self._pixels)
        runner.visualizer.add_image('pretraining', sheet(rows, columns), step=step)
