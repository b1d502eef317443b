"""The pretext task of MixedAE: group, mix, encode, recognise, unmix, decode."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixedae.functional import (
    draw_mixing_mask,
    homologous_contrastive_loss,
    mix,
    own_image_attention,
    topk_accuracy,
    unmix,
    unpatchify,
)
from mixedae.functional.losses import patch_errors
from mixedae.functional.mixing import check_mixing, own_positions
from mixedae.functional.positions import positions_of, take
from mixedae.layers import Block
from mixedae.models.pretrainer import Pretrainer
from mixedae.registry import MODELS


@MODELS.register_module()
class MixedAE(Pretrainer):
    """Mixed autoencoder (CVPR 2023); the loss is ``reconstruction + 0.1 * homologous contrastive`` (Eq 8).

    The baselines are settings of it: *naive mixing* ``segment_embed=False, topk_ratio=None, contrastive_weight=0``;
    *attention only* ``contrastive_weight=0``; *contrastive only* ``topk_ratio=None``; *contrastive without
    reconstruction* ``reconstruction_weight=0``.

    Args:
        encoder: arguments of :class:`mixedae.models.encoder.Encoder` (``arch``, ``img_size``, ``patch_size``,
            ``global_layers``, ``cls``, ...).
        decoder: arguments of :class:`mixedae.models.decoder.Decoder` (``embed_dim``, ``depth``, ``num_heads``).
        mixing_ratio: r = 1/g, share of the patches that each image of a group owns in a mix.
        mode: ``'compose'``, one mix for each group; ``'full'``, g independent mixes for each group.
        topk_ratio: K / L of homologous attention; None leaves it out.
        segment_embed: add a learned vector for each source image to its patch tokens.
        contrastive_weight: 0 leaves the loss and its projector out.
        temperature: τ of the contrastive loss.
        contrastive_dim: width of the contrastive features.
        contrastive_features: ``'after_norm'`` or ``'before_norm'``, the final LayerNorm.
        positives: ``'separate'`` or ``'averaged'``, see :func:`homologous_contrastive_loss`.
        reconstruction_weight: 0 leaves the decoder out.
        decoder_cls: give [CLS] of the mix to each of its decoder sequences.
        norm_pix: normalise the targets per patch.
        seed: of the mixing masks.
        data_preprocessor: MMEngine's.
        init_cfg: MMEngine's.
    """

    def __init__(
        self,
        encoder: dict,
        decoder: dict | None = None,
        mixing_ratio: float = 0.25,
        mode: str = 'compose',
        topk_ratio: float | None = 0.25,
        segment_embed: bool = True,
        contrastive_weight: float = 0.1,
        temperature: float = 0.25,
        contrastive_dim: int = 128,
        contrastive_features: str = 'after_norm',
        positives: str = 'separate',
        reconstruction_weight: float = 1.0,
        decoder_cls: bool = True,
        norm_pix: bool = True,
        seed: int = 0,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        group_size = round(1 / mixing_ratio) if mixing_ratio > 0 else 0
        if group_size < 2 or abs(group_size * mixing_ratio - 1) > 1e-3:
            raise ValueError(f'mixing_ratio must be 1/2, 1/3, 1/4, ..., not {mixing_ratio}.')
        if mode not in ('compose', 'full'):
            raise ValueError(f"mode must be 'compose' or 'full', not '{mode}'.")
        if contrastive_features not in ('after_norm', 'before_norm'):
            raise ValueError(
                f"contrastive_features must be 'after_norm' or 'before_norm', not '{contrastive_features}'."
            )
        if positives not in ('separate', 'averaged'):
            raise ValueError(f"positives must be 'separate' or 'averaged', not '{positives}'.")
        if not temperature > 0:
            raise ValueError(f'temperature must be above 0, not {temperature}.')
        if not contrastive_weight and not reconstruction_weight:
            raise ValueError('contrastive_weight and reconstruction_weight are both 0: nothing to learn.')
        _refuse_own(encoder, 'encoder', dict(topk_ratio='topk_ratio', num_segments='segment_embed'))
        _refuse_own(decoder or {}, 'decoder', dict(use_cls='decoder_cls'))
        encoder = dict(encoder, topk_ratio=topk_ratio, num_segments=group_size if segment_embed else 0)
        decoder = dict(decoder or {}, use_cls=decoder_cls) if reconstruction_weight else None
        super().__init__(encoder, decoder, norm_pix, seed, data_preprocessor, init_cfg)
        check_mixing(self.encoder.num_patches, group_size)
        if contrastive_weight and self.encoder.num_patches == group_size:
            raise ValueError(
                f'Each image owns one of {group_size} patches and has no positive: set contrastive_weight=0, a larger '
                f'mixing_ratio or more patches.'
            )
        self.group_size = group_size
        self.mode = mode
        self.contrastive_weight = contrastive_weight
        self.temperature = temperature
        self.contrastive_features = contrastive_features
        self.positives = positives
        self.reconstruction_weight = reconstruction_weight
        self.projector = nn.Linear(self.encoder.embed_dim, contrastive_dim) if contrastive_weight else None
        if self.decoder is None and contrastive_features == 'before_norm':
            self.encoder.norm.requires_grad_(False)  # nothing uses it; distributed training stops at such parameters

    @property
    def mixes_per_group(self) -> int:
        """V, how many mixed sequences a group makes: 1 (compose) or g (full)."""
        return self.group_size if self.mode == 'full' else 1

    def draw_mask(self, num_groups: int, generator: torch.Generator, device: torch.device | str) -> Tensor:
        """Mixing masks ``(G, V, L)`` of a batch."""
        mask = draw_mixing_mask(
            num_groups * self.mixes_per_group,
            self.encoder.num_patches,
            self.group_size,
            generator=generator,
            device=device,
        )
        return mask.unflatten(0, (num_groups, self.mixes_per_group))

    def draw(self, batch_size: int) -> Tensor:
        """Mixing masks ``(G, V, L)`` of this step, on the CPU."""
        return self.draw_mask(batch_size // self.group_size, self.generator(), 'cpu')

    def loss(self, images: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            images: ``(B, 3, H, W)``, normalised; each g consecutive images are a group.
            mask: mixing masks ``(G, V, L)``; drawn for this step if None.

        Returns:
            ``loss_recon`` and ``loss_contrastive``, weighted, and ``contrastive``, the raw value of Eq 7.

        Raises:
            ValueError: B is no multiple of g, or the image size is not the model's.
        """
        patches = self.group(images)  # (G, g, L, P*P*C)
        if mask is None:
            mask = self.drawn(images)
        x = self.encode(mix(patches, mask).flatten(0, 1), mask.flatten(0, 1))  # (S, 1 + L, D), S = G*V
        normed = self.encoder.norm(x)
        losses = {}
        if self.decoder is not None:
            wanted = self.unseen(mask.flatten(0, 1))  # (S, g, L - L/g), what the loss is about (Eq 4)
            pred = self.decode(normed, mask.flatten(0, 1), wanted)  # (S, g, L - L/g, P*P*C)
            errors = patch_errors(pred, self.targets(patches, wanted), self.norm_pix)
            losses['loss_recon'] = self.reconstruction_weight * errors.mean()
        if self.projector is not None:
            features = normed if self.contrastive_features == 'after_norm' else x
            contrastive = homologous_contrastive_loss(
                self.projector(features[:, 1:]), mask.flatten(0, 1), self.temperature, self.positives
            )
            losses['loss_contrastive'] = self.contrastive_weight * contrastive
            losses['contrastive'] = contrastive.detach()
        return losses

    def group(self, images: Tensor) -> Tensor:
        """Images ``(B, 3, H, W)`` to the patches of their groups ``(G, g, L, P*P*C)``."""
        if len(images) % self.group_size or not len(images):
            raise ValueError(
                f'A batch of {len(images)} images cannot be split into groups of {self.group_size}: make batch_size of '
                f'train_dataloader a multiple of {self.group_size} and set drop_last=True.'
            )
        return self.cut(images).unflatten(0, (-1, self.group_size))

    def encode(self, mixed: Tensor, mask: Tensor) -> Tensor:
        """Mixed patches ``(S, L, P*P*C)`` with masks ``(S, L)`` to tokens ``(S, 1 + L, D)`` before the last norm."""
        tokens = self.encoder.embed(mixed) + self.encoder.pos_embed[:, 1:]
        if self.encoder.segment_embed is not None:
            tokens = tokens + F.embedding(mask, self.encoder.segments())  # its backward is faster than indexing's
        if not self.measure:
            return self.encoder(tokens)
        probe = HomologyProbe(mask, round(self.encoder.num_patches / self.group_size))
        x = self.encoder(tokens, probe)
        self.meters = probe.meters()
        return x

    def unseen(self, mask: Tensor) -> Tensor:
        """Masks ``(S, L)`` to the numbers of the patches of each image that are not in the mix: ``(S, g, L - L/g)``."""
        length = mask.shape[-1]
        return positions_of(~own_positions(mask, self.group_size), length - length // self.group_size)

    def targets(self, patches: Tensor, wanted: Tensor) -> Tensor:
        """The wanted ``(S, g, U)`` of the patches ``(G, g, L, P*P*C)``: ``(S, g, U, P*P*C)``, S = G*V."""
        wanted = wanted.unflatten(0, (-1, self.mixes_per_group)).transpose(1, 2)  # (G, g, V, U)
        taken = take(patches, wanted.flatten(2)).unflatten(2, wanted.shape[2:])
        return taken.transpose(1, 2).flatten(0, 1)

    def decode(self, tokens: Tensor, mask: Tensor, wanted: Tensor | None = None) -> Tensor:
        """Predicts patches of every image.

        Args:
            tokens: ``(S, 1 + L, D)``, of the mixes, after the final LayerNorm.
            mask: ``(S, L)`` int64, the mixing masks.
            wanted: ``(S, g, U)`` int64, the patches to predict; None: all.

        Returns:
            ``(S, g, U, P*P*C)``, or ``(S, g, L, P*P*C)`` of all.
        """
        embedded = self.decoder.embed(tokens)  # (S, 1 + L, width)
        cls_token = embedded[:, :1].repeat_interleave(self.group_size, 0)
        sequences = unmix(embedded[:, 1:], mask, self.group_size, self.decoder.mask_token)  # (S, g, L, width)
        wanted = None if wanted is None else wanted.flatten(0, 1)
        return self.decoder(sequences.flatten(0, 1), cls_token, wanted).unflatten(0, (-1, self.group_size))

    @torch.no_grad()
    def reconstruct(self, images: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Mixes each group once and reconstructs its images.

        Args:
            images: ``(B, 3, H, W)``, normalised; B is a multiple of g.
            generator: of the mixing masks; the current step's if None.

        Returns:
            ``mask (G, L)``, ``mixed (G, 3, H, W)``, and, unless there is no decoder, ``predicted (B, 3, H, W)``, with
            the patches that each image had in the mix pasted in; pixels are normalised.
        """
        patches = self.group(images)
        mask = self.draw_mask(len(patches), generator or self.generator(), images.device)[:, 0]  # (G, L)
        mixed = mix(patches, mask)
        result = {'mask': mask, 'mixed': unpatchify(mixed, self.encoder.patch_size, self.encoder.grid)}
        if self.decoder is not None:
            pred = self.decode(self.encoder.norm(self.encode(mixed, mask)), mask)
            own = own_positions(mask, self.group_size)
            result['predicted'] = self.to_images(pred.flatten(0, 1), patches.flatten(0, 1), own.flatten(0, 1))
        return result


def _refuse_own(part: dict, name: str, options: dict[str, str]) -> None:
    """Options of encoder and decoder that the method sets: an own value there would be lost in silence."""
    for key, option in options.items():
        if key in part:
            raise ValueError(f'{name}.{key} is set by the method: leave it out and set {option} of mixedae.MixedAE.')


class HomologyProbe:
    """Measures in every block how well patches find their own image; see :mod:`mixedae.functional.meters`.

    Args:
        mask: ``(S, L)``, the mixing masks.
        topk: keys counted in the blocks that are global.
    """

    def __init__(self, mask: Tensor, topk: int) -> None:
        self.mask = mask
        self.topk = topk
        self.accuracy: list[Tensor] = []
        self.attention: list[Tensor] = []

    @torch.no_grad()
    def __call__(self, number: int, block: Block, x: Tensor) -> None:
        q, k, _ = block.attn.project_qkv(block.norm1(x))
        kept = block.attn.num_kept(x.shape[1])
        self.accuracy.append(topk_accuracy(q, k, self.mask, kept or self.topk, cls=block.attn.cls).mean())
        self.attention.append(own_image_attention(q, k, self.mask, kept, cls=block.attn.cls).mean())
        # Autocast keeps the weights that were cast here, without gradients; torch 2.1 takes them again in the block
        # itself, whose q, k, v weights would then get no gradient.
        torch.clear_autocast_cache()

    def meters(self) -> dict[str, Tensor]:
        """``topk_acc`` and ``own_attention``, each ``(depth,)``, the mean over heads."""
        return {'topk_acc': torch.stack(self.accuracy), 'own_attention': torch.stack(self.attention)}
