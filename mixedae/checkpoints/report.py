"""What happened to every name of a checkpoint and of a backbone, in a few lines."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class LoadReport:
    """What happened to every name of the checkpoint and of the backbone.

    Attributes:
        source: where the weights came from.
        format: name of the recognised format.
        loaded: names in the backbone that got their weight from the checkpoint, resampled ones included, with the names
            in the file that it was made of.
        resampled: of those, the names whose weight was resampled, with old and new size.
        left_out: names in the checkpoint that have no place in the backbone, with the reason.
        missing: names in the backbone that the checkpoint does not have; they keep their initial weight.
        notes: what else was done or should be known.
    """

    source: str
    format: str
    loaded: dict[str, tuple[str, ...]] = field(default_factory=dict)
    resampled: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f'{self.source}: {self.format}, {len(self.loaded)} weights loaded into the backbone']
        by_change: dict[str, list[str]] = {}
        for name, change in self.resampled.items():
            by_change.setdefault(change, []).append(name)
        lines += [f'  resampled: {summary(names)} {change}' for change, names in by_change.items()]
        lines += [f'  note: {note}' for note in self.notes]
        by_reason: dict[str, list[str]] = {}
        for name, reason in self.left_out.items():
            by_reason.setdefault(reason, []).append(name)
        lines += [f'  left out, {reason}: {summary(names)}' for reason, names in by_reason.items()]
        if self.missing:
            lines.append(f'  missing, keep their initial values: {summary(self.missing)}')
        return '\n'.join(lines)


def summary(names: list[str], most: int = 8) -> str:
    """Names by their first part, with counts: ``encoder.segment_embed, decoder.* (99)``."""
    names = [readable(name) for name in names]
    counts = Counter(name.split('.')[0] for name in names)
    whole = {name.split('.')[0]: name for name in names}
    parts = [whole[part] if count == 1 else f'{part}.* ({count})' for part, count in counts.items()]
    return ', '.join(parts[:most]) + (f' and {len(parts) - most} more' if len(parts) > most else '')


def readable(text: str, most: int = 200) -> str:
    """Text of a file for a terminal or a page: no control characters, no endless line."""
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= most else f'{text[:most]}...'
