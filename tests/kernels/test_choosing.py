"""The trial between Triton and PyTorch, with fakes for both: on a CPU, and without Triton."""

import logging
import sys

import pytest
import torch

from mixedae.functional import attention, topk_attention
from mixedae.kernels import choosing

Q = torch.zeros(2, 3, 17, 8)


class Attend:
    """Stands for ``topk_attention``; ``triton`` is what its kernel does with the right answer."""

    def __init__(self, triton=lambda out: out):
        self.triton = triton
        self.calls = []

    def __call__(self, q, k, v, topk, *, num_prefix_tokens, backend):
        self.calls.append((backend, q.dtype, tuple(q.shape), topk, num_prefix_tokens))
        fake = backend if backend == 'reference' else 'sdpa'
        out = topk_attention(q, k, v, topk, num_prefix_tokens=num_prefix_tokens, backend=fake)
        return self.triton(out) if backend == 'triton' else out


def takes(**seconds):
    """A clock that runs each contender once and says what it is told."""
    left = dict(seconds)

    def clock(call, device):
        assert len(call()) == 4  # the output and three gradients
        return left.pop(call.args[0])

    return clock


@pytest.fixture(autouse=True)
def said(monkeypatch):
    """No choice from before; returns what is logged."""
    monkeypatch.setattr(choosing, '_chosen', {})
    lines = []
    monkeypatch.setattr(choosing, 'print_log', lambda line, logger, level=logging.INFO: lines.append(line))
    return lines


@pytest.mark.parametrize('seconds,winner', [((0.001, 0.002), 'triton'), ((0.002, 0.001), 'sdpa')])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_choose__the_faster_one_once(said, seconds, winner, dtype):
    attend = Attend()
    clock = takes(triton=seconds[0], sdpa=seconds[1])  # a second turn would find it empty
    for _ in range(3):
        assert choosing.choose(Q.to(dtype), 4, 1, attend, clock) == winner
    assert [call[0] for call in attend.calls] == ['triton', 'reference', 'triton', 'sdpa']
    assert attend.calls[0][1:] == (dtype, (*choosing.SHAPE, 17, 8), 4, 1)
    assert len(said) == 1 and f'{winner} (triton {1000 * seconds[0]:.2f} ms, sdpa' in said[0]


def test_choose__each_length_width_k_and_dtype(said):
    attend = Attend()
    for q, topk, prefix in ((Q, 4, 1), (Q, 5, 1), (Q, 4, 0), (Q[:, :, :9], 4, 1), (Q[..., :4], 4, 1), (Q.half(), 4, 1)):
        choosing.choose(q, topk, prefix, attend, takes(triton=1, sdpa=2))
    choosing.choose(Q[:1, :1], 4, 1, attend, takes())  # another batch is no other question
    assert len(said) == 6


def wrong(out):
    return out * 1.1


def missing(out):
    raise RuntimeError('out of resource: shared memory\nmore lines')


def no_number(out):
    return out * float('nan')


@pytest.mark.parametrize(
    'fault,reason', [(wrong, 'off by'), (missing, 'out of resource: shared memory'), (no_number, 'nan')]
)
def test_choose__triton_that_fails(said, fault, reason):
    attend = Attend(fault)
    for _ in range(2):
        assert choosing.choose(Q, 4, 1, attend, takes()) == 'sdpa'
    assert len(said) == 1 and reason in said[0] and '\n' not in said[0]


def test_choose__clock_that_fails(said):
    assert choosing.choose(Q, 4, 1, Attend(), takes(triton=1)) == 'sdpa'  # KeyError for the other
    assert 'KeyError' in said[0]


def test_choose__leaves_the_caller_alone():
    """Modes and hooks of the caller do not reach the trial, and it draws nothing from the global generator."""
    state = torch.get_rng_state()
    packed = []
    with (
        torch.inference_mode(),
        torch.autocast('cpu', torch.bfloat16),
        torch.autograd.graph.saved_tensors_hooks(packed.append, lambda x: x),
    ):
        attend = Attend()
        assert choosing.choose(Q, 4, 1, attend, takes(triton=1, sdpa=2)) == 'triton'
    assert torch.equal(torch.get_rng_state(), state)
    assert not packed and attend.calls[0][1] == torch.float32


def test_choose__no_trial_in_deterministic_mode():
    """A run that is resumed would else take what the clock says that day."""
    attend = Attend()
    torch.use_deterministic_algorithms(True)
    try:
        assert choosing.choose(Q, 4, 1, attend, takes(triton=0.001, sdpa=0.002)) == 'sdpa'
    finally:
        torch.use_deterministic_algorithms(False)
    assert attend.calls == []
    assert choosing.choose(Q, 4, 1, attend, takes(triton=0.001, sdpa=0.002)) == 'triton'


def test_choose__not_while_a_graph_is_captured(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: True)

    class OnGpu:
        device, dtype, shape, is_cuda = torch.device('cuda', 0), torch.float32, Q.shape, True

    attend = Attend()
    assert choosing.choose(OnGpu(), 4, 1, attend, takes()) == 'sdpa'
    assert not attend.calls and not choosing._chosen
    choosing._chosen[(OnGpu.device, OnGpu.dtype, 17, 8, 4, 1)] = 'triton'
    assert choosing.choose(OnGpu(), 4, 1, attend, takes()) == 'triton'  # chosen before the capture


def test_fastest_backend__trial_where_triton_can_be_used(monkeypatch):
    monkeypatch.setattr(attention, 'usable_backends', lambda q: ('reference', 'sdpa', 'triton'))
    monkeypatch.setattr(choosing, 'choose', lambda *args: args)
    assert attention.fastest_backend(Q, 4, 1) == (Q, 4, 1, topk_attention)
    monkeypatch.setattr(attention, 'is_compiling', lambda: True)
    assert attention.fastest_backend(Q, 4, 1) == 'sdpa'


def test_triton_kernel__broken_triton(monkeypatch, said):
    choosing.triton_kernel.cache_clear()
    monkeypatch.delitem(sys.modules, 'mixedae.kernels.topk_triton', raising=False)
    monkeypatch.delattr('mixedae.kernels.topk_triton', raising=False)
    monkeypatch.setitem(sys.modules, 'triton', None)
    try:
        for _ in range(2):
            assert choosing.triton_kernel() is None
    finally:
        choosing.triton_kernel.cache_clear()
    assert len(said) == 1 and 'without Triton' in said[0]


def test_triton_kernel__old_triton(monkeypatch, said):
    triton = pytest.importorskip('triton')
    choosing.triton_kernel.cache_clear()
    monkeypatch.delitem(sys.modules, 'mixedae.kernels.topk_triton', raising=False)
    monkeypatch.setattr(triton, '__version__', '2.3.1')
    monkeypatch.delattr('mixedae.kernels.topk_triton', raising=False)
    try:
        assert choosing.triton_kernel() is None
    finally:
        choosing.triton_kernel.cache_clear()
    assert 'needs Triton 3.0 or newer' in said[0] and '2.3.1' in said[0]


def test_topk_attention__triton_refuses_values_of_another_width(monkeypatch):
    monkeypatch.setattr(attention, 'usable_backends', lambda q: ('triton',))
    with pytest.raises(ValueError, match=r"backend 'triton' needs v of the shape of q, \(2, 3, 17, 8\), not"):
        topk_attention(Q, Q, Q[..., :4], 4, backend='triton')
    assert topk_attention(Q, Q, Q[..., :4], 4, backend='sdpa').shape == (2, 3, 17, 4)
