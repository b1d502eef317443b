"""Room for a run: memory against what is really held, and the disk that is asked."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'reliability'))
import small_runs as runs

from mixedae.engine import FullySharded, resources
from mixedae.models import MAE, MixedAE, MixedAEViT

ADAM = Config(dict(optim_wrapper=dict(optimizer=dict(type='AdamW')), train_dataloader=dict(batch_size=16)))


def build(kind=MixedAE, with_cp=False, **options):
    encoder = dict(arch=dict(embed_dim=96, depth=4, num_heads=3), img_size=64, patch_size=8, with_cp=with_cp)
    return kind(encoder=encoder, decoder=dict(embed_dim=64, depth=4, num_heads=2), **options).train()


class Living(TorchDispatchMode):
    """Notes what every operation makes, to say later how many bytes of it are still there."""

    def __init__(self):
        super().__init__()
        self.storages = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.storages[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        return result

    def bytes(self):
        return sum(size for reference, size in self.storages.values() if not reference.expired())


def held_after_forward(model, batch_size, half=False):
    """Bytes that stand there for the backward pass, besides the weights and the images."""
    images = torch.randn(batch_size, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with Living() as living, torch.autocast('cpu', torch.bfloat16, enabled=half):
        losses = model.loss(images)
    assert all(value.requires_grad for name, value in losses.items() if name.startswith('loss'))
    return living.bytes()


@pytest.mark.parametrize('half', [False, True])
@pytest.mark.parametrize(
    'options',
    [
        {},
        dict(mode='full'),
        dict(topk_ratio=None),
        dict(with_cp=True),
        dict(kind=MAE),
        dict(kind=MAE, mask_ratio=0.5, with_cp=True),
        dict(reconstruction_weight=0.0),
    ],
    ids=str,
)
def test_activation_bytes__a_lower_bound_and_no_loose_one(options, half):
    model = build(**options)
    bound = resources.activation_bytes(model, 16, half)
    held = held_after_forward(model, 16, half)
    assert bound <= held <= 2 * bound, (bound, held)


@pytest.mark.parametrize('half', [False, True])
def test_activation_bytes__compiled_blocks(half):
    """What a block that went through PyTorch's compiler keeps."""
    model = build(reconstruction_weight=0.0)
    block, x = model.encoder.blocks[0], torch.randn(4, 65, 96, requires_grad=True)
    # Autograd's first backward of a process decides on its threads; inside the compiler it would start some, and then
    # no later test could train in a fork.
    block(x).sum().backward()
    weights = {parameter.untyped_storage().data_ptr() for parameter in block.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes() * (storage.data_ptr() not in weights)
        return tensor

    block.compile(backend='aot_eager_decomp_partition')
    autocast = torch.autocast('cpu', torch.bfloat16, enabled=half)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
        block(x)
    bound = resources.activation_bytes(model, 16, half, compiled=True) / 4  # of one of four blocks
    assert bound <= sum(kept.values()) <= 3 * bound, (bound, kept)


def test_memory_bytes__by_hand():
    """Weights, gradients and Adam's two moments; the forward pass has no gradients but what its blocks keep."""
    model = build()
    model.encoder.cls_token.requires_grad_(False)
    weights = 4 * sum(value.numel() for value in model.state_dict().values())
    trained = 4 * sum(p.numel() for p in model.parameters() if p.requires_grad)
    activations = resources.activation_bytes(model, 16)
    sure = weights + 3 * trained
    assert resources.memory_bytes(model, ADAM) == (sure, max(sure, weights + 2 * trained + activations))
    assert activations > trained
    half = Config(dict(ADAM, optim_wrapper=dict(type='AmpOptimWrapper', optimizer=dict(type='AdamW'))))
    assert resources.memory_bytes(model, half) == resources.memory_bytes(model, ADAM), 'float32 without a GPU'
    for optimizer, copies in (
        (dict(type='SGD'), 0),
        (dict(type='SGD', momentum=0.9), 1),
        (dict(type='torch.optim.AdamW'), 2),
        (dict(type='Unknown'), 0),
    ):
        cfg = Config(dict(optim_wrapper=dict(optimizer=optimizer)))
        assert resources.memory_bytes(model, cfg) == (weights + (1 + copies) * trained,) * 2


def test_memory_bytes__other_models_are_sure_alone():
    model = MixedAEViT(arch=dict(embed_dim=32, depth=2, num_heads=2), img_size=32, patch_size=8, out_indices=(1,))
    sure, likely = resources.memory_bytes(model, ADAM)
    assert sure == likely > 0


def test_check_memory__weights_that_are_there_are_not_asked_for_again(monkeypatch):
    model = build()
    sure, likely = resources.memory_bytes(model, ADAM)
    weights = 4 * sum(value.numel() for value in model.state_dict().values())
    there = not torch.cuda.is_available()  # the model lies in the memory of the CPU
    for free, outcome in (
        (likely - weights * there, None),
        (likely - weights * there - 1, 'lower train_dataloader.batch_size'),
        (sure - weights * there, 'lower train_dataloader.batch_size'),
        (sure - weights * there - 1, ValueError),
    ):
        monkeypatch.setattr(resources, 'free_memory', lambda free=free: (free, 'the memory'))
        if outcome is ValueError:
            with pytest.raises(ValueError, match=r'Weights, gradients and optimiser state take .* a smaller model'):
                resources.check_memory(model, ADAM)
        elif outcome is None:
            assert resources.check_memory(model, ADAM) is None
        else:
            assert outcome in resources.check_memory(model, ADAM)
    monkeypatch.setattr(resources, 'free_memory', lambda: (None, 'memory'))
    assert resources.check_memory(model, ADAM) is None


def sharded(folder, rank):
    """One of two processes that share a model: its part is what counts, and it fits where the whole would not."""
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/meeting', rank=rank, world_size=2)
    small = Config(dict(ADAM, train_dataloader=dict(batch_size=4)))
    sure_whole, _ = resources.memory_bytes(build(), small)
    model = FullySharded(build()).module
    parts = sum(p.to_local().numel() for p in model.parameters()) * 4
    buffers = sum(value.numel() for name, value in model.named_buffers() if name in model.state_dict()) * 4
    sure, likely = resources.memory_bytes(model, small)
    resources.free_memory = lambda: (likely, 'the GPU')
    fits = resources.check_memory(model, small) is None and likely < sure_whole
    (folder / f'{rank}').write_text(repr((sure == 4 * parts + buffers, fits)))


def test_check_memory__sharded(tmp_path):
    pytest.importorskip('torch.distributed.tensor', reason='FSDP2 came with PyTorch 2.6')
    pids = [runs.fork(lambda rank=rank: sharded(tmp_path, rank), tmp_path / 'log') for rank in range(2)]
    assert [runs.exit_code(pid) for pid in pids] == [0, 0], (tmp_path / 'log').read_text()
    assert [(tmp_path / rank).read_text() for rank in '01'] == ['(True, True)'] * 2


def test_check_disk__asks_the_disk_of_the_work_dir(tmp_path, monkeypatch):
    """Also where the folder is not there yet: that of the nearest folder above it."""
    asked = []

    def disk_usage(folder):
        asked.append(folder)
        return SimpleNamespace(free=2**40)

    monkeypatch.setattr(resources.shutil, 'disk_usage', disk_usage)
    for folder in (tmp_path, tmp_path / 'none' / 'run', 'none/run'):
        monkeypatch.chdir(tmp_path)
        resources.check_disk(torch.nn.Linear(2, 2), Config(dict(ADAM, work_dir=str(folder))))
    assert asked == [tmp_path] * 3
