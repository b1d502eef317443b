"""mmpretrain's own MAE, where mmpretrain is installed: the same sizes, its own code."""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

PACKAGES = ('mmpretrain', 'onedl-mmpretrain')


def build(arch: str, size: int, decoder: tuple[int, int, int]) -> Any:
    """Its MAE at mask ratio 0.75 with normalised targets, as in its config ``mae_vit-base-p16``.

    Args:
        arch: a name of :data:`mixedae.models.archs.ARCHS`.
        size: side of the images in pixels.
        decoder: width, depth and heads.

    Raises:
        ImportError: mmpretrain cannot be imported; the message is a sentence that says why.
    """
    from mixedae.models import get_arch

    models = imported()
    width, depth, heads = get_arch(arch)
    inner, layers, inner_heads = decoder
    patches = (size // 16) ** 2
    model = models.build(
        dict(
            type='mmpretrain.MAE',
            backbone=dict(
                type='mmpretrain.MAEViT',
                arch=dict(embed_dims=width, num_layers=depth, num_heads=heads, feedforward_channels=4 * width),
                img_size=size,
                patch_size=16,
                mask_ratio=0.75,
            ),
            neck=dict(
                type='mmpretrain.MAEPretrainDecoder',
                num_patches=patches,
                patch_size=16,
                embed_dim=width,
                decoder_embed_dim=inner,
                decoder_depth=layers,
                decoder_num_heads=inner_heads,
            ),
            head=dict(
                type='mmpretrain.MAEPretrainHead',
                norm_pix=True,
                loss=dict(type='mmpretrain.PixelReconstructionLoss', criterion='L2'),
            ),
        )
    )
    logging.disable(logging.INFO)  # it names every parameter
    model.init_weights()
    logging.disable(logging.NOTSET)
    return model


def imported() -> Any:
    """mmpretrain's registry of models.

    Raises:
        ImportError: see :func:`build`.
    """
    try:
        with without_transformers():
            importlib.import_module('mmpretrain')
        return importlib.import_module('mmpretrain.registry').MODELS
    except Exception as error:  # whatever its own imports meet in this environment
        raise ImportError(
            f"mmpretrain's MAE was not measured: mmpretrain cannot be imported here ({type(error).__name__}: {error})."
        ) from error


@contextlib.contextmanager
def without_transformers() -> Iterator[None]:
    """Hides the distribution transformers: its version 5 breaks mmpretrain's multimodal models, and so its import."""
    with contextlib.ExitStack() as stack:
        for name in ('importlib.metadata', 'importlib_metadata'):  # the forks look in the one, mmpretrain in the other
            with contextlib.suppress(ImportError):
                module = importlib.import_module(name)
                stack.callback(setattr, module, 'distribution', module.distribution)
                module.distribution = functools.partial(_distribution, module.distribution)
        yield


def _distribution(real: Callable[[str], Any], name: str) -> Any:
    if name == 'transformers':
        raise metadata.PackageNotFoundError(name)
    return real(name)
