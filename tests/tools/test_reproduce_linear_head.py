"""tools/reproduce_parts/linear_head.py inside mmseg."""

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip('mmseg')
pytest.importorskip('mmcv.ops')  # mmseg's heads need them
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from tools.reproduce_parts.linear_head import LinearHead

SIZE = 32  # px, of patches of 16


@pytest.fixture
def head():
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmseg'):  # of its loss; runs of other tests leave theirs behind
        built = LinearHead(in_channels=6, in_index=0, num_classes=3, ignore_index=9, align_corners=False)
    torch.nn.init.normal_(built.conv_seg.weight)
    return built


def samples(labels):
    found = []
    for label in labels:
        sample = SegDataSample(metainfo=dict(img_shape=(SIZE, SIZE), ori_shape=(SIZE, SIZE), pad_shape=(SIZE, SIZE)))
        sample.gt_sem_seg = PixelData(data=label[None])
        found.append(sample)
    return found


def test_linear_head__loss_of_every_fourth_label(head):
    assert MODELS.get('LinearHead') is LinearHead
    assert sum(p.numel() for p in head.parameters()) == 3 * 6 + 3
    maps = torch.randn(2, 6, 2, 2, requires_grad=True)
    labels = torch.randint(0, 3, (2, SIZE, SIZE))
    labels[0, :16] = 9
    found = head.loss([maps], samples(labels), None)
    scores = torch.einsum('ndhw,cd->nchw', maps, head.conv_seg.weight[:, :, 0, 0]) + head.conv_seg.bias.view(1, 3, 1, 1)
    scores = F.interpolate(scores, size=(8, 8), mode='bilinear')
    chosen = torch.stack([torch.stack([label[2 + 4 * i, 2::4] for i in range(8)]) for label in labels])
    each = F.cross_entropy(scores, chosen, reduction='none', ignore_index=9)
    torch.testing.assert_close(found['loss_ce'], each.mean())  # as mmseg: ignored ones count in the mean
    found['loss_ce'].backward()
    assert maps.grad.abs().sum((1, 2, 3)).min() > 0


def test_linear_head__tests_are_on_all_pixels(head):
    maps = torch.randn(1, 6, 2, 2)
    metas = [dict(img_shape=(SIZE, SIZE), pad_shape=(SIZE, SIZE))]
    with torch.no_grad():
        assert head.predict([maps], metas, None).shape == (1, 3, SIZE, SIZE)
