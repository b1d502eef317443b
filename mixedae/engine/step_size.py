"""Has a step of the optimiser as many images as the config's learning rate was made for?

``auto_scale_lr.base_batch_size`` says how many images one forward pass takes on the stated GPUs: that is what MMEngine
compares with batch x processes when ``enable=True``, and it does not see gradients that are added up. Our configs that
add up also say there over how many passes (``auto_scale_lr.accumulative_counts``, which MMEngine does not read), so the
rate is for the product of both.
"""

from __future__ import annotations

import math

from mmengine.config import Config


def check_step_size(cfg: Config, processes: int = 1) -> str | None:
    """A warning if a step has another number of images than the rate is for; None if not, or if nothing says so.

    Args:
        cfg: the config as it will be run.
        processes: that train together.
    """
    scale, wrapper = cfg.get('auto_scale_lr') or {}, cfg.get('optim_wrapper') or {}
    batch = (cfg.get('train_dataloader') or {}).get('batch_size')
    base = scale.get('base_batch_size')
    if scale.get('enable') or not base or not batch:
        return None
    wanted = base * scale.get('accumulative_counts', 1)
    parts = wrapper.get('accumulative_counts', 1)
    images = batch * processes * parts
    if images == wanted:
        return None
    rate = (wrapper.get('optimizer') or {}).get('lr')
    named = '' if rate is None else f' {rate:g}'
    remedies = []
    if wanted % (batch * processes) == 0:
        remedies.append(
            f'optim_wrapper.accumulative_counts={wanted // (batch * processes)} (then iterations are parts of a step)'
        )
    if rate is not None:
        other = rate * math.sqrt(images / wanted)
        remedies.append(f'optim_wrapper.optimizer.lr={other:.2g} (by the square root of the ratio; untuned)')
    advice = f': set {", or ".join(remedies)}' if remedies else ''
    return (
        f'{images} image{"s" * (images > 1)} a step ({batch} a process x {processes} x {parts} added up), but the '
        f'learning rate{named} is for {wanted}{advice}.'
    )
