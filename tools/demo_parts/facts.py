"""The figures of a run's pre-training, for metrics.json."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mixedae.visualization.curves import Curve


def pretrain_figures(scalars: Mapping[str, Curve], group_size: int = 4) -> dict[str, object]:
    """Figures of pre-training from its scalars.

    `loss_first` and `loss_last` are means of the total loss over the first and last twentieth of the log (one line at
    least); accuracies are means over the last three measurements.
    """
    loss = scalars['loss'][1]
    span = max(1, len(loss) // 20)
    layers = sorted(name for name in scalars if name.startswith('topk_acc/layer_'))
    accuracy = [round(float(np.mean(scalars[name][1][-3:])), 4) for name in layers]
    return {
        'loss_first': round(float(loss[:span].mean()), 4),
        'loss_last': round(float(loss[-span:].mean()), 4),
        'topk_acc_last_layer': accuracy[-1],
        'topk_acc_per_layer': accuracy,
        'chance': 1 / group_size,
    }
