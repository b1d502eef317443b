"""Models: the pretext tasks and the backbone and necks that carry the result to detection and segmentation."""

from mixedae.models.archs import ARCHS, Arch, get_arch
from mixedae.models.backbone import MixedAEViT
from mixedae.models.classifier import Classifier
from mixedae.models.decoder import Decoder
from mixedae.models.encoder import Encoder
from mixedae.models.mae import MAE
from mixedae.models.mixedae import MixedAE
from mixedae.models.necks import Float32Maps, LayerNorm2d, MapNorm, MultiBlockPyramid, SimpleFeaturePyramid
from mixedae.models.pretrainer import Pretrainer

__all__ = [
    'ARCHS',
    'MAE',
    'Arch',
    'Classifier',
    'Decoder',
    'Encoder',
    'Float32Maps',
    'LayerNorm2d',
    'MapNorm',
    'MixedAE',
    'MixedAEViT',
    'MultiBlockPyramid',
    'Pretrainer',
    'SimpleFeaturePyramid',
    'get_arch',
]
