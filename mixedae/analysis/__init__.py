"""Looking into what pre-training has learned: TopK accuracy by layer, [CLS] attention, mutual information of mixing;
and what it costs.

Not imported by :mod:`mixedae` itself: analysis needs the data package and matplotlib, training does not.
"""

from mixedae.analysis.cls_attention import box_shares, cls_attention, concentration
from mixedae.analysis.gaussian import conditional_information, information, mixing_information, pair_covariance
from mixedae.analysis.inputs import ImageSet, load_images, load_model, normalise
from mixedae.analysis.mutual_information import (
    PAIR_KINDS,
    crop_pairs,
    estimate_mixing,
    pair_windows,
    patch_features,
    shrunk_covariance,
)
from mixedae.analysis.operations import Operations, count_operations
from mixedae.analysis.topk_accuracy import LayerAccuracy, accuracy_along_training, layer_accuracy

__all__ = [
    'PAIR_KINDS',
    'ImageSet',
    'LayerAccuracy',
    'Operations',
    'accuracy_along_training',
    'box_shares',
    'cls_attention',
    'concentration',
    'conditional_information',
    'count_operations',
    'crop_pairs',
    'estimate_mixing',
    'information',
    'layer_accuracy',
    'load_images',
    'load_model',
    'mixing_information',
    'normalise',
    'pair_covariance',
    'pair_windows',
    'patch_features',
    'shrunk_covariance',
]
