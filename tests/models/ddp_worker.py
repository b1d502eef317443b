"""One process of the two-process test: reads models and its part of their batches, writes the averaged gradients.

Called as `python ddp_worker.py FOLDER RANK WORLD`; the processes meet through a file in FOLDER.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent), str(TESTS / 'models')]

from pretrain_cases import small_mae, small_mixedae  # noqa: E402


class Losses(torch.nn.Module):
    """Sends a given mask through DistributedDataParallel's forward."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images, mask):
        return sum(value for key, value in self.model.loss(images, mask).items() if key.startswith('loss'))


def run(job: dict, rank: int, world: int) -> dict:
    model = (small_mae if job['kind'] == 'mae' else small_mixedae)(**job['options'])
    model.load_state_dict(job['state'])
    parallel = DistributedDataParallel(Losses(model.train()))
    parallel(job['images'].chunk(world)[rank], job['mask'].chunk(world)[rank]).backward()
    gradients = {key: parameter.grad for key, parameter in model.named_parameters()}
    return dict(gradients=gradients, seed=model.generator().initial_seed())


def main(folder: Path, rank: int, world: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{folder}/meeting', rank=rank, world_size=world)
    results = [run(job, rank, world) for job in torch.load(folder / 'jobs.pt', weights_only=True)]
    torch.save(results, folder / f'rank{rank}.pt')
    dist.destroy_process_group()


if __name__ == '__main__':
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
