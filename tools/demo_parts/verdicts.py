"""Sentences about a run, made from its figures and from nothing else."""

from __future__ import annotations

# One run with one seed: a difference below this many points of AP or mIoU is called a tie.
TIE_POINTS = 1.0

Verdict = tuple[str, str, str]  # kind (good, even, bad, note), headline, sentence


def verdicts(metrics: dict) -> list[Verdict]:
    """Verdicts from the content of metrics.json: pre-training loss, TopK accuracy, detection, segmentation."""
    found = [loss_verdict(metrics['pretrain']), accuracy_verdict(metrics['pretrain'])]
    if metrics.get('detection'):
        found.append(start_verdict('Detection', 'box AP', metrics['detection'], 'bbox_mAP', scale=100))
    if metrics.get('segmentation'):
        found.append(start_verdict('Segmentation', 'mIoU', metrics['segmentation'], 'mIoU', scale=1))
    return found


def loss_verdict(pretrain: dict) -> Verdict:
    first, last = pretrain['loss_first'], pretrain['loss_last']
    change = f'from {first:.3f} to {last:.3f}'
    if last < 0.95 * first:
        return (
            'good',
            'The pre-training loss fell',
            f'It went {change}, {1 - last / first:.0%} lower than at the start.',
        )
    if last <= first:
        return 'even', 'The pre-training loss hardly fell', f'It went {change}: the budget is too small for more.'
    return (
        'bad',
        'The pre-training loss rose',
        f'It went {change}: something is wrong; look at the learning rate first.',
    )


def accuracy_verdict(pretrain: dict) -> Verdict:
    """TopK accuracy: the last layer decides; where it lags behind the layers before it, the sentence says so."""
    layers, chance = pretrain['topk_acc_per_layer'], pretrain['chance']
    last, mean, best = layers[-1], sum(layers) / len(layers), max(layers)
    figures = (
        f'Of the keys that a patch keeps, {last:.1%} are of its own image in the last layer, {mean:.1%} in the mean of '
        f'all layers, {best:.1%} in layer {layers.index(best) + 1}; chance is {chance:.0%}.'
    )
    if last >= 1.2 * chance:
        return 'good', 'Patches find the patches of their own image', figures
    if mean >= 1.2 * chance:
        return 'even', 'Patches find the patches of their own image, but not in the last layer', figures
    if last >= 1.05 * chance:
        return 'even', 'Patches find their own image a little more often than by chance', figures
    if last > chance:
        return 'even', 'Patches do not find the patches of their own image yet', figures
    return 'bad', 'Patches do not find the patches of their own image', figures


def start_verdict(task: str, name: str, results: dict, key: str, scale: float) -> Verdict:
    """Compare the two starts. `scale` turns the stored value into points (AP is stored as 0..1, mIoU as 0..100)."""
    pretrained, scratch = results['pretrained'][key] * scale, results['scratch'][key] * scale
    gain = round(pretrained - scratch, 1) + 0.0  # as the page shows it; + 0.0 turns -0.0 into 0.0
    figures = (
        f'From the pre-trained checkpoint {name} is {pretrained:.1f}, from scratch {scratch:.1f}, '
        'with the same budget and seed.'
    )
    if gain >= TIE_POINTS:
        return 'good', f'{task}: the pre-trained start is ahead by {gain:.1f} points', figures
    if gain <= -TIE_POINTS:
        return 'bad', f'{task}: the start from scratch is ahead by {-gain:.1f} points', figures
    return (
        'even',
        f'{task}: no clear difference ({gain:+.1f} points)',
        f'{figures} One seed cannot tell such a gap from chance.',
    )
