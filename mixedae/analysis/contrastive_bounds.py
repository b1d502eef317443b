"""Two marks on the scale of the homologous contrastive loss (Eq 7): its floor, and where nothing is told apart."""

from __future__ import annotations

import math


def contrastive_floor(num_patches: int, group_size: int, temperature: float = 0.25) -> float:
    """Least value of the loss with separate positives; no features reach less.

    ``ln(m - 1 + (L - m) * exp(-g / (g - 1) / τ))`` with m = L / g patches of each image. The mean over positives and
    Jensen's inequality (exp over the positives of an anchor, log-sum-exp over the anchors) leave at least
    ``ln(m - 1 + (L - m) * exp((n - p) / τ))``, where p and n are the mean similarities of positive and negative pairs.
    p is at most 1. The sum of all L unit vectors has a length of at least 0, so n is then at least -1 / (g - 1).
    Reached by features that are one corner of a simplex for each image.

    Args:
        num_patches: L.
        group_size: g.
        temperature: τ.
    """
    own = num_patches // group_size
    apart = math.exp(-group_size / (group_size - 1) / temperature)
    return math.log(own - 1 + (num_patches - own) * apart)


def contrastive_uniform(num_patches: int) -> float:
    """The loss of features that are all alike: ln(L - 1), each other patch as likely as the next. No upper bound."""
    return math.log(num_patches - 1)
