"""Rank of each mixture, merged against trained, a panel a seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from scipy.stats import rankdata

from studies.mergemix.figures import OVERALL, Result, columns, correlation


def draw_ranks(results: Sequence[Result], output: Path) -> None:
    """Write the picture."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(4.2 * len(results), 4.2), layout="constrained")
    for axes, result in zip(figure.subplots(1, len(results), squeeze=False)[0], results, strict=True):
        merged, trained = (rankdata(-columns(result[side])[OVERALL]) for side in ("merged", "trained"))
        axes.plot([1, len(merged)], [1, len(merged)], color="0.8", zorder=0)
        axes.scatter(merged, trained, color="#0072b2")
        for name, x, y in zip(result["checked"], merged, trained, strict=True):
            axes.annotate(name, (x, y), xytext=(4, 4), textcoords="offset points", fontsize=6)
        axes.set_title(f"seed {result['seed']}: Spearman {correlation(result)[OVERALL]:.2f}", fontsize=9)
        axes.set_xlabel("rank of the merge, by utility")
        axes.set_ylabel("rank of the trained model")
        axes.set_xlim(0, 1.35 * len(merged))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.savefig(output, dpi=110)
