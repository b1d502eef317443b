"""What every pretext task shares: encoder, decoder, seeded masks, and the way MMEngine's Runner calls them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.model import BaseModel
from torch import Tensor

from mixedae.functional import patchify, unpatchify
from mixedae.functional.losses import patch_statistics
from mixedae.models.decoder import Decoder
from mixedae.models.encoder import Encoder


class Pretrainer(BaseModel):
    """Base of :class:`MixedAE` and :class:`MAE`.

    ``mode='loss'`` gives the losses of a batch, ``'tensor'`` the tokens of whole, unmixed images, ``'predict'`` what
    :meth:`reconstruct` returns.

    Masks depend on nothing but (``seed``, ``step``, rank): the same seed gives the same run and a resumed run goes on
    with the masks it would have had. :class:`mixedae.engine.PretrainMeterHook` sets both from the Runner; used alone,
    the model counts its own steps. A step draws the masks of the next one on the CPU while the device is busy with its
    own forward pass, so that the next need not wait for them.

    Args:
        encoder: arguments of :class:`mixedae.models.encoder.Encoder`.
        decoder: arguments of :class:`mixedae.models.decoder.Decoder`; None builds none.
        norm_pix: normalise the targets per patch.
        seed: of the masks.
        data_preprocessor: MMEngine's, scales pixels of 0..255 to mean 0 and variance 1.
        init_cfg: MMEngine's.
    """

    def __init__(
        self,
        encoder: dict,
        decoder: dict | None = None,
        norm_pix: bool = True,
        seed: int = 0,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.encoder = Encoder(**encoder)
        self.decoder = None
        if decoder is not None:
            patch_dim = self.encoder.patch_size**2 * self.encoder.in_channels
            self.decoder = Decoder(self.encoder.embed_dim, self.encoder.grid, patch_dim, **decoder)
        self.norm_pix = norm_pix
        self.seed = seed
        self.step = 0
        self.rank: int | None = None  # of the process whose masks are drawn; None: this one
        self._ahead: tuple[Any, Tensor | None] = (None, None)  # masks drawn ahead, with what they are for
        self.measure = False  # the meter hook switches it on for the iterations that it wants measured
        self.meters: dict[str, Tensor] = {}

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = 'tensor') -> Any:
        """MMEngine's entry; ``inputs`` ``(B, 3, H, W)``, normalised. ``data_samples`` is not used: no label leaks."""
        if mode == 'loss':
            losses = self.loss(inputs)
            self.step += 1
            self._ahead = self._key(len(inputs)), self.draw(len(inputs))
            return losses
        if mode == 'predict':
            return self.reconstruct(inputs)
        if mode == 'tensor':
            return self.extract(inputs)
        raise ValueError(f"mode must be 'loss', 'predict' or 'tensor', not '{mode}'.")

    def loss(self, images: Tensor) -> dict[str, Tensor]:
        """Losses of a batch of normalised images ``(B, 3, H, W)``, for MMEngine's ``parse_losses``."""
        raise TypeError(f'{type(self).__name__} defines no pretext task: use mixedae.MixedAE or mixedae.MAE.')

    def reconstruct(self, images: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """What the decoder makes of a batch, for people to look at."""
        raise TypeError(f'{type(self).__name__} defines no pretext task: use mixedae.MixedAE or mixedae.MAE.')

    def extract(self, images: Tensor) -> Tensor:
        """Tokens of whole images after the final LayerNorm: ``(B, 3, H, W)`` to ``(B, 1 + L, D)``, [CLS] first."""
        tokens = self.encoder.embed(self.cut(images)) + self.encoder.pos_embed[:, 1:]
        return self.encoder.norm(self.encoder(tokens))

    def cut(self, images: Tensor) -> Tensor:
        """Checks the size of images ``(B, C, H, W)`` and cuts them into patches ``(B, L, P*P*C)``."""
        if tuple(images.shape[-2:]) != self.encoder.img_size:
            raise ValueError(
                f'The model was built for images of {self.encoder.img_size} px (height, width) and got '
                f'{tuple(images.shape[-2:])}: make img_size of the encoder and size of the dataset equal.'
            )
        return patchify(images, self.encoder.patch_size)

    def generator(self) -> torch.Generator:
        """The source of this step's masks, on CPU."""
        rank = get_rank() if self.rank is None else self.rank
        state = np.random.SeedSequence([self.seed, self.step, rank]).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(state[0]) >> 1)

    def draw(self, batch_size: int) -> Tensor:
        """The masks of this step for a batch of so many images, on the CPU."""
        raise TypeError(f'{type(self).__name__} defines no pretext task: use mixedae.MixedAE or mixedae.MAE.')

    def drawn(self, images: Tensor) -> Tensor:
        """The masks of this step for images ``(B, 3, H, W)``, on their device; those drawn ahead if they are these."""
        (key, masks), self._ahead = self._ahead, (None, None)
        if key != self._key(len(images)):
            masks = self.draw(len(images))
        return masks.to(images.device, non_blocking=True)

    def _key(self, batch_size: int) -> tuple[int, ...]:
        """All that masks depend on."""
        return batch_size, self.seed, self.step, get_rank() if self.rank is None else self.rank

    def to_images(self, pred: Tensor, target: Tensor, known: Tensor) -> Tensor:
        """Predicted patches as images, the known ones pasted in.

        Args:
            pred: ``(B, L, P*P*C)``; with ``norm_pix`` in units of each target patch's mean and deviation.
            target: the true patches, the same shape.
            known: ``(B, L)`` bool, patches that the encoder has seen of this image.

        Returns:
            ``(B, C, H, W)`` in normalised pixels.
        """
        pred = pred.to(target.dtype)
        if self.norm_pix:
            mean, std = patch_statistics(target)
            pred = pred * std + mean
        return unpatchify(torch.where(known.unsqueeze(-1), target, pred), self.encoder.patch_size, self.encoder.grid)
