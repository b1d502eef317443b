"""Looking into what pre-training has learned: TopK accuracy by layer, [CLS] attention, kNN, linear probe and RankMe of
frozen features, mutual information of mixing; and what it costs.

Not imported by :mod:`mixedae` itself: analysis needs the data package and matplotlib, training does not.
"""

from mixedae.analysis.cls_attention import all_global, box_shares, cls_attention, concentration
from mixedae.analysis.contrastive_bounds import contrastive_floor, contrastive_uniform
from mixedae.analysis.frozen_features import FrozenFeatures, frozen_features, labelled_batches, spaced
from mixedae.analysis.gaussian import conditional_information, information, mixing_information, pair_covariance
from mixedae.analysis.inputs import ImageSet, load_images, load_model, normalise
from mixedae.analysis.knn import knn_accuracy
from mixedae.analysis.linear_probe import LinearProbe, linear_probe
from mixedae.analysis.mutual_information import (
    PAIR_KINDS,
    crop_pairs,
    estimate_mixing,
    pair_windows,
    patch_features,
    shrunk_covariance,
)
from mixedae.analysis.operations import Operations, count_operations
from mixedae.analysis.patch_attention import block_attention, patch_attention
from mixedae.analysis.pictures import pretraining_rows
from mixedae.analysis.rankme import rankme
from mixedae.analysis.topk_accuracy import LayerAccuracy, accuracy_along_training, layer_accuracy

__all__ = [
    'PAIR_KINDS',
    'FrozenFeatures',
    'ImageSet',
    'LayerAccuracy',
    'LinearProbe',
    'Operations',
    'accuracy_along_training',
    'all_global',
    'block_attention',
    'box_shares',
    'cls_attention',
    'concentration',
    'conditional_information',
    'contrastive_floor',
    'contrastive_uniform',
    'count_operations',
    'crop_pairs',
    'estimate_mixing',
    'frozen_features',
    'information',
    'knn_accuracy',
    'labelled_batches',
    'layer_accuracy',
    'linear_probe',
    'load_images',
    'load_model',
    'mixing_information',
    'normalise',
    'pair_covariance',
    'pair_windows',
    'patch_attention',
    'patch_features',
    'pretraining_rows',
    'rankme',
    'shrunk_covariance',
    'spaced',
]
