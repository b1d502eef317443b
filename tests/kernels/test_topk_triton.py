"""The Triton kernel: in the interpreter, compiled for GPUs that are not here, and on a GPU where there is one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mixedae.functional import topk_attention

triton = pytest.importorskip('triton')
ROOT = Path(__file__).resolve().parents[2]


def test_topk_triton__interpreter_equals_reference():
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name('triton_worker.py')],
        env={**os.environ, 'TRITON_INTERPRET': '1', 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count('torch.float32') == 15


@pytest.mark.parametrize('length', [65, 197])
def test_topk_triton__compiles_for_a_gpu(length):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from mixedae.kernels import topk_triton

    tiles = topk_triton.tiles(length, 64)
    options = {key: tiles.pop(key) for key in ('num_warps', 'num_stages')}
    whole = dict(N=length, D=64, TOPK=length // 4, PREFIX=1, PRECISION='tf32', **tiles)
    types = dict(LSE='*fp32', THRESHOLD='*i32', LAST_TIE='*i32', scale='fp32')
    for kernel in (topk_triton._forward_kernel, topk_triton._backward_kernel):
        names = kernel.arg_names
        signature = {name: 'constexpr' if name in whole else types.get(name, '*bf16') for name in names}
        constants = {(names.index(name),): value for name, value in whole.items() if name in names}
        source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
        compiled = triton.compile(source, target=GPUTarget('cuda', 90, 32), options=options)
        assert 'wgmma' in compiled.asm['ptx'] or 'mma.sync' in compiled.asm['ptx']  # products on tensor cores
        assert compiled.metadata.shared <= 163 * 1024  # fits on an A100, too


def test_topk_attention__triton_needs_a_gpu():
    q = torch.randn(1, 1, 9, 4)
    with pytest.raises(ValueError, match="backend 'triton' needs Triton and"):
        topk_attention(q, q, q, 2, backend='triton')


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')
@pytest.mark.parametrize('length', [65, 197])
@pytest.mark.parametrize('cls', ['keep', 'compete'])
def test_topk_triton__gpu_equals_reference(length, cls):
    torch.manual_seed(0)
    q, k, v, grad = (torch.randn(2, 3, length, 64, device='cuda') for _ in range(4))
    q, k = q.round(), k.round()  # exact scores, with many ties
    q, k, v = (x.requires_grad_() for x in (q, k, v))
    results = []
    for backend in ('reference', 'triton'):
        out = topk_attention(q, k, v, length // 4, cls=cls, backend=backend)
        results.append((out, *torch.autograd.grad(out, (q, k, v), grad)))
    for plain, ours in zip(*results):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)
