"""The Triton kernel: in the interpreter, compiled for GPUs that are not here, and on a GPU where there is one."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mixedae.functional import topk_attention

triton = pytest.importorskip('triton')
ROOT = Path(__file__).resolve().parents[2]
DTYPES = dict(fp32=torch.float32, fp16=torch.float16, bf16=torch.bfloat16)


def test_topk_triton__interpreter_equals_reference():
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name('triton_worker.py')],
        env={**os.environ, 'TRITON_INTERPRET': '1', 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count('torch.float32') == 15


def compiled(kernel, length, width, dtype, arch):
    """A kernel compiled for a GPU that is not here; pointers and strides are multiples of 16, as they mostly are."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from mixedae.kernels import topk_triton

    tiles = topk_triton.tiles(length, width)
    options = {key: tiles.pop(key) for key in ('num_warps', 'num_stages')}
    precision = 'ieee' if dtype == 'fp32' else 'tf32'
    whole = dict(H=12, N=length, D=width, TOPK=length // 4, PREFIX=1, PRECISION=precision, **tiles)
    types = dict(LSE='*fp32', THRESHOLD='*i32', LAST_TIE='*i32', scale='fp32')
    names = kernel.arg_names
    signature = {name: types.get(name, f'*{dtype}' if name.isupper() else 'i32') for name in names}
    signature |= {name: 'constexpr' for name in names if name in whole}
    constants = {(names.index(name),): value for name, value in whole.items() if name in names}
    whole_sixteens = {(i,): [['tt.divisibility', 16]] for i, name in enumerate(names) if signature[name][0] in '*i'}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=whole_sixteens)
    return triton.compile(source, target=GPUTarget('cuda', arch, 32), options=options)


@pytest.mark.parametrize(
    'length,width,dtype,arch',
    [
        (65, 64, 'bf16', 80),
        (197, 64, 'bf16', 80),
        (197, 64, 'bf16', 90),
        (197, 80, 'fp16', 90),
        (33, 32, 'fp32', 80),
        pytest.param(197, 64, 'fp32', 90, marks=pytest.mark.slow),
    ],
)
def test_topk_triton__compiles_for_a_gpu(length, width, dtype, arch):
    """On tensor cores in 16 bit, and in no more shared memory than ``fits`` reckons with."""
    from mixedae.kernels import topk_triton

    promised = topk_triton.shared_bytes(length, width, DTYPES[dtype])
    for kernel in (topk_triton._forward_kernel, topk_triton._backward_kernel):
        code = compiled(kernel, length, width, dtype, arch)
        assert dtype == 'fp32' or 'wgmma' in code.asm['ptx'] or 'mma.sync' in code.asm['ptx']
        assert code.metadata.shared <= promised
    assert code.metadata.shared > 0.9 * promised  # and backward needs about that much


LIMITS = dict(sm_80=166_912, sm_86=101_376, sm_90=232_448)


@pytest.mark.parametrize(
    'length,width,dtype,bytes_asked,where',
    [
        (65, 64, torch.bfloat16, 59_392, ('sm_80', 'sm_86', 'sm_90')),
        (197, 64, torch.bfloat16, 112_640, ('sm_80', 'sm_90')),
        (197, 64, torch.float32, 155_648, ('sm_80', 'sm_90')),
        (197, 80, torch.float16, 217_088, ('sm_90',)),
        (197, 128, torch.float32, 294_912, ()),
    ],
)
def test_fits__shared_memory_of_the_gpu(monkeypatch, length, width, dtype, bytes_asked, where):
    from mixedae.kernels import topk_triton

    assert topk_triton.shared_bytes(length, width, dtype) == bytes_asked
    q = torch.empty(1, 1, length, width, dtype=dtype)
    for name, limit in LIMITS.items():
        gpu = SimpleNamespace(shared_memory_per_block_optin=limit)
        monkeypatch.setattr(torch.cuda, 'get_device_properties', lambda device, gpu=gpu: gpu)
        assert topk_triton.fits(q) == (name in where)
        assert not topk_triton.fits(torch.empty(1, 1, 257, 16)) and not topk_triton.fits(torch.empty(1, 1, 9, 129))
        assert not topk_triton.fits(q.double())


def test_topk_attention__triton_needs_a_gpu():
    q = torch.randn(1, 1, 9, 4)
    with pytest.raises(ValueError, match=r"backend 'triton' needs Triton 3\.0 or newer"):
        topk_attention(q, q, q, 2, backend='triton')


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')
@pytest.mark.parametrize('length', [65, 197])
@pytest.mark.parametrize('cls', ['keep', 'compete'])
def test_topk_triton__gpu_equals_reference(length, cls):
    torch.manual_seed(0)
    q, k, v = torch.randn(2, length, 3, 3, 64, device='cuda').permute(2, 0, 3, 1, 4).unbind(0)
    grad = torch.randn(2, 3, length, 64, device='cuda')
    q, k = q.round(), k.round()  # exact scores, with many ties
    q, k, v = (x.requires_grad_() for x in (q, k, v))
    results = []
    for backend in ('reference', 'triton'):
        out = topk_attention(q, k, v, length // 4, cls=cls, backend=backend)
        results.append((out, *torch.autograd.grad(out, (q, k, v), grad)))
    for plain, ours in zip(*results):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)
