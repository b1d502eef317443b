"""Building blocks that pre-training and transfer share."""

from mixedae.layers.attention import Attention
from mixedae.layers.block import Block
from mixedae.layers.pos_embed import resample_pos_embed, sincos_pos_embed

__all__ = ['Attention', 'Block', 'resample_pos_embed', 'sincos_pos_embed']
