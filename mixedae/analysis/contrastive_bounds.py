"""Between which values the homologous contrastive loss (Eq 7) can lie."""

from __future__ import annotations

import math


def contrastive_floor(num_patches: int, group_size: int, temperature: float = 0.25) -> float:
    r"""Least value of the loss with separate positives; no features reach less.

    With m = L / g patches of each image, the mean over positives and Jensen's inequality (exp over the positives of an
    anchor, log-sum-exp over the anchors) leave at least
    :math:`\ln\big(m - 1 + (L - m)\, e^{(\bar s_- - \bar s_+) / \tau}\big)`, where the bars are mean similarities of
    negative and positive pairs. The positive one is at most 1. The sum of all L unit vectors has a length of at least
    0, so the negative one is then at least -1 / (g - 1). Reached by features that are one corner of a simplex for each
    image.

    Args:
        num_patches: L.
        group_size: g.
        temperature: τ.
    """
    own = num_patches // group_size
    apart = math.exp(-group_size / (group_size - 1) / temperature)
    return math.log(own - 1 + (num_patches - own) * apart)


def contrastive_uniform(num_patches: int) -> float:
    """The loss of features that are all alike: ln(L - 1), each other patch as likely as the next."""
    return math.log(num_patches - 1)
