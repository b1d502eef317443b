"""CompileHook in a process where nothing has run before."""

import os
import subprocess
import sys
from types import SimpleNamespace

import torch

from mixedae.engine.compile_hook import CompileHook
from mixedae.layers import Block

BACKENDS = ('auto', 'cpu', 'sdpa')


def test_compile_hook__fresh_process(repo):
    """Compiled first, eager afterwards: nothing has made numba compile when dynamo traces the attention."""
    env = {**os.environ, 'PYTHONPATH': str(repo)}
    done = subprocess.run([sys.executable, __file__], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == list(BACKENDS)


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.randn(2, 17, 16)
    blocks = [Block(16, 2, attention=dict(topk_ratio=0.25, backend=backend)) for backend in BACKENDS]
    for block in blocks:
        block.load_state_dict(blocks[0].state_dict())
    model = torch.nn.ModuleList(blocks)
    CompileHook(backend='eager').before_train(SimpleNamespace(model=model, logger=SimpleNamespace(info=id)))
    compiled = [block(x).square().mean() for block in blocks]
    gradients = torch.autograd.grad(sum(compiled), [block.attn.qkv.weight for block in blocks])
    for backend, block, loss, gradient in zip(BACKENDS, blocks, compiled, gradients):
        eager = block.forward(x).square().mean()
        torch.testing.assert_close(loss, eager, rtol=1e-6, atol=0)
        expected = torch.autograd.grad(eager, block.attn.qkv.weight)[0]
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-7)
        print(backend)


if __name__ == '__main__':
    main()
