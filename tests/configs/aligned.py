"""Whether a segmentor's logits lie over the pixels that they were computed from."""

import torch
import torch.nn.functional as F

from tests.configs.shrinking import predict, segmentation_batch


def assert_labels_lie_where_the_pixels_are(model, size=(100, 90), whole=(112, 96)):
    """A test image that is no multiple of 16: logits of the image padded by hand to whole patches, cropped."""
    batch = segmentation_batch(model.decode_head.num_classes, size)
    found = predict(model, batch)
    images = torch.stack(batch['inputs'])[:, [2, 1, 0]].float()
    pixels = model.data_preprocessor
    images = (images - pixels.mean) / pixels.std
    images = F.pad(images, (0, whole[1] - size[1], 0, whole[0] - size[0]))
    with torch.no_grad():
        logits = F.interpolate(model(images, mode='tensor'), size=whole, mode='bilinear', align_corners=False)
    for sample, expected in zip(found, logits[..., : size[0], : size[1]]):
        torch.testing.assert_close(sample.seg_logits.data, expected, rtol=0, atol=0)
        assert torch.equal(sample.pred_sem_seg.data[0], expected.argmax(0))
