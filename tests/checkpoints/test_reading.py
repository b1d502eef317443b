"""Reading checkpoint files: what MMEngine writes is read, what runs code is refused, bad files have a sentence."""

import argparse
import os
import pickle

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from safetensors.torch import save_file

from mixedae.checkpoints import CheckpointError, read_checkpoint, read_file

WEIGHT = torch.arange(6.0).reshape(2, 3)


def test_read_file__training_checkpoint_of_mmengine(tmp_path):
    """The classes that the message hub of a real run holds, and a torch.save of them."""
    path = tmp_path / 'iter_1.pth'
    history = HistoryBuffer([1.0, 3.0], [1, 1])
    info = dict(last=np.float64(0.5), count=np.int64(7), flag=np.bool_(True), small=np.float32(2))
    info |= dict(values=np.arange(3), names=np.array(['x', 'yy']))
    content = dict(
        meta=dict(iter=1, epoch=0, dataset_meta=dict(classes=('a', 'b'), palette=[(1, 2, 3)])),
        message_hub=dict(log_scalars=dict(loss=history), runtime_info=info),
        state_dict=dict(w=WEIGHT),
        optimizer=dict(state={0: dict(exp_avg=WEIGHT)}, param_groups=[dict(lr=0.1, params=[0])]),
        args=argparse.Namespace(lr=0.1),
    )
    torch.save(content, path)
    read = read_file(path)
    assert torch.equal(read['state_dict']['w'], WEIGHT)
    assert read['message_hub']['log_scalars']['loss'].mean() == 2.0
    assert read['message_hub']['log_scalars']['loss'].statistics('max') == 3.0
    info = read['message_hub']['runtime_info']
    assert (info['last'], info['count'], info['flag'], info['small']) == (0.5, 7, True, 2)
    assert info['values'].tolist() == [0, 1, 2] and info['names'].tolist() == ['x', 'yy']
    assert read['meta'] == content['meta'] and read['args'].lr == 0.1
    assert torch.equal(read['optimizer']['state'][0]['exp_avg'], WEIGHT)


@pytest.mark.parametrize('key', ['state_dict', 'model', 'module', None])
def test_read_checkpoint__finds_the_weights(tmp_path, key):
    weights = {'blocks.0.w': WEIGHT, 'note': 'text'}
    torch.save({key: weights, 'epoch': 3} if key else weights, tmp_path / 'a.pth')
    read = read_checkpoint(tmp_path / 'a.pth')
    assert list(read) == ['blocks.0.w'] and torch.equal(read['blocks.0.w'], WEIGHT)


def test_read_checkpoint__safetensors(tmp_path):
    save_file({'w': WEIGHT}, tmp_path / 'a.safetensors')
    assert torch.equal(read_checkpoint(tmp_path / 'a.safetensors')['w'], WEIGHT)
    (tmp_path / 'b.safetensors').write_bytes(b'no such thing')
    with pytest.raises(CheckpointError, match='is not a readable safetensors file'):
        read_checkpoint(tmp_path / 'b.safetensors')


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def attacks(marker):
    command = f'touch {marker}'
    return {
        'os.system': Calls(os.system, command),
        'eval': Calls(eval, f'open({str(marker)!r}, "w")'),
        'exec': Calls(exec, f'open({str(marker)!r}, "w")'),
        'getattr': Calls(getattr, HistoryBuffer, '__init__'),
        'getattr of another class': Calls(getattr, argparse.Namespace, '__init__'),
        'torch.load': Calls(torch.load, str(marker)),
        'HistoryBuffer that holds a call': HistoryBuffer([1.0], [1]),
    }


@pytest.mark.parametrize('name', list(attacks('')))
@pytest.mark.parametrize('zipped', [True, False])
def test_read_file__refuses_code(tmp_path, name, zipped):
    marker = tmp_path / 'it_ran'
    attack = attacks(marker)[name]
    if isinstance(attack, HistoryBuffer):
        attack.extra = Calls(os.system, f'touch {marker}')
    content = {'state_dict': {'w': WEIGHT}, 'more': attack}
    torch.save(content, tmp_path / 'evil.pth', _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r'evil\.pth was refused: it asks for .*; nothing of it was run\. Ask'):
        read_file(tmp_path / 'evil.pth')
    assert not marker.exists()


@pytest.mark.parametrize('protocol', [0, 2, 4, 5])
def test_read_file__refuses_plain_pickle(tmp_path, protocol):
    marker = tmp_path / 'it_ran'
    (tmp_path / 'evil.pkl').write_bytes(pickle.dumps(Calls(os.system, f'touch {marker}'), protocol=protocol))
    with pytest.raises(CheckpointError, match=r'evil\.pkl (was refused|is not a)'):
        read_file(tmp_path / 'evil.pkl')
    assert not marker.exists()


@pytest.mark.skipif(not hasattr(torch.serialization, 'get_safe_globals'), reason='PyTorch before 2.6')
def test_read_file__allow_list_does_not_stay(tmp_path):
    torch.save({'w': WEIGHT}, tmp_path / 'a.pth')
    before = torch.serialization.get_safe_globals()
    read_file(tmp_path / 'a.pth')
    assert set(torch.serialization.get_safe_globals()) == set(before)


def damaged(tmp_path):
    torch.save({'state_dict': {'w': torch.randn(100, 100)}}, tmp_path / 'half.pth')
    content = (tmp_path / 'half.pth').read_bytes()
    (tmp_path / 'half.pth').write_bytes(content[: len(content) // 2])


def test_read_file__sentences(tmp_path):
    damaged(tmp_path)
    (tmp_path / 'empty.pth').write_bytes(b'')
    (tmp_path / 'text.pth').write_text('hello')
    torch.save([1, 2], tmp_path / 'list.pth')
    torch.save({'epoch': 3, 'note': 'x'}, tmp_path / 'no_weights.pth')
    cases = {
        'nowhere.pth': (FileNotFoundError, r'The checkpoint .*nowhere\.pth does not exist\.'),
        '': (FileNotFoundError, 'is a folder, not a checkpoint file'),
        'half.pth': (CheckpointError, r'half\.pth is not a readable PyTorch checkpoint, or is damaged \('),
        'empty.pth': (CheckpointError, r'empty\.pth is not a readable PyTorch checkpoint, or is damaged \(EOFError\)'),
        'text.pth': (CheckpointError, r'text\.pth is not a .*PyTorch checkpoint'),
        'list.pth': (CheckpointError, 'holds a list, not a dictionary of weights'),
        'no_weights.pth': (CheckpointError, 'holds no weights: its entries are epoch, note'),
    }
    for name, (kind, sentence) in cases.items():
        with pytest.raises(kind, match=sentence) as caught:
            read_checkpoint(tmp_path / name)
        text = str(caught.value)
        assert '\n' not in text and 'weights_only' not in text, text  # torch's advice is to switch the safety off
    with pytest.raises(CheckpointError, match=r'read from local files only: download https://a\.b/c\.pth'):
        read_checkpoint('https://a.b/c.pth')
