"""tools/propose_boxes.py and tools/evaluate_boxes.py as a user calls them, down to the crop index."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from mixedae.models import MixedAEViT
from tools import build_crops, evaluate_boxes, propose_boxes


@pytest.fixture
def data(tmp_path):
    """Six noisy images of 96 x 64 with a square each, their annotations, and a tiny ViT."""
    (tmp_path / 'images').mkdir()
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for k in range(6):
        x, y = 8 * int(rng.integers(1, 6)), 8 * int(rng.integers(0, 4))
        pixels = np.full((64, 96, 3), [30, 60, 160], dtype=np.float64)
        pixels[y : y + 32, x : x + 40] = [220, 180, 40]
        noisy = np.clip(pixels + rng.normal(0, 4, pixels.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(tmp_path / 'images' / f'{k}.png')
        images.append(dict(id=k, file_name=f'{k}.png', width=96, height=64))
        annotations.append(dict(id=k + 1, image_id=k, category_id=1, bbox=[x, y, 40, 32], area=1280, iscrowd=0))
    truth = dict(images=images, annotations=annotations, categories=[dict(id=1, name='square')])
    (tmp_path / 'truth.json').write_text(json.dumps(truth))
    torch.manual_seed(0)
    model = MixedAEViT(dict(embed_dim=48, depth=1, num_heads=3), img_size=64, patch_size=8, out_indices=(0,))
    with torch.no_grad():
        model.pos_embed.mul_(0.02)
    torch.save(model.state_dict(), tmp_path / 'vit.pth')
    return tmp_path


def propose(data, *options, out='boxes.json'):
    return propose_boxes.main([str(data / 'images'), '--out', str(data / out), *options])


def cuts(data, *options, out='boxes.json'):
    fixed = ['--checkpoint', str(data / 'vit.pth'), '--num-heads', '3', '--image-size', '64', '96', '--centre', 'image']
    return propose(data, *fixed, *options, out=out)


def test_propose_boxes__cuts_to_evaluation_and_crop_index(data, capsys):
    assert cuts(data, '--batch-size', '4') == 0
    assert 'boxes of 6 images' in capsys.readouterr().out
    content = json.loads((data / 'boxes.json').read_bytes())
    assert content['categories'] == [dict(id=1, name='object')]
    assert all(annotation['segmentation']['size'] == [64, 96] for annotation in content['annotations'])
    assert content['info']['proposals']['settings']['size'] == [64, 96]

    command = [str(data / 'boxes.json'), '--truth', str(data / 'truth.json'), '--images', str(data / 'images')]
    assert evaluate_boxes.main([*command, '--out', str(data / 'eval'), '--name', 'cuts']) == 0
    out = capsys.readouterr().out
    assert '6 images with 6 objects' in out
    rows = json.loads((data / 'eval' / 'evaluation.json').read_bytes())['rows']
    assert rows['cuts']['corloc'] == 1 and rows['cuts']['recall@10'] == 1
    assert rows['random, as many']['corloc'] < 1 and rows['whole image']['corloc'] == 0
    for name in ('recall.png', 'contact_sheet.png'):
        with Image.open(data / 'eval' / name) as image:
            assert image.width > 400

    scenes = ['--scenes', str(data / 'boxes.json'), str(data / 'images')]
    index = ['--out', str(data / 'crops.safetensors'), '--size', '32', '--workers', '1']
    assert build_crops.main([*scenes, *index]) == 0
    assert 'accepted' in capsys.readouterr().out


def test_propose_boxes__second_call_and_processes(data, capsys):
    assert cuts(data) == 0
    assert cuts(data) == 0
    assert 'is up to date' in capsys.readouterr().out
    assert cuts(data, '--limit', '3') == 0
    assert len(json.loads((data / 'boxes.json').read_bytes())['images']) == 3


def test_propose_boxes__overwrites_no_other_file(data, capsys):
    search = ['--method', 'selective-search', '--limit', '1']
    human = data / 'truth.json'
    before = human.read_bytes()
    human.chmod(0o444)  # a rename would not mind
    (data / 'list.txt').write_text('0.png\n')
    assert propose(data, *search, out='truth.json') == 2
    assert 'exists and is not a file of boxes that this tool wrote: give another --out.' in capsys.readouterr().err
    assert propose(data, *search, '--force', '--list', str(data / 'list.txt'), out='list.txt') == 2
    assert 'is what this command reads' in capsys.readouterr().err
    assert human.read_bytes() == before and (data / 'list.txt').read_text() == '0.png\n'
    assert propose(data, *search) == 0 and propose(data, *search, '--force') == 0  # its own file
    content = json.loads((data / 'boxes.json').read_text())
    assert content['info']['proposals']['settings']['method'] == 'selective-search'
    (data / 'boxes.json').write_text(json.dumps(content))  # as a labelling program saves it
    assert propose(data, *search, '--force') == 2


def test_evaluate_boxes__overwrites_no_other_file(data, capsys):
    (data / 'evaluation.json').write_bytes((data / 'truth.json').read_bytes())
    command = [str(data / 'truth.json'), '--truth', str(data / 'evaluation.json'), '--out', str(data)]
    assert evaluate_boxes.main(command) == 2
    assert 'evaluation.json is what this command reads' in capsys.readouterr().err
    command[2] = str(data / 'truth.json')
    assert evaluate_boxes.main(command) == 2
    assert 'exists and is not an evaluation that this tool wrote' in capsys.readouterr().err
    assert (data / 'evaluation.json').read_bytes() == (data / 'truth.json').read_bytes()


def test_propose_boxes__selective_search(data, capsys):
    pytest.importorskip('skimage')
    (data / 'images' / 'broken.jpg').write_bytes(b'no')
    assert propose(data, '--method', 'selective-search', '--mode', 'single', '--top-n', '20') == 0
    assert '1 images could not be read, all listed in the file: broken.jpg' in capsys.readouterr().out
    command = [str(data / 'boxes.json'), '--truth', str(data / 'truth.json'), '--out', str(data / 'eval')]
    assert evaluate_boxes.main(command) == 0
    assert json.loads((data / 'eval' / 'evaluation.json').read_bytes())['rows']['proposals']['recall@100'] == 1
    assert not (data / 'eval' / 'contact_sheet.png').exists()


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        ([], 'Normalised cuts need the weights of a ViT: give --checkpoint FILE.'),
        (['--checkpoint', 'none.pth'], 'none.pth does not exist'),
        (['--method', 'selective-search', '--checkpoint', 'x.pth'], 'Selective search has no model'),
        (['--method', 'selective-search', '--batch-size', '0'], '--batch-size must be at least 1, not 0.'),
        (['--list', 'none.txt'], 'List of images none.txt does not exist'),
    ],
)
def test_propose_boxes__bad_arguments(data, capsys, options, sentence):
    assert propose(data, *options) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.splitlines()[-1].startswith('error: ')


def test_propose_boxes__wrong_image_size_is_told_before_work(data, capsys):
    assert cuts(data, '--image-size', '60') == 2
    assert 'must be multiples of the patch size 8' in capsys.readouterr().err
    assert not (data / 'boxes.json.part').exists()


def test_evaluate_boxes__bad_arguments(data, capsys):
    truth = str(data / 'truth.json')
    assert evaluate_boxes.main([str(data / 'none.json'), '--truth', truth]) == 2
    assert 'none.json do not exist' in capsys.readouterr().err
    assert evaluate_boxes.main([truth, '--truth', truth]) == 2
    assert 'has no scores' in capsys.readouterr().err
    other = dict(images=[dict(id=1, file_name='z.png', width=9, height=9)])
    other['annotations'] = [dict(image_id=1, bbox=[0, 0, 5, 5], score=1)]
    (data / 'other.json').write_text(json.dumps(other))
    assert evaluate_boxes.main([str(data / 'other.json'), '--truth', truth]) == 2
    assert 'have no image file name in common' in capsys.readouterr().err


def test_evaluate_boxes__takes_a_list_of_results(data, capsys):
    results = [dict(image_id=k, category_id=1, bbox=[0, 0, 96, 64], score=0.5) for k in range(4)]
    (data / 'results.json').write_text(json.dumps(results))
    command = [str(data / 'results.json'), '--truth', str(data / 'truth.json'), '--out', str(data / 'eval')]
    assert evaluate_boxes.main(command) == 0
    assert json.loads((data / 'eval' / 'evaluation.json').read_bytes())['rows']['proposals']['boxes'] == pytest.approx(
        4 / 6
    )
