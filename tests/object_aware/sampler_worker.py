"""One process of the sampler's distributed test: a loader with workers over this rank's groups.

Called as `python sampler_worker.py FOLDER RANK WORLD`; the processes meet through a file in FOLDER.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from object_aware import GroupSampler


class Keys(Dataset):
    def __init__(self, scene_ids):
        self.scene_ids = scene_ids

    def __len__(self):
        return len(self.scene_ids)

    def __getitem__(self, key):
        return torch.tensor(key)


def read(sampler, dataset, batch_size=8):
    loader = DataLoader(dataset, batch_size=batch_size, sampler=sampler, num_workers=1, drop_last=True)
    return [batch[:, 0].tolist() for batch in loader]


def main(folder: Path, rank: int, world: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{folder}/meeting', rank=rank, world_size=world)
    shared = Keys(np.arange(150) // 3)
    sampler = GroupSampler(shared, 4, seed=None)  # the ranks agree on a seed
    local = Keys(np.arange(40 + 13 * rank) // 2)  # shards of different size
    local_sampler = GroupSampler(local, 4, seed=1, local_data=True)
    result = dict(seed=sampler.seed, shared=read(sampler, shared), local=read(local_sampler, local))
    (folder / f'rank{rank}.json').write_text(json.dumps(result))
    dist.destroy_process_group()


if __name__ == '__main__':
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
