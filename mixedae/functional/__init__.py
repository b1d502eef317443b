"""The method as pure functions: patches, mixing, homologous attention, losses and meters.

The models in :mod:`mixedae.models` are built of these same functions.
"""

from mixedae.functional.attention import topk_attention, topk_keep_mask
from mixedae.functional.losses import homologous_contrastive_loss, normalize_patches, reconstruction_loss
from mixedae.functional.meters import own_image_attention, own_key_accuracy, topk_accuracy
from mixedae.functional.mixing import draw_mixing_mask, mix, unmix
from mixedae.functional.patches import patchify, unpatchify

__all__ = [
    'draw_mixing_mask',
    'homologous_contrastive_loss',
    'mix',
    'normalize_patches',
    'own_image_attention',
    'own_key_accuracy',
    'patchify',
    'reconstruction_loss',
    'topk_accuracy',
    'topk_attention',
    'topk_keep_mask',
    'unmix',
    'unpatchify',
]
