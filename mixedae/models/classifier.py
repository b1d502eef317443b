"""``mixedae.Classifier``: fine-tuning and linear probe on labelled images, without mmpretrain."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from mmengine.model import BaseModel
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from torch import Tensor, nn

from mixedae.registry import MODELS


@MODELS.register_module()
class Classifier(BaseModel):
    """Mean of the patch tokens, a norm, a linear layer.

    The paper's fine-tuning averages the patch tokens: the backbone's last map is averaged over its places, as in MAE's
    code with ``global_pool``. With ``norm='LN'`` (fine-tuning) the average goes through a LayerNorm of its own; with
    ``norm='BN'`` (linear probe) through a batch norm without scale and shift, as in MAE's linear probe.

    Args:
        backbone: config of ``mixedae.MixedAEViT`` with the last block in ``out_indices``.
        num_classes: number of classes.
        norm: ``'LN'`` or ``'BN'``.
        mixup: arguments of ``timm.data.Mixup`` (``mixup_alpha``, ``cutmix_alpha``, ...), for training; None for none.
            Its draws come from NumPy's generator, which MMEngine seeds.
        label_smoothing: for training.
        init_std: deviation of the linear layer's initial weights (MAE: 2e-5 for fine-tuning, 0.01 for the probe).
        data_preprocessor: MMEngine's, scales pixels of 0..255 to mean 0 and variance 1.
        init_cfg: MMEngine's.
    """

    def __init__(
        self,
        backbone: dict,
        num_classes: int = 1000,
        norm: str = 'LN',
        mixup: dict | None = None,
        label_smoothing: float = 0.0,
        init_std: float = 2e-5,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.backbone = MODELS.build(backbone)
        dim = self.backbone.embed_dim
        if norm not in ('LN', 'BN'):
            raise ValueError(f"norm must be 'LN' (fine-tuning) or 'BN' (linear probe), not '{norm}'.")
        self.norm = nn.LayerNorm(dim, eps=1e-6) if norm == 'LN' else nn.BatchNorm1d(dim, affine=False, eps=1e-6)
        self.head = nn.Linear(dim, num_classes)
        nn.init.trunc_normal_(self.head.weight, std=init_std)
        nn.init.zeros_(self.head.bias)
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.mixup = None
        if mixup is not None:
            self.mixup = Mixup(**mixup, label_smoothing=label_smoothing, num_classes=num_classes)

    def forward(self, inputs: Tensor, data_samples: dict[str, Tensor] | None = None, mode: str = 'tensor') -> Any:
        """MMEngine's entry.

        Args:
            inputs: images ``(B, 3, H, W)``, normalised.
            data_samples: ``dict(label=(B,))``.
            mode: ``'tensor'`` logits ``(B, classes)``; ``'loss'`` dict; ``'predict'`` a list of one
                ``dict(scores=(classes,), label=())`` for each image.
        """
        if mode == 'loss':
            return self.loss(inputs, data_samples['label'])
        logits = self.head(self.norm(self.features(inputs)))
        if mode == 'tensor':
            return logits
        if mode == 'predict':
            labels = data_samples['label'] if data_samples else [None] * len(logits)
            return [dict(scores=scores, label=label) for scores, label in zip(logits.float().softmax(-1), labels)]
        raise ValueError(f"mode must be 'loss', 'predict' or 'tensor', not '{mode}'.")

    def features(self, images: Tensor) -> Tensor:
        """Mean of the last map over its places: ``(B, D)``."""
        return self.backbone(images)[-1].flatten(2).mean(2)

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross entropy, with mixup on mixed targets; mixup needs an even batch."""
        if self.mixup is not None:
            if len(images) % 2:
                raise ValueError(f'Mixup pairs images and needs an even batch, not {len(images)}.')
            images, targets = self.mixup(images.clone(), labels)  # (B, classes)
            logits = self.head(self.norm(self.features(images)))
            return dict(loss=SoftTargetCrossEntropy()(logits, targets))
        logits = self.head(self.norm(self.features(images)))
        accuracy = (logits.detach().argmax(1) == labels).float().mean() * 100
        return dict(loss=F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing), accuracy=accuracy)
