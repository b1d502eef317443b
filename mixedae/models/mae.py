"""The baseline: masked autoencoder (He et al., CVPR 2022), in the same code."""

from __future__ import annotations

import torch
from torch import Tensor

from mixedae.functional.losses import patch_errors
from mixedae.functional.positions import positions_of, take
from mixedae.models.pretrainer import Pretrainer
from mixedae.registry import MODELS


@MODELS.register_module()
class MAE(Pretrainer):
    """Masked autoencoder: the encoder sees the visible patches alone, the decoder predicts the masked ones.

    Args:
        encoder: arguments of :class:`mixedae.models.encoder.Encoder`.
        decoder: arguments of :class:`mixedae.models.decoder.Decoder`.
        mask_ratio: share of the patches that is masked.
        norm_pix: normalise the targets per patch.
        seed: of the masks.
        data_preprocessor: MMEngine's.
        init_cfg: MMEngine's.
    """

    def __init__(
        self,
        encoder: dict,
        decoder: dict | None = None,
        mask_ratio: float = 0.75,
        norm_pix: bool = True,
        seed: int = 0,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(encoder, decoder or {}, norm_pix, seed, data_preprocessor, init_cfg)
        self.num_visible = int(self.encoder.num_patches * (1 - mask_ratio))
        if not 0 < self.num_visible < self.encoder.num_patches:
            raise ValueError(
                f'mask_ratio {mask_ratio} leaves {self.num_visible} of {self.encoder.num_patches} patches visible: '
                f'some must be visible and some masked.'
            )

    def draw_visible(self, batch_size: int, generator: torch.Generator, device: torch.device | str) -> Tensor:
        """Which patches each image shows: ``(B, V)`` int64 patch numbers, uniform without replacement."""
        noise = torch.rand(batch_size, self.encoder.num_patches, generator=generator, dtype=torch.float64)
        return noise.argsort(dim=1)[:, : self.num_visible].to(device, non_blocking=True)

    def draw(self, batch_size: int) -> Tensor:
        """Visible patches ``(B, V)`` of this step, on the CPU."""
        return self.draw_visible(batch_size, self.generator(), 'cpu')

    def loss(self, images: Tensor, visible: Tensor | None = None) -> dict[str, Tensor]:
        """Reconstruction loss of a batch.

        Args:
            images: ``(B, 3, H, W)``, normalised.
            visible: ``(B, V)`` int64 patch numbers; drawn for this step if None.

        Returns:
            ``loss_recon``, the error over the masked patches.
        """
        patches = self.cut(images)  # (B, L, P*P*C)
        if visible is None:
            visible = self.drawn(images)
        wanted = positions_of(self.masked(visible), self.encoder.num_patches - visible.shape[1])  # (B, L - V)
        pred = self.predict(patches, visible, wanted)
        return {'loss_recon': patch_errors(pred, take(patches, wanted), self.norm_pix).mean()}

    def masked(self, visible: Tensor) -> Tensor:
        """Visible patch numbers ``(B, V)`` to ``(B, L)`` bool, True where a patch is masked."""
        everything = torch.ones(len(visible), self.encoder.num_patches, dtype=torch.bool, device=visible.device)
        return everything.scatter(1, visible, False)

    def predict(self, patches: Tensor, visible: Tensor, wanted: Tensor | None = None) -> Tensor:
        """Predicts patches from the visible ones.

        Args:
            patches: ``(B, L, P*P*C)``.
            visible: ``(B, V)`` int64 patch numbers.
            wanted: ``(B, U)`` int64, the patches to predict; None: all.

        Returns:
            ``(B, U, P*P*C)``, or ``(B, L, P*P*C)`` of all.
        """
        seen = take(patches, visible)  # (B, V, P*P*C)
        tokens = self.encoder.embed(seen) + self.encoder.pos_embed[0, 1:][visible]
        embedded = self.decoder.embed(self.encoder.norm(self.encoder(tokens)))  # (B, 1 + V, width)
        width = embedded.shape[-1]
        sequence = self.decoder.mask_token.to(embedded.dtype).expand(*patches.shape[:2], width)
        sequence = sequence.scatter(1, visible.unsqueeze(-1).expand(-1, -1, width), embedded[:, 1:])  # (B, L, width)
        return self.decoder(sequence, embedded[:, :1], wanted)

    @torch.no_grad()
    def reconstruct(self, images: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Masks and reconstructs a batch.

        Args:
            images: ``(B, 3, H, W)``, normalised.
            generator: of the masks; the current step's if None.

        Returns:
            ``masked (B, L)`` bool and ``predicted (B, 3, H, W)``, visible patches pasted in; pixels are normalised.
        """
        patches = self.cut(images)
        visible = self.draw_visible(len(images), generator or self.generator(), images.device)
        masked = self.masked(visible)
        predicted = self.to_images(self.predict(patches, visible), patches, ~masked)
        return {'masked': masked, 'predicted': predicted}
