"""What mmcv's RoIAlign reads from our maps, and that a detector on them learns."""

import pytest
import torch
from torch import nn

from mixedae.models import Float32Maps, MultiBlockPyramid, SimpleFeaturePyramid

pytest.importorskip('mmcv.ops', reason="needs mmcv's compiled ops")

SIDE = 96
NECKS = {
    'simple': lambda: SimpleFeaturePyramid(16, out_channels=8, num_outs=4, norm='LN'),
    'simple_bn': lambda: SimpleFeaturePyramid(16, out_channels=8, num_outs=4, norm='BN'),
    'multi_block': lambda: MultiBlockPyramid(16, norm='LN'),
    'channels_last': lambda: nn.Sequential(MultiBlockPyramid(16, norm='LN'), ChannelsLast(), Float32Maps()),
}


class ChannelsLast(nn.Module):
    """A neck of another's whose maps lie otherwise in memory, as cuDNN's convolutions may give them."""

    def forward(self, inputs):
        return [x.to(memory_format=torch.channels_last) for x in inputs]


@pytest.mark.parametrize('name', NECKS)
def test_roi_align__reads_the_maps(name):
    """RoIAlign takes memory for row-major without asking: torchvision's, which asks, finds the same values."""
    from mmcv.ops import roi_align
    from torchvision.ops import roi_align as reference

    torch.manual_seed(0)
    neck = NECKS[name]()
    inputs = [torch.randn(2, 16, 6, 6) for _ in range(4)]
    rois = torch.tensor([[0, 3.0, 5.0, 60.0, 40.0], [1, 10.0, 8.0, 90.0, 93.0], [1, 30.0, 30.0, 50.0, 55.0]])
    for stride, level in zip((4, 8, 16, 32), neck(inputs)):
        expected = reference(level, rois, 7, 1 / stride, sampling_ratio=2, aligned=True)
        torch.testing.assert_close(roi_align(level, rois, 7, 1 / stride, 2), expected, rtol=1e-4, atol=1e-5)


def scene(generator):
    """Noise with one to three bright rectangles: ``(3, 96, 96)`` uint8 and boxes ``(n, 4)``."""
    image = torch.randint(0, 120, (3, SIDE, SIDE), generator=generator)
    boxes = []
    for _ in range(int(torch.randint(1, 4, (1,), generator=generator))):
        width, height = torch.randint(20, 50, (2,), generator=generator).tolist()
        x = int(torch.randint(0, SIDE - width, (1,), generator=generator))
        y = int(torch.randint(0, SIDE - height, (1,), generator=generator))
        image[:, y : y + height, x : x + width] = torch.randint(150, 255, (3, 1, 1), generator=generator)
        boxes.append([x, y, x + width, y + height])
    return image.to(torch.uint8), torch.tensor(boxes, dtype=torch.float32)


def loader_batch(scenes):
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    samples = []
    for _, boxes in scenes:
        sample = DetDataSample(metainfo=dict(img_shape=(SIDE, SIDE), ori_shape=(SIDE, SIDE), scale_factor=(1.0, 1.0)))
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.zeros(len(boxes), dtype=torch.long))
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4))
        samples.append(sample)
    return dict(inputs=[image for image, _ in scenes], data_samples=samples)


@pytest.mark.slow
def test_detector__learns_rectangles():
    """The tiny config's Mask R-CNN, without masks, from scratch: 100 steps are enough for plain rectangles."""
    from mmdet.structures.bbox import bbox_overlaps
    from mmengine.config import Config

    from tests.configs.shrinking import REPO, build

    cfg = Config.fromfile(REPO / 'mmcfg' / 'coco' / 'mixedae_vit-tiny-p16_mask-rcnn_1xb4-2k_coco-256.py')
    cfg.model.type, cfg.model.data_preprocessor.pad_mask = 'FasterRCNN', False
    cfg.model.roi_head.update(mask_head=None, mask_roi_extractor=None)
    cfg.model.roi_head.bbox_head.num_classes = 1
    cfg.model.backbone.update(arch=dict(embed_dim=64, depth=2, num_heads=2), img_size=SIDE, out_indices=(1,))
    cfg.model.neck.in_channels = 64
    model = build(cfg).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        batch = loader_batch([scene(generator) for _ in range(2)])
        loss, _ = model.parse_losses(model(**model.data_preprocessor(batch, True), mode='loss'))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()
    scenes = [scene(generator) for _ in range(30)]
    with torch.no_grad():
        results = [model.test_step(loader_batch([one]))[0].pred_instances for one in scenes]
    overlaps = [
        bbox_overlaps(boxes, found.bboxes[: len(boxes)]).max(1).values if len(found.bboxes) else torch.zeros(len(boxes))
        for (_, boxes), found in zip(scenes, results)
    ]
    found = (torch.cat(overlaps) > 0.5).float().mean()
    assert found > 0.6, f'{100 * found:.0f} % of the rectangles'
