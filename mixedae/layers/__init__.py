"""Building blocks that pre-training and transfer share."""

from mixedae.layers.attention import Attention
from mixedae.layers.block import Block
from mixedae.layers.padding import padded_patches, real_grids
from mixedae.layers.pos_embed import resample_pos_embed, sincos_pos_embed
from mixedae.layers.precision import at_least_float32
from mixedae.layers.rel_pos import SharedBiasTable, resample_bias_table, table_bias, table_size
from mixedae.layers.spatial_attention import SpatialAttention

__all__ = [
    'Attention',
    'Block',
    'SharedBiasTable',
    'SpatialAttention',
    'at_least_float32',
    'padded_patches',
    'real_grids',
    'resample_bias_table',
    'resample_pos_embed',
    'sincos_pos_embed',
    'table_bias',
    'table_size',
]
