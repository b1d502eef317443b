"""Small models and inputs for the tests of the pretext tasks."""

import oracles
import torch

from mixedae.models import MAE, MixedAE

SIZES = dict(embed_dim=16, depth=3, num_heads=2)
DECODER = dict(embed_dim=8, depth=2, num_heads=2)


def randomise(model, seed=0):
    """Every parameter away from its initial value (biases 0, scales 1), so that none can be forgotten."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = 0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.copy_(noise + (1 if 'norm' in name and name.endswith('weight') else 0))
    return model.eval()


def small_encoder(height=16, width=24, patch_size=4, **options):
    return dict(arch=SIZES, img_size=(height, width), patch_size=patch_size) | options


def small_mixedae(encoder=None, decoder=None, weights=0, **options) -> MixedAE:
    """A float64 MixedAE of width 16 on 4 x 6 patches, weights random."""
    model = MixedAE(encoder=small_encoder(**(encoder or {})), decoder=dict(DECODER, **(decoder or {})), **options)
    return randomise(model.double(), weights)


def small_mae(encoder=None, decoder=None, weights=0, **options) -> MAE:
    """A float64 MAE, like :func:`small_mixedae`."""
    model = MAE(encoder=small_encoder(**(encoder or {})), decoder=dict(DECODER, **(decoder or {})), **options)
    return randomise(model.double(), weights)


def batch(model, groups=2, seed=0):
    """Images (B, 3, H, W) float64, B = groups of the model's size."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(groups * model.group_size, 3, *model.encoder.img_size, generator=generator).double()


def masks(model, groups=2, seed=0):
    """Balanced masks (G, V, L), drawn by the oracle."""
    import numpy as np

    rng = np.random.default_rng(seed)
    shape = (groups, model.mixes_per_group, model.encoder.num_patches)
    drawn = oracles.random_mask(rng, shape[0] * shape[1], shape[2], model.group_size)
    return torch.from_numpy(drawn).view(shape)


def numpy_state(model):
    return {name: value.detach().numpy() for name, value in model.state_dict().items()}
