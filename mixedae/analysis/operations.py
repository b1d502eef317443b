"""How much a pre-training step computes and stores, counted from the shapes.

Multiply-adds of the forward pass for *one source image* (backward takes about twice as many again). A linear map of N
tokens from a to b counts N·a·b, attention of N queries and M keys of width D counts 2·N·M·D. Norms, activations and
softmax are left out, as usual. Selecting the K best keys multiplies nothing: its comparisons are counted apart.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from mixedae.models import MAE, MixedAE

PASSES = 13
"""Comparisons of a score until its row's K-th largest is found by halving: the mean of 18,816 rows of 196 normal
scores with K = 49, seed 0, was 12.8."""


@dataclass(frozen=True)
class Operations:
    """Multiply-adds for each part, of one source image; their sum is :attr:`total`.

    Attributes:
        embed: patch embedding.
        encoder: blocks.
        contrastive: projector and similarities of the homologous contrastive loss.
        decoder_embed: from the encoder's width to the decoder's.
        decoder: blocks.
        predict: from the decoder's width to pixels.
        comparisons: of the TopK selection; not multiply-adds.
        parameters: of the whole model, frozen tables left out.
    """

    embed: float
    encoder: float
    contrastive: float
    decoder_embed: float
    decoder: float
    predict: float
    comparisons: float
    parameters: int

    @property
    def total(self) -> float:
        return self.embed + self.encoder + self.contrastive + self.decoder_embed + self.decoder + self.predict

    @property
    def training(self) -> float:
        """Forward and backward: two products for each of forward's, but pixels need no gradient."""
        return 3 * self.total - self.embed

    @property
    def state_bytes(self) -> int:
        """Weights, gradients and AdamW's two moments in float32."""
        return 16 * self.parameters


def count_operations(model: MixedAE | MAE) -> Operations:
    """Counts a pre-training model, MixedAE in both modes or MAE.

    Raises:
        TypeError: another kind of model.
    """
    if not isinstance(model, (MixedAE, MAE)):
        raise TypeError(f'Operations are counted for mixedae.MixedAE and mixedae.MAE, not for {type(model).__name__}.')
    encoder, decoder = model.encoder, model.decoder
    length, dim = encoder.num_patches, encoder.embed_dim
    if isinstance(model, MAE):
        seen, mixes, contrastive = model.num_visible, 1.0, 0.0
        sequences, wanted = 1.0, length - seen  # decoder sequences for one source image, patches that each predicts
    else:
        seen, mixes = length, model.mixes_per_group / model.group_size  # mixed sequences for one source image
        sequences, wanted = mixes * model.group_size, length - length // model.group_size
        width = model.projector.out_features if model.projector is not None else 0
        contrastive = mixes * (length * dim * width + length * length * width)
    patch = encoder.patch_size**2 * encoder.in_channels
    tokens = 1 + seen
    blocks = sum(count_block(block, tokens) for block in encoder.blocks)
    selecting = sum(block.attn.num_heads for block in encoder.blocks if block.attn.topk_ratio is not None)
    decode = dict(decoder_embed=0.0, decoder=0.0, predict=0.0)
    if decoder is not None:
        inner = decoder.embed.out_features
        decoded = length + int(decoder.use_cls)
        *others, last = decoder.blocks
        one_sequence = sum(count_block(block, decoded) for block in others) + count_block(last, decoded, wanted)
        decode = dict(
            decoder_embed=mixes * tokens * dim * inner,
            decoder=sequences * one_sequence,
            predict=sequences * wanted * inner * patch,
        )
    return Operations(
        embed=mixes * seen * patch * dim,
        encoder=mixes * blocks,
        contrastive=contrastive,
        comparisons=mixes * selecting * PASSES * seen * seen,
        parameters=sum(p.numel() for p in model.parameters()),
        **decode,
    )


def count_block(block: nn.Module, tokens: int, wanted: int | None = None) -> float:
    """Multiply-adds of a transformer block on ``tokens``, of which the output of ``wanted`` is computed (None: all)."""
    dim, hidden = block.mlp.fc1.in_features, block.mlp.fc1.out_features
    wanted = tokens if wanted is None else wanted
    keys_and_values = tokens * 2 * dim * dim
    return keys_and_values + wanted * (2 * dim * dim + 2 * dim * hidden) + 2 * wanted * tokens * dim
