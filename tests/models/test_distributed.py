"""Two processes (gloo) against one, at the same global batch and with the same masks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from pretrain_cases import batch, masks, small_mae, small_mixedae

WORKER = Path(__file__).with_name('ddp_worker.py')


def run_workers(folder, world=2):
    environment = dict(os.environ, OMP_NUM_THREADS='1', GLOO_SOCKET_IFNAME='lo')
    workers = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(folder), str(rank), str(world)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        outputs = [worker.communicate(timeout=600)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert all(worker.returncode == 0 for worker in workers), '\n'.join(outputs)
    return [torch.load(folder / f'rank{rank}.pt', weights_only=True) for rank in range(world)]


JOBS = {
    'compose': ('mixedae', {}),
    'full, [CLS] competes': ('mixedae', dict(mode='full', encoder=dict(cls='compete'))),
    'mae': ('mae', {}),
}


def build(kind, options):
    """Model, global batch and masks of a job."""
    if kind == 'mae':
        model = small_mae(**options)
        images = torch.randn(8, 3, *model.encoder.img_size, generator=torch.Generator().manual_seed(0)).double()
        return model, images, model.draw_visible(8, torch.Generator().manual_seed(0), 'cpu')
    model = small_mixedae(**options)
    return model, batch(model), masks(model)


@pytest.mark.slow
def test_two_processes__same_gradient_as_one(tmp_path):
    jobs = []
    for kind, options in JOBS.values():
        model, images, mask = build(kind, options)
        jobs.append(dict(kind=kind, options=options, state=model.state_dict(), images=images, mask=mask))
    torch.save(jobs, tmp_path / 'jobs.pt')
    ranks = run_workers(tmp_path)
    for number, (name, (kind, options)) in enumerate(JOBS.items()):
        model, images, mask = build(kind, options)
        losses = model.train().loss(images, mask)
        sum(value for key, value in losses.items() if key.startswith('loss')).backward()
        results = [rank[number] for rank in ranks]
        for key, parameter in model.named_parameters():
            for result in results:
                torch.testing.assert_close(
                    result['gradients'][key], parameter.grad, msg=lambda m, k=key, n=name: f'{n}, {k}: {m}'
                )
        assert results[0]['seed'] != results[1]['seed']  # ranks draw different masks
