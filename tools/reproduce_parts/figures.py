"""Small figures of results.json: one dot for each run, a tick at the mean of each variant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from mixedae.visualization.figure import FAINT, INK, SERIES, new_figure
from tools.reproduce_parts.claims import by_seed
from tools.reproduce_parts.tables import MEASURES, TRANSFER, present
from tools.reproduce_parts.variants import VARIANTS


def transfer_figure(runs: Sequence[Mapping], columns: int = 3) -> Figure | None:
    """A panel for each measure of transfer that any run has; None if there is none."""
    shown = [name for name in TRANSFER if any(name in run['metrics'] for run in runs)]
    if not shown:
        return None
    variants = present(runs)
    columns = min(columns, len(shown))
    rows = -(-len(shown) // columns)
    figure = new_figure(2.3 + 2.1 * columns, rows * (0.7 + 0.24 * len(variants)))
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in panels.flat[len(shown) :]:
        axes.set_axis_off()
    for axes, name in zip(panels.flat, shown):
        for row, variant in enumerate(variants):
            values = list(by_seed(runs, variant, name).values())
            if values:
                colour = SERIES[1 if variant == 'mixedae' else 0]
                axes.plot(values, [row] * len(values), 'o', color=colour, markersize=4, alpha=0.7)
                axes.plot([sum(values) / len(values)], [row], '|', color=INK, markersize=11, markeredgewidth=1.6)
        axes.set_title(MEASURES[name], fontsize=9, color=INK)
        axes.set_yticks(range(len(variants)), [VARIANTS[variant].title for variant in variants])
        axes.set_ylim(len(variants) - 0.5, -0.5)
        axes.grid(axis='x', color=FAINT, linewidth=0.7)
        axes.tick_params(colors=INK, length=0, labelsize=8)
        for side in ('top', 'right', 'left'):
            axes.spines[side].set_visible(False)
        axes.spines['bottom'].set_color(FAINT)
    return figure
