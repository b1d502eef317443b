"""From images to boxes and masks by normalised cuts."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from object_aware.boxes.cutting import Candidates, CutProposer, agreement
from object_aware.boxes.features import load_features


@pytest.mark.parametrize('centre', ['image', 'position'])
def test_cut_proposer__finds_the_squares(checkpoint, squares, square_boxes, centre):
    proposer = CutProposer(load_features(checkpoint, num_heads=3), (64, 64), centre=centre, taus=(0.0, 0.3))
    pictures = [proposer.read(squares / f'{k}.png') for k in range(5)]
    if centre == 'position':
        with pytest.raises(RuntimeError, match='fit'):
            proposer(pictures)
        colours = ([30, 60, 160], [220, 180, 40])  # the mean is between both: they point in opposite directions
        plain = [pictures[0]._replace(pixels=np.full((64, 64, 3), colour, dtype=np.uint8)) for colour in colours]
        proposer.fit(plain, batch_size=1)
        mean = torch.cat([proposer._extract([picture]) for picture in plain]).mean(0)
        torch.testing.assert_close(proposer.mean, mean)
    for found, square in zip(proposer(pictures), square_boxes):
        # the field is stronger in the small part, so its edge lies up to half a patch outside
        x1, y1, x2, y2 = np.array(square) - found.boxes[0]
        assert min(x1, y1, -x2, -y2) >= 0 and max(x1, y1, -x2, -y2) <= 4
        mask = coco.decode(dict(size=[64, 64], counts=found.masks[0])).astype(bool)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert found.boxes[0].tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        assert (np.diff(found.scores) <= 0).all() and 0 < found.scores[0] <= 1


def test_cut_proposer__coarse_edges_are_patch_borders(checkpoint, squares, square_boxes):
    proposer = CutProposer(load_features(checkpoint, num_heads=3), (64, 64), centre='image', refine=False)
    picture = proposer.read(squares / '0.png')
    (found,) = proposer([picture])
    assert found.boxes[0].tolist() == list(square_boxes[0])  # the square lies on the patch grid
    (scaled,) = proposer([picture._replace(size=(128, 32))])  # the same pixels, of a file of another shape
    assert scaled.boxes[0].tolist() == [32, 8, 96, 20]


def test_cut_proposer__does_not_depend_on_the_batch(checkpoint, squares):
    proposer = CutProposer(load_features(checkpoint, num_heads=3), (64, 64), centre='image')
    pictures = [proposer.read(squares / f'{k}.png') for k in range(5)]
    for one, whole in zip([proposer([picture])[0] for picture in pictures], proposer(pictures)):
        np.testing.assert_allclose(one.boxes, whole.boxes)


def test_cut_proposer__an_image_without_anything_gives_no_error(checkpoint, squares):
    proposer = CutProposer(load_features(checkpoint, num_heads=3), (64, 64), centre='none')
    picture = proposer.read(squares / '0.png')
    (found,) = proposer([picture._replace(pixels=np.zeros((64, 64, 3), dtype=np.uint8))])
    assert np.isfinite(found.boxes).all() and (found.boxes[:, 2:] > found.boxes[:, :2]).all()
    assert (found.boxes >= 0).all() and (found.boxes <= 64).all()


def test_cut_proposer__wrong_options(checkpoint):
    features = load_features(checkpoint, num_heads=3)
    with pytest.raises(ValueError, match='multiples of the patch size 8'):
        CutProposer(features, (60, 64))
    with pytest.raises(ValueError, match="'seed' or 'all'"):
        CutProposer(features, (64, 64), components='some')
    with pytest.raises(ValueError, match='At least one threshold'):
        CutProposer(features, (64, 64), taus=())


def test_agreement__is_the_mean_best_overlap_over_thresholds():
    parts = np.zeros((3, 9), dtype=bool)
    parts[0, :4] = parts[1, :3] = parts[2, 6:] = True
    found = Candidates(parts, parts.astype(np.float32), np.array([0, 0, 1]), np.ones(3, bool), np.array([0, 1, 1]))
    np.testing.assert_allclose(agreement(found), [(1 + 3 / 4) / 2, (3 / 4 + 1) / 2, (0 + 1 / 2) / 2])


def test_features__of_a_timm_vit_equal_ours(tmp_path):
    import timm

    torch.manual_seed(0)
    model = timm.create_model('vit_tiny_patch16_224', pretrained=False, num_classes=3)
    torch.save(model.state_dict(), tmp_path / 'timm.pth')
    pixels = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    for kind, block in (('keys', 3), ('values', 3), ('tokens', 3), ('tokens', -1)):
        ours = load_features(tmp_path / 'timm.pth', kind=kind, block=block)
        theirs = load_features(tmp_path / 'timm.pth', timm_name='vit_tiny_patch16_224', kind=kind, block=block)
        for side in ('mean', 'std'):  # timm normalises these weights by 0.5; here both take the same pixels
            getattr(theirs, side).copy_(getattr(ours, side))
        first, second = ours(pixels), theirs(pixels)
        assert first.shape == (1, 24, 192) and float((first - second).abs().max()) < 0.05 * float(second.std())
        assert ours(pixels[..., :64]).shape == (1, 16, 192)
    with pytest.raises(ValueError, match='not whole patches of 16'):
        ours(pixels[..., :50])


def test_features__keys_are_those_of_the_block(checkpoint):
    features = load_features(checkpoint, num_heads=3, kind='keys', block=1)
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    keys = features(pixels)
    inputs = []
    block = features.model.blocks[1]
    handle = block.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    features(pixels)
    handle.remove()
    with torch.no_grad():
        k = block.attn.project_qkv(block.norm1(inputs[0]))[1]
    torch.testing.assert_close(keys, k[:, :, 1:].transpose(1, 2).flatten(2))
    assert keys.shape == (2, 64, 48) and torch.equal(keys, features(pixels))


def test_features__wrong_options(checkpoint, tmp_path):
    with pytest.raises(ValueError, match='give its number of heads'):
        load_features(checkpoint)
    with pytest.raises(ValueError, match='Block 2 does not exist'):
        load_features(checkpoint, num_heads=3, block=2)
    with pytest.raises(ValueError, match='Features are keys'):
        load_features(checkpoint, num_heads=3, kind='key')
    with pytest.raises(ValueError, match='timm has no ViT'):
        load_features(checkpoint, timm_name='no_such_vit')
    with pytest.raises(ValueError, match='does not fit vit_tiny_patch16_224'):
        load_features(checkpoint, timm_name='vit_tiny_patch16_224')
    with pytest.raises(FileNotFoundError):
        load_features(tmp_path / 'none.pth')
